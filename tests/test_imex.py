"""Implicit-explicit schemes: their orders, what they are stable for, and IMEXnet's layer."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, SemilinearDynamics
from odeframe.testing import SolverConformance


class TestSemiImplicitEuler(SolverConformance):
    solver = "imex_euler"


class TestARS222(SolverConformance):
    solver = "ars222"


class Stiff(SemilinearDynamics):
    """``x' = -l x + cos(t) sin(x)`` with a rate for each component."""

    def __init__(self, rates, forced=True):
        super().__init__()
        self.register_buffer("rates", torch.tensor(rates, dtype=torch.float64))
        self.forced = forced

    def matvec(self, x):
        return self.rates * x

    def solve_shifted(self, dt, rhs):
        return rhs / (1 + dt * self.rates)

    def nonlinear(self, t, x, u=None):
        return torch.cos(t) * torch.sin(x) if self.forced else torch.zeros_like(x)


SCHEMES = ("imex_euler", "ars222")


@pytest.mark.parametrize("solver", SCHEMES)
def test_stable_where_forward_euler_is_not(solver):
    """h l = 1000, 500 times Euler's bound: the factors of a step are those of the scheme."""
    x0 = torch.ones(1, 2, dtype=torch.float64)
    x = Flow(Stiff([1e3, 1e4], forced=False), solver={"name": solver, "steps": 10}, horizon=(0, 10))(x0)
    gamma = 1 - 1 / math.sqrt(2)
    for i, z in enumerate((1e3, 1e4)):
        factor = 1 / (1 + z) if solver == "imex_euler" else (1 - (1 - 2 * gamma) * z) / (1 + gamma * z) ** 2
        assert float(x[0, i]) == pytest.approx(factor**10, rel=1e-9)
        assert abs(factor) < 3 / z * 10
    with pytest.raises(odeframe.SolveFailed):
        Flow(Stiff([1e3, 1e40], forced=False), solver={"name": "euler", "steps": 100}, horizon=(0, 1000))(x0)


@pytest.mark.parametrize("solver", SCHEMES)
def test_a_stiff_part_costs_no_accuracy_of_the_slow_one(solver):
    """The slow component is that of a solve without the stiff one beside it."""
    x0 = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    pair = Flow(Stiff([0.1, 1e6]), solver={"name": solver, "steps": 40}, horizon=(0, 4))(x0)
    alone = Flow(Stiff([0.1]), solver={"name": solver, "steps": 40}, horizon=(0, 4))(x0[:, :1])
    exact = odeframe.solve(Stiff([0.1]), x0[:, :1], (0, 4), "rk4", steps=400).final
    assert float((pair[:, :1] - alone).abs()) < 1e-14
    assert float((alone - exact).abs()) < (0.05 if solver == "imex_euler" else 2e-3)


@pytest.mark.parametrize("solver", SCHEMES)
def test_other_dynamics_are_refused_by_name(solver):
    with pytest.raises(odeframe.Incompatible, match="semilinear"):
        Flow(nn.Linear(2, 2), solver=solver)
    assert "imex_conv" in odeframe.compatible("dynamics", solver=solver)
    assert "adjoint" not in odeframe.compatible("gradient", solver=solver)


def image_field(dtype=torch.float64, **options):
    torch.manual_seed(0)
    return odeframe.build("dynamics", "imex_conv", width=3, **options).to(dtype)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 1)], ids=str)
def test_convolution_is_symmetric_positive_semi_definite(size):
    """<a, L b> = <L a, b> and <a, L a> = |B a|^2, with B a circular convolution written out."""
    field = image_field()
    a, b = torch.randn(2, 1, 3, *size, dtype=torch.float64)
    La, Lb = field.matvec(a), field.matvec(b)
    assert (a * Lb).sum().item() == pytest.approx((La * b).sum().item(), abs=1e-10)
    # The kernel's transform is conj(b): the same |b|^2 as that of the correlation which conv2d computes.
    taps = [(m, n) for m in range(3) for n in range(3)]
    Ba = sum(field.filter[:, m, n, None, None] * a.roll((1 - m, 1 - n), (-2, -1)) for m, n in taps)
    assert (a * La).sum().item() == pytest.approx(Ba.square().sum().item(), rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_residual_of_the_implicit_solve(dtype, scale):
    """||(I + h L) y - rhs|| / ||rhs|| is round-off, whatever the stiffness."""
    field, h = image_field(dtype), 0.7
    field.filter.data.mul_(scale)
    right = torch.randn(4, 3, 16, 16, dtype=dtype)
    y = field.solve_shifted(h, right)
    residual = (y + h * field.matvec(y) - right).norm() / right.norm()
    assert float(residual) < (1e-5 if dtype == torch.float32 else 1e-13)
    assert y.dtype == dtype


@pytest.mark.parametrize("solver", SCHEMES)
def test_one_layer_couples_all_pixels_of_a_channel(solver):
    """dY[i]/dY[j] != 0 for all pairs after one step; a residual step of two 3 x 3 convolutions reaches 5 x 5."""
    size = 8

    def influence(words):
        torch.manual_seed(1)
        flow = Flow(**words)

        def one_channel(pixels):
            x = torch.zeros(1, 2, size, size, dtype=torch.float64)
            return flow.double()(torch.cat([pixels.reshape(1, 1, size, size), x[:, 1:]], dim=1))[:, 0].flatten()

        return torch.autograd.functional.jacobian(one_channel, torch.randn(size**2, dtype=torch.float64)).abs()

    options = {"width": 2, "norm": "none"}
    full = influence({"dynamics": {"name": "imex_conv", **options}, "solver": {"name": solver, "steps": 1}})
    local = influence({"dynamics": {"name": "conv", **options}, "solver": {"name": "euler", "steps": 1}})
    assert float(full.min()) > 1e-12
    assert int((local > 0).sum(1).max()) <= 25


def test_compensated_field_is_the_block_alone():
    """IMEXnet's form: L only steadies the scheme, and the flow converges to that of F."""
    torch.manual_seed(2)
    flow = Flow({"name": "imex_conv", "width": 3, "compensate": True}, solver={"name": "ars222", "steps": 40}).double()
    x0 = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    exact = odeframe.solve(flow.dynamics.block, x0, (0, 1), "rk4", steps=80).final
    assert float((flow(x0) - exact).detach().abs().max()) < 2e-3
    step = Flow(flow.dynamics, solver={"name": "imex_euler", "steps": 1})(x0)
    field = flow.dynamics
    right = x0 + field.matvec(x0) + field.block(torch.tensor(0.0), x0)
    assert float((step + field.matvec(step) - right).detach().abs().max()) < 1e-12


def test_half_precision_and_pieces():
    flow = Flow({"name": "imex_conv", "width": 4}, "piecewise_constant", {"name": "imex_euler", "steps": 3})
    filters = [block.slots[0].filter for block in flow.control.blocks]
    assert not torch.equal(filters[0], filters[1])
    x = flow.bfloat16()(torch.randn(2, 4, 5, 5).bfloat16())
    assert x.dtype == torch.bfloat16 and bool(torch.isfinite(x).all())


def test_even_kernels_are_refused():
    with pytest.raises(odeframe.InvalidOption, match="odd"):
        odeframe.build("dynamics", "imex_conv", width=2, kernel=4)
