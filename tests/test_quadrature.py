"""Running costs against closed forms, their error control, and the rule for schemes of parts."""

import pytest
import torch

from odeframe import Flow
from odeframe.costs import KineticEnergy, RunningCost
from odeframe.errors import InvalidOption
from odeframe.jacobian_costs import LogDensity
from odeframe.quadrature import Quadrature, columns
from odeframe.testing.accuracy import fitted_slope
from odeframe.testing.problems import Coupled, Liouville
from problems import Linear, Logistic, Rotation, batch

TIGHT = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}
SOLVERS = [{"name": "rk4", "steps": 100}, TIGHT]
A = torch.tensor([[-0.3, 1.0, 0.2], [-1.1, 0.2, 0.0], [0.4, -0.5, -0.6]], dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS, ids=["rk4", "dopri5"])
def test_kinetic_energy_of_a_rotation(solver):
    x0, dynamics = batch(4, 2), Rotation(1.3)
    flow = Flow(dynamics, solver=solver, horizon=(0.0, 2.0), quadratures=[KineticEnergy()])
    solution = flow.solve(x0, (0.0, 0.7, 2.0))
    energy = solution.quadratures["kinetic_energy"]
    speed = 0.5 * 1.3**2 * x0.square().sum(1)
    assert energy.shape == (3, 4)
    for t, value in zip((0.0, 0.7, 2.0), energy, strict=True):
        assert torch.allclose(value, speed * t, atol=1e-8)
    assert torch.allclose(solution.final, dynamics.exact(2.0, x0), atol=1e-7), "the state is what it is without a cost"


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("solver", SOLVERS, ids=["rk4", "dopri5"])
def test_log_density_of_a_linear_flow(solver, mode):
    flow = Flow(Linear(A), solver=solver, quadratures=[LogDensity()])
    with mode():
        solution = flow.solve(batch(5, 3))
    assert torch.allclose(solution.quadratures["log_density"][-1], -A.trace().expand(5), atol=1e-9)
    assert solution.states.requires_grad is (mode is torch.enable_grad)


def test_log_density_is_the_log_determinant_of_the_flow():
    torch.manual_seed(0)
    word = {"name": "rk4", "steps": 24}
    flow, x0 = Flow(Coupled(), solver=word, quadratures=[LogDensity()]), batch(2, 4)
    change = flow.solve(x0).quadratures["log_density"][-1]
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x, i=i: flow(x[None])[0], x0[i])
        assert torch.allclose(change[i], -torch.linalg.slogdet(jacobian)[1], atol=1e-7)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_log_density_is_differentiated(gradient):
    matrix = A.clone()
    flow = Flow(Linear(matrix), solver=TIGHT, gradient=gradient, quadratures=[LogDensity()])
    flow.solve(batch(5, 3)).quadratures["log_density"][-1].sum().backward()
    assert torch.allclose(flow.dynamics.matrix.grad, -5 * torch.eye(3, dtype=torch.float64), atol=1e-8)


def test_a_field_without_the_state_has_no_divergence():
    class Shift(Rotation):
        def forward(self, t, x, u=None):
            return self.omega.expand_as(x)

    class Still(Rotation):
        def forward(self, t, x, u=None):
            return torch.zeros_like(x)

    for dynamics in (Shift(), Still()):
        solution = Flow(dynamics, quadratures=[LogDensity()]).solve(batch(2, 2))
        assert torch.equal(solution.quadratures["log_density"], torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 4, 4), (0, 2), (0,)], ids=str)
@pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 20}, "dopri5"], ids=["rk4", "dopri5"])
def test_states_of_any_shape(solver, shape):
    dynamics, x0 = Logistic(), 0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)
    costs = [KineticEnergy(), LogDensity(), RunningCost(lambda t, x: columns(x).sum(1))]
    solution = Flow(dynamics, solver=solver, quadratures=costs).solve(x0)
    assert solution.final.shape == shape
    assert torch.allclose(solution.final, dynamics.exact(1.0, x0), atol=1e-4)
    for name in ("kinetic_energy", "log_density", "running_cost"):
        assert solution.quadratures[name].shape == (2, shape[0])
    # components do not mix: log |dx(T)/dx(0)| is the sum of the logs of x (1 - x) at T over that at 0
    ratio = torch.log((solution.final * (1 - solution.final)) / (x0 * (1 - x0)))
    assert torch.allclose(solution.quadratures["log_density"][-1], -columns(ratio).sum(1), atol=1e-3)


def test_names_and_order_do_not_mix():
    first = RunningCost(lambda t, x: torch.ones(len(x), dtype=x.dtype), weight=2.0, name="time")
    flow = Flow(Rotation(), quadratures=[KineticEnergy(0.5), first], horizon=(0.0, 2.0))
    solution = flow.solve(batch(3, 2))
    assert torch.allclose(solution.quadratures["time"][-1], torch.full((3,), 2.0, dtype=torch.float64))
    energy = solution.quadratures["kinetic_energy"][-1]
    assert torch.allclose(flow.running_cost(solution), 4 + 0.5 * energy), "weights go with their own cost"
    with pytest.raises(InvalidOption, match="two have the name 'time'"):
        Flow(Rotation(), quadratures=[first, first])
    with pytest.raises(InvalidOption, match=r"expected odeframe\.Quadrature"):
        Flow(Rotation(), quadratures=[lambda t, x: x])


def test_the_error_norm_sees_the_costs_that_ask_for_it():
    """A cost that oscillates fast makes the steps short if it is controlled, and changes nothing if not."""

    class Fast(Quadrature):
        def __init__(self, in_error_norm):
            self.in_error_norm = in_error_norm

        def rate(self, t, x, dx):
            return torch.cos(60 * t) + 0 * x[:, 0]

    plain = Flow(Logistic(), solver="dopri5").solve(0.5 + 0 * batch(2, 2))
    counts = {}
    for controlled in (True, False):
        solution = Flow(Logistic(), solver="dopri5", quadratures=[Fast(controlled)]).solve(0.5 + 0 * batch(2, 2))
        counts[controlled] = solution.stats.accepted
        if controlled:
            exact = torch.sin(torch.tensor(60.0, dtype=torch.float64)) / 60
            assert torch.allclose(solution.quadratures["cost"][-1], exact.expand(2), atol=1e-5)
        else:
            assert torch.allclose(solution.states, plain.states, atol=1e-14)
    assert counts[False] == plain.stats.accepted < counts[True]


@pytest.mark.parametrize(("solver", "order"), [("symplectic_euler", 1), ("verlet", 2), ("yoshida4", 4)])
def test_schemes_of_parts_integrate_costs_beside_them(solver, order):
    """The trapezoidal rule up to order 2, Simpson's with the Hermite midpoint above: the cost keeps the order."""
    cost, x0 = RunningCost(lambda t, x: Liouville.pace(t) * x[:, 1]), Liouville.start()
    errors, counts = [], [16, 32, 64]
    for steps in counts:
        solution = Flow(Liouville(), solver={"name": solver, "steps": steps}, quadratures=[cost]).solve(x0)
        way = (Liouville.exact(x0, Liouville.clock(1.0)) - x0)[:, 0]
        errors.append(float((solution.quadratures["running_cost"][-1] - way).detach().abs().max()))
    assert abs(fitted_slope(counts, errors) - order) <= 0.2, errors
