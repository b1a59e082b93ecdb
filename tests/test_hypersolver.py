"""A hypersolver: its order, what a fit does to its constant, and how it is trained."""

import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Dynamics, Flow
from odeframe.drive import ConstantDrive
from odeframe.testing import SolverConformance
from odeframe.testing.problems import Coupled, Ramp
from odeframe_plugins.solvers.hypersolver import HyperEuler, fit_hypersolver


class TestHyperEuler(SolverConformance):
    """Untrained it is Euler's method; its width is that of the problem at hand."""

    solver = {"name": "hyper_euler", "width": 2}
    width = 2

    def decaying(self, shape, dtype):
        dynamics, x0 = super().decaying(shape, dtype)
        self.width = x0.shape[1] if x0.dim() > 1 else 2
        return dynamics, x0

    def flow(self, dynamics, control="constant", **options):
        width = 4 if isinstance(dynamics, Coupled) else self.width
        return super().flow(dynamics, control, width=width, **options)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("shape", [(3, 2), (2, 4, 3, 3), (0, 2), (1, 2), (0, 4, 3, 3)], ids=str)
    def test_shape_dtype_and_device_are_kept(self, shape, dtype):
        super().test_shape_dtype_and_device_are_kept(shape, dtype)

    def test_needs_are_declared(self):
        self.width = 4
        super().test_needs_are_declared()


class Swirl(Dynamics):
    """A fixed nonlinear, non-autonomous field in the plane: what a trained model would be."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, 2, dtype=torch.float64))
        self.reset_parameters()

    def reset_parameters(self):
        self.weight.data.copy_(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t, x, u=None):
        return torch.tanh(x @ self.weight.T) * (1 + 0.3 * torch.cos(t)).reshape(-1, 1)


END, STEPS = 2.0, 20
GENERATOR = torch.Generator().manual_seed(5)
TRAINING, OTHERS = torch.randn(2, 64, 2, dtype=torch.float64, generator=GENERATOR)


def flow_of(steps=STEPS, control="constant"):
    torch.manual_seed(0)
    return Flow(Swirl(), control, {"name": "hyper_euler", "width": 2, "steps": steps}, horizon=(0, END)).double()


def errors(fitted, counts, start=OTHERS):
    """Mean distance to the exact end at other numbers of steps."""
    exact = odeframe.solve(Swirl(), start, (0, END), "dopri5", rtol=1e-10).final
    found = []
    for n in counts:
        flow = flow_of(n)
        flow.load_state_dict(fitted.state_dict())
        found.append(float((flow(start) - exact).norm(dim=1).mean().detach()))
    return found


def reference(solver, steps, start=OTHERS):
    exact = odeframe.solve(Swirl(), start, (0, END), "dopri5", rtol=1e-10).final
    return float(
        (odeframe.solve(Swirl(), start, (0, END), solver, steps=steps).final - exact).norm(dim=1).mean().detach()
    )


@pytest.fixture(scope="module")
def fitted():
    flow = flow_of()
    before = [p.clone() for p in flow.dynamics.parameters()]
    delta = fit_hypersolver(flow, TRAINING, iterations=400)
    assert all(torch.equal(a, b) for a, b in zip(before, flow.dynamics.parameters(), strict=True))
    assert all(p.grad is None for p in flow.parameters())
    return flow, delta


def test_untrained_is_eulers_method():
    assert errors(flow_of(), [STEPS])[0] == pytest.approx(reference("euler", STEPS), rel=1e-12)


def test_error_constant_falls_by_the_fit_ratio(fitted):
    """On new samples: within a factor 3 of delta times Euler's error at the step that was fitted."""
    flow, delta = fitted
    assert delta < 0.06
    ratio = errors(flow, [STEPS])[0] / reference("euler", STEPS)
    assert ratio < 3 * delta


def test_beats_euler_and_midpoint_at_equal_evaluations(fitted):
    """20 evaluations: 20 steps, or 10 of the midpoint rule."""
    flow, _ = fitted
    (found,) = errors(flow, [STEPS])
    assert flow.solve(OTHERS).stats.nfe == STEPS
    assert found < reference("midpoint", STEPS // 2) / 2 < reference("euler", STEPS) / 2


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
def test_order_stays_one(fitted, trained):
    """Whatever the net is: as h -> 0 the error is h times what the fit has left."""
    flow = fitted[0]
    if not trained:
        flow = flow_of()
        nn.init.normal_(flow.control.block.solver.net[-1].weight)
    found = errors(flow, (320, 640, 1280))
    assert abs(math.log2(found[0] / found[-1]) / 2 - 1) < 0.2


def test_far_from_what_it_was_fitted_on_it_is_no_better(fitted):
    """Ten times as far out the fitted term is worth little: the ratio to Euler's error is no longer delta's size."""
    flow, delta = fitted
    ratio = errors(flow, [STEPS], 10 * OTHERS)[0] / reference("euler", STEPS, 10 * OTHERS)
    assert ratio > 3 * delta


@pytest.mark.slow
def test_every_piece_has_a_net_of_its_own():
    flow = flow_of(4, "piecewise_constant")
    delta = fit_hypersolver(flow, TRAINING, iterations=200)
    weights = [block.solver.net[-1].weight for block in flow.control.blocks]
    assert len(weights) == 4 and all(float(w.detach().abs().max()) > 0 for w in weights)
    assert not torch.equal(weights[0], weights[1]) and delta < 0.5


def test_coefficients_are_trained_with_the_network_too():
    """Autograd through the steps reaches g_w, and equals central differences."""
    flow = Flow(nn.Linear(2, 2), solver={"name": "hyper_euler", "width": 2, "hidden": 3, "steps": 2}).double()
    nn.init.normal_(flow.control.block.solver.net[-1].weight)
    names, values = zip(*flow.named_parameters(), strict=True)

    def run(*parameters):
        return torch.func.functional_call(flow, dict(zip(names, parameters, strict=True)), (OTHERS[:2],))

    assert any("net" in name for name in names)
    assert torch.autograd.gradcheck(run, tuple(v.detach().clone().requires_grad_() for v in values))


def test_images_and_a_drive():
    """The net works at each pixel; the residuals are those of the driven field."""

    class Driven(Dynamics):
        def forward(self, t, x, u=None, drive=None):
            return drive - x**2

    torch.manual_seed(0)
    flow = Flow(Driven(), solver={"name": "hyper_euler", "width": 1, "steps": 4}).double()
    x0, drive = torch.rand(8, 1, 4, 4, dtype=torch.float64), ConstantDrive(torch.ones(8, 1, 4, 4, dtype=torch.float64))
    before = flow(x0, drive).detach()
    delta = fit_hypersolver(flow, x0, iterations=200, drive=drive)
    exact = Flow(Driven(), solver={"name": "rk4", "steps": 100})(x0, drive)
    assert float((flow(x0, drive) - exact).detach().norm()) < 3 * delta * float((before - exact).norm())
    assert delta < 0.1


def test_a_field_without_residual_is_left_alone():
    flow = Flow(nn.Linear(2, 2), solver={"name": "hyper_euler", "width": 2, "steps": 2}).double()
    for parameter in flow.dynamics.parameters():
        nn.init.zeros_(parameter)
    assert fit_hypersolver(flow, OTHERS, fine={"name": "rk4", "steps": 1}) == 0.0


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(odeframe.Incompatible, match="expected hyper_euler"):
        fit_hypersolver(Flow(Swirl()), OTHERS)
    with pytest.raises(odeframe.Incompatible, match="Ramp computes"):
        fit_hypersolver(flow_of(control=Ramp()), OTHERS)
    with pytest.raises(odeframe.InvalidOption, match="samples"):
        fit_hypersolver(flow_of(), OTHERS[:0])
    with pytest.raises(odeframe.InvalidOption, match="width=3"):
        Flow(nn.Linear(3, 3), solver={"name": "hyper_euler", "width": 2})(torch.ones(2, 3))
    with pytest.raises(odeframe.Incompatible, match="adjoint"):
        Flow(Swirl(), solver={"name": "hyper_euler", "width": 2}, gradient="adjoint")
    for option in ("width", "hidden"):
        with pytest.raises(odeframe.InvalidOption, match=option):
            HyperEuler(**{"width": 2, option: 0})
