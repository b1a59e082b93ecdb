"""The schemes that residual networks brought: momentum, projection, trained Runge-Kutta coefficients."""

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, InvalidOption
from odeframe.testing import SolverConformance
from problems import Rotation


class TestMomentum(SolverConformance):
    solver = "momentum"


@pytest.mark.slow
class TestMomentumFromRest(SolverConformance):
    solver = {"name": "momentum", "start": "rest"}


class TestProjectedEuler(SolverConformance):
    solver = "projected_euler"
    test_solving_back_returns = None  # what the projection cuts off does not come back: see below


class TestTrainedRungeKutta(SolverConformance):
    solver = {"name": "trained_runge_kutta", "method": "heun"}


@pytest.mark.slow
class TestTrainedClassicalMethod(SolverConformance):
    solver = "trained_runge_kutta"


@pytest.mark.slow
class TestUntiedRungeKutta(SolverConformance):
    solver = {"name": "trained_runge_kutta", "method": "midpoint", "untied": True}


@pytest.mark.slow
class TestTextbookCoefficients(SolverConformance):
    solver = {"name": "trained_runge_kutta", "method": "ssprk3", "trainable": False}


X0 = torch.tensor([[0.9, -0.4], [0.2, 1.1]], dtype=torch.float64)


def momentum_error(gamma, steps):
    field = Rotation()
    flow = Flow(field, solver={"name": "momentum", "gamma": gamma, "steps": steps})
    return float((flow(X0) - field.exact(torch.tensor(1.0), X0)).abs().max())


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_momentum_has_order_one_and_lags_by_its_memory(gamma):
    errors = [momentum_error(gamma, steps) for steps in (400, 800, 1600)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_the_mean_behind_momentum_moves_like_euler():
    """``x + h v g / (1 - g)`` moves by ``h f(x)``."""
    flow, h, g = Flow(Rotation(), solver={"name": "momentum", "gamma": 0.8, "steps": 10}), 0.1, 0.8
    law = flow.field().on(*torch.tensor([0.0, 0.1], dtype=torch.float64))
    x, memory = X0, (torch.tensor([[0.3, 0.1], [-0.2, 0.5]], dtype=torch.float64),)
    after, (velocity,) = flow.solver.step(law, law.t, h, x, memory)
    before = x + h * g / (1 - g) * memory[0]
    torch.testing.assert_close(after + h * g / (1 - g) * velocity - before, h * law(law.t, x), rtol=0, atol=1e-14)


class Pull(odeframe.Dynamics):
    """``x_1' = -1``, ``x_2' = 1``, of as many parameters as it has components."""

    def forward(self, t, x, u=None):
        return torch.ones_like(x) * torch.tensor([-1.0, 1.0], dtype=x.dtype)


def test_projected_euler_is_the_projected_system_and_not_the_field_s():
    """``x_1' = -1`` from 0.3 stays at 0 once it is there: at no step count does it come near -0.7."""
    x0 = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    for steps in (10, 1000):
        x = Flow(Pull(), solver={"name": "projected_euler", "steps": steps})(x0)
        torch.testing.assert_close(x, torch.tensor([[0.0, 1.0]], dtype=torch.float64), rtol=0, atol=1e-12)
    inside = Flow(Pull(), solver={"name": "projected_euler", "steps": 10}, horizon=(0.0, 0.2))(x0)
    torch.testing.assert_close(inside, torch.tensor([[0.1, 0.2]], dtype=torch.float64), rtol=0, atol=1e-12)


def test_trained_coefficients_start_from_the_textbook_and_keep_consistency():
    flow = Flow(Rotation(), solver={"name": "trained_runge_kutta", "method": "rk4", "steps": 5})
    assert (
        torch.equal(flow(X0), Flow(Rotation(), solver={"name": "runge_kutta", "method": "rk4", "steps": 5})(X0))
        or (flow(X0) - Flow(Rotation(), solver={"name": "rk4", "steps": 5})(X0)).abs().max() <= 1e-15
    )
    solver = flow.control.block.solver
    with torch.no_grad():
        solver.p.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(0))
        solver.q.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(1))
    weights = solver.coefficients(X0)[1]
    assert float(sum(weights)) == pytest.approx(1, abs=1e-12)
    errors = []
    for steps in (40, 80, 160):
        solver.steps = flow.solver.steps = steps
        errors.append(float((flow(X0) - Rotation().exact(torch.tensor(1.0), X0)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15), "whatever is trained, the order stays 1"
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.15)


def test_untied_stages_are_blocks_of_their_own():
    torch.manual_seed(0)
    block = nn.Linear(2, 2).double()
    flow = Flow(block, solver={"name": "trained_runge_kutta", "method": "heun", "untied": True, "steps": 1})
    f, g = (slot.module for slot in flow.control.block.slots)
    assert not torch.equal(f.weight, g.weight)
    x = X0 + (f(X0) + g(X0 + f(X0))) / 2
    torch.testing.assert_close(flow(X0), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ({"name": "momentum", "gamma": 1.0}, "option gamma"),
        ({"name": "momentum", "gamma": 0.0}, "euler"),
        ({"name": "momentum", "start": "soon"}, "got start='soon'"),
        ({"name": "trained_runge_kutta", "method": "rk5"}, "Did you mean 'rk4'"),
        ({"name": "trained_runge_kutta", "method": "euler"}, "expected one of"),
    ],
)
def test_wrong_options_are_named(word, text):
    with pytest.raises(InvalidOption, match=text):
        odeframe.registry.word("solver", word).build()


@pytest.mark.parametrize("solver", ["projected_euler", "trained_runge_kutta"])
def test_the_adjoint_refuses_what_is_no_field(solver):
    with pytest.raises(odeframe.Incompatible, match="partitioned"):
        Flow(Rotation(), solver=solver, gradient="adjoint")
