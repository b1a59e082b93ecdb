"""Open-loop controls: their bases, closed forms, what a step depends on, refinement, shared parameters."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from odeframe import Dynamics, Flow, Incompatible, InvalidOption, StepSolver
from odeframe.block import Block, empty
from odeframe.stepmap import sharing_groups
from odeframe_plugins.controls.bases import BSpline, Chebyshev, Fourier, Legendre, transfer

RK4 = {"name": "rk4", "steps": 8}
COMPUTED = {
    "piecewise_linear": {"name": "piecewise_linear", "pieces": 4},
    "legendre": {"name": "galerkin", "basis": "legendre", "init": "reset"},
    "chebyshev": {"name": "galerkin", "basis": "chebyshev", "init": "reset"},
    "fourier": {"name": "galerkin", "basis": "fourier", "init": "reset"},
    "bspline": {"name": "galerkin", "basis": "bspline", "init": "reset"},
    "hypernetwork": {"name": "hypernetwork"},
    "time_concat": {"name": "time_concat"},
}


@pytest.fixture(autouse=True)
def double_precision():
    """Identities are claimed to round-off."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Layer(Dynamics):
    """f(x) = tanh(W x + b)."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return torch.tanh(self.linear(x))


def values_at(flow, t):
    """The parameters that the control has at a time."""
    time = torch.tensor(t)
    return flow.control.on(time, time).parameters(time)


class TestBases:
    @pytest.mark.parametrize("s", [0.0, 0.2, 0.5, 1.0])
    def test_polynomials_by_their_closed_forms(self, s):
        z = 2 * s - 1
        assert Legendre(5).weights(s, 0)[4] == pytest.approx((35 * z**4 - 30 * z**2 + 3) / 8, abs=1e-14)
        assert Chebyshev(6).weights(s, 0)[5] == pytest.approx(math.cos(5 * math.acos(z)), abs=1e-14)
        expected = [1, math.cos(2 * math.pi * s), math.sin(2 * math.pi * s)]
        assert Fourier(3).weights(s, 0) == pytest.approx(expected, abs=1e-14)

    @pytest.mark.parametrize("degree", [1, 2, 3, 5])
    def test_splines_are_shares_with_the_smoothness_of_their_degree(self, degree):
        basis = BSpline(degree, 4)
        for piece in range(4):
            for s in (piece / 4, (piece + 0.3) / 4, (piece + 1) / 4):
                weights = basis.weights(s, piece)
                assert sum(weights) == pytest.approx(1, abs=1e-14) and min(weights) >= -1e-15
        left, right = (torch.zeros(degree, basis.count) for _ in range(2))
        for rows, piece in ((left, 1), (right, 2)):  # derivatives of order 0 .. degree - 1 on both sides of the knot
            for j in range(basis.count):
                s = torch.tensor(0.5, requires_grad=True)
                values = dict(zip(basis.active(piece), basis.weights(s, piece), strict=True))
                value = values.get(j, 0 * s)
                for order in range(degree):
                    value = value if torch.is_tensor(value) else torch.tensor(float(value))
                    rows[order, j] = value.detach()
                    if not value.requires_grad:
                        break
                    (value,) = torch.autograd.grad(value, s, create_graph=True, allow_unused=True)
                    value = torch.tensor(0.0) if value is None else value
        assert float((left - right).abs().max()) <= 1e-9

    def test_transfer_is_exact_within_a_larger_space_and_undone(self):
        for basis in (Legendre(4), Chebyshev(3), Fourier(5), BSpline(1, 3), BSpline(3, 4)):
            finer = basis.refined(3)
            back = transfer(finer, basis) @ transfer(basis, finer)
            assert float((back - torch.eye(basis.count)).abs().max()) <= 1e-12
            assert finer.coarsened(3).count == basis.count


class TestClosedForms:
    """x' = w(t) x is solved by x(1) = exp(int w), and the integral of a basis is known."""

    def final(self, control, coefficients):
        flow = Flow(nn.Linear(1, 1, bias=False), control, {"name": "rk4", "steps": 40})
        with torch.no_grad():
            for parameter, value in zip(flow.parameters(), coefficients, strict=True):
                parameter.fill_(value)
        return math.log(flow(torch.ones(1, 1)).item())

    def test_integrals(self):
        c = [0.5, -0.7, 0.9, 0.4, 0.3]
        trapezoid = sum((a + b) / 2 for a, b in itertools.pairwise(c)) / 4
        assert self.final({"name": "piecewise_linear", "pieces": 4}, c) == pytest.approx(trapezoid, abs=1e-6)
        assert self.final({"name": "galerkin", "degree": 4}, c) == pytest.approx(c[0], abs=1e-6)  # int P_j = 0
        chebyshev = c[0] - c[2] / 3  # int T_j over [-1, 1] is 2 / (1 - j^2) for even j, half of it over [0, 1]
        assert self.final({"name": "galerkin", "basis": "chebyshev", "degree": 2}, c[:3]) == pytest.approx(
            chebyshev, abs=1e-6
        )
        assert self.final({"name": "galerkin", "basis": "fourier", "degree": 2}, c) == pytest.approx(c[0], abs=1e-5)
        spline = (c[0] + 2 * c[1] + 2 * c[2] + c[3]) / 6  # B-splines of degree 2 on two intervals: 1, 2, 2, 1 over 6
        word = {"name": "galerkin", "basis": "bspline", "degree": 2, "intervals": 2}
        assert self.final(word, c[:4]) == pytest.approx(spline, abs=1e-6)

    def test_time_concat_is_a_layer_with_the_time_appended(self):
        flow, x0 = Flow(Layer(), "time_concat", {"name": "euler", "steps": 4}, horizon=(1.0, 3.0)), torch.randn(5, 3)
        layer, slope = flow.dynamics.linear, flow.control.slopes[0]
        appended, x = torch.cat([layer.weight, slope[:, None]], dim=1), x0
        for k in range(4):
            s = torch.full((5, 1), k / 4)
            x = x + 0.5 * torch.tanh(torch.cat([x, s], dim=1) @ appended.T + layer.bias)
        torch.testing.assert_close(flow(x0), x, rtol=0, atol=1e-14)

    def test_time_concat_gives_a_bias_to_layers_without(self):
        flow = Flow(nn.Conv2d(2, 2, 3, padding=1, bias=False), "time_concat", RK4)
        assert values_at(flow, 1.0)["slots.0.module.bias"].shape == (2,)
        flow(torch.randn(2, 2, 5, 5)).sum().backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in flow.parameters())

    def test_low_rank_hypernetwork_changes_matrices_by_low_rank(self):
        flow = Flow(Layer(6), {"name": "hypernetwork", "rank": 2}, RK4)
        difference = values_at(flow, 0.9)["slots.0.linear.weight"] - values_at(flow, 0.1)["slots.0.linear.weight"]
        singular = torch.linalg.svdvals(difference)
        assert singular[1] > 1e-6 and singular[2] <= 1e-14
        full = Flow(Layer(64), {"name": "hypernetwork"}, RK4)
        small = Flow(Layer(64), {"name": "hypernetwork", "rank": 2}, RK4)
        assert sum(p.numel() for p in small.parameters()) < 0.2 * sum(p.numel() for p in full.parameters())

    def test_start_is_constant_in_time_where_it_says_so(self):
        for word in ({"name": "galerkin"}, {"name": "galerkin", "basis": "bspline"}, {"name": "piecewise_linear"}):
            flow = Flow(Layer(), {**word, "init": "copy"}, RK4)
            one, other = values_at(flow, 0.1), values_at(flow, 0.93)
            assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-14) for name in one)


class TestDependence:
    @pytest.mark.parametrize("name", COMPUTED)
    def test_adjoint_equals_backprop_at_fine_tolerance(self, name):
        x0, found = torch.randn(4, 3), []
        for gradient in ("backprop", "adjoint"):
            torch.manual_seed(1)
            solver = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-10}
            flow = Flow(Layer(), COMPUTED[name], solver, gradient)
            flow(x0).square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", COMPUTED)
    def test_gradient_of_the_end_time(self, name):
        """A time that carries a gradient reaches the weights at that time: x'(T) is the field at T."""
        flow, x0 = Flow(Layer(), COMPUTED[name], {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}), torch.randn(2, 3)
        times = torch.tensor([0.0, 0.9], requires_grad=True)
        (slope,) = torch.autograd.grad(flow.solve(x0, times).final.sum(), times)
        law = flow.control.on(torch.tensor(0.85), torch.tensor(0.9))
        expected = law.call(0, "forward", torch.tensor(0.9), flow.solve(x0, (0.0, 0.9)).final).sum()
        assert slope[1].item() == pytest.approx(expected.item(), abs=1e-6)

    @pytest.mark.parametrize("name", COMPUTED)
    @pytest.mark.parametrize(("gradient", "solver"), [("checkpoint", "rk4"), ("reversible", "reversible_heun")])
    def test_exact_gradients_are_the_same(self, name, gradient, solver):
        x0, found = torch.randn(4, 3), []
        for word in ("backprop", gradient):
            torch.manual_seed(1)
            flow = Flow(Layer(), COMPUTED[name], {"name": solver, "steps": 8}, word)
            flow(x0).square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", COMPUTED)
    def test_step_maps_are_the_flow_and_know_what_they_share(self, name):
        flow, x0 = Flow(Layer(), COMPUTED[name], RK4), torch.randn(2, 3)
        steps, z = flow.steps(), (x0,)
        for step in steps:
            u = step.read()
            step.write({key: value + 1.0 for key, value in u.items()})
            step.write(u)
            z = step.step(z)
        torch.testing.assert_close(z[0], flow(x0), rtol=0, atol=1e-12)
        groups = [group for group in sharing_groups(steps) if any(True for _ in steps[group[0]].parameters())]
        assert len(groups) == 1, "steps that share coefficients are one group"

    def test_a_step_depends_on_the_neighbouring_knots_alone(self):
        flow = Flow(Layer(), {"name": "piecewise_linear", "pieces": 64}, {"name": "euler", "steps": 64})
        assert len(list(flow.parameters())) == 65 * 2
        law = flow.field().on(torch.tensor(0.0), torch.tensor(1 / 64))
        assert len(law.tensors) == 2 * 2

    def test_samples_with_their_own_times_are_refused(self):
        with pytest.raises(Incompatible, match="time_varying"):
            Flow(Layer(), "galerkin", {"name": "dopri5", "per_sample": True})
        law = Flow(Layer(), "galerkin", RK4).control.on(torch.tensor(0.0), torch.tensor(1.0))
        with pytest.raises(Incompatible, match="one a sample"):
            law.call(0, "forward", torch.tensor([0.1, 0.2]), torch.randn(2, 3))

    def test_weights_are_computed_once_for_stages_at_one_time(self):
        flow = Flow(Layer(), {"name": "galerkin", "degree": 2}, {"name": "rk4", "steps": 5})
        calls, values = [], type(flow.control).values
        flow.control.values = lambda *args: calls.append(1) or values(flow.control, *args)
        x = flow(torch.randn(2, 3))
        assert len(calls) == 3 * 5  # four stages, two of them at the middle
        x.sum().backward(retain_graph=True)
        x.sum().backward()

    def test_kept_weights_are_dropped_after_a_backward_pass(self):
        law = Flow(Layer(), "galerkin", RK4).control.on(torch.tensor(0.0), torch.tensor(1.0))
        t, x = torch.tensor(0.5), torch.randn(2, 3, requires_grad=True)
        passes = []
        for _ in range(3):  # an adjoint does this: without the drop the second pass finds a freed graph
            passes.append(torch.autograd.grad(law.call(0, "forward", t, x).sum(), [x, *law.tensors]))
        for again in passes[1:]:
            assert all(map(torch.equal, again, passes[0]))


class TestRefinement:
    def test_piecewise_constant_split_with_the_steps_leaves_the_solution(self):
        flow, x0 = Flow(Layer(), "piecewise_constant", RK4), torch.randn(3, 3)
        flow.solver.steps = 16
        before = flow(x0)
        flow.solver.steps = 8
        flow.refine(2)
        assert flow.solver.steps == 16 and flow.control.pieces == 16
        assert torch.equal(flow(x0), before)
        flow.coarsen(2)
        assert flow.solver.steps == 8 and flow.control.pieces == 8

    def test_coarsening_pieces_takes_the_mean(self):
        flow = Flow(
            nn.Linear(1, 1, bias=False), {"name": "piecewise_constant", "pieces": 4}, {"name": "euler", "steps": 4}
        )
        with torch.no_grad():
            for parameter, value in zip(flow.parameters(), [1.0, 3.0, -1.0, 2.0], strict=True):
                parameter.fill_(value)
        flow.coarsen(2)
        assert [float(p) for p in flow.parameters()] == [2.0, 0.5]
        with pytest.raises(InvalidOption, match="divisor"):
            flow.coarsen(4)

    def test_float32_keeps_the_function_to_1e_6(self):
        torch.set_default_dtype(torch.float32)
        for name in ("piecewise_linear", "legendre", "chebyshev", "fourier", "bspline"):
            word = COMPUTED[name]
            flow, x0 = Flow(Layer(), word, {"name": "rk4", "steps": 24}), torch.randn(3, 3)
            before = flow(x0)
            flow.control.refine(3)
            torch.testing.assert_close(flow(x0), before, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("factor", [0, -1, 2.0, "2", None, True])
    @pytest.mark.parametrize("name", ["piecewise_constant", "piecewise_linear"])
    def test_a_factor_is_a_whole_number(self, name, factor):
        flow = Flow(Layer(), name, RK4)
        for change in (flow.refine, flow.coarsen, flow.control.refine, flow.control.coarsen):
            with pytest.raises(InvalidOption, match="expected a whole number of at least 1"):
                change(factor)
        assert flow.solver.steps == flow.control.pieces == 8, "nothing was changed"

    def test_a_series_is_cut_where_it_is_coarsened(self):
        flow = Flow(Layer(), {"name": "galerkin", "degree": 3, "init": "reset"}, RK4)
        first = [p.detach().clone() for p in flow.control.coefficients[1]]
        flow.control.coarsen(2)
        assert len(flow.control.coefficients) == 2
        with pytest.raises(InvalidOption, match="divisor of 2 basis functions"):
            flow.control.coarsen(3)
        assert all(a.shape == b.shape for a, b in zip(first, flow.control.coefficients[1], strict=True))


class Mixed(StepSolver):
    """x + k h f with a trainable k, through two slots."""

    slots, opaque, traits = 2, False, ("step",)

    def __init__(self, steps):
        super().__init__(steps)
        self.k = nn.Parameter(torch.ones(()))

    def reset_parameters(self):
        nn.init.uniform_(self.k, 0.5, 1.5)

    def step(self, field, t, dt, x, memory):
        first, second = field.slots
        return x + dt * (self.k * first(t, x) + second(t, x)), ()


class TestBlock:
    @pytest.mark.parametrize("name", COMPUTED)
    def test_slots_and_coefficients_are_driven(self, name):
        flow, x0 = Flow(Layer(), COMPUTED[name], Mixed(8)), torch.randn(3, 3)
        x, template = x0, Layer()
        for k in range(8):
            t, end = torch.tensor(k / 8), torch.tensor((k + 1) / 8)
            values = flow.control.on(t, end).parameters(t)
            slots = [
                functional_call(template, {n.removeprefix(p): v for n, v in values.items() if n.startswith(p)}, (t, x))
                for p in ("slots.0.", "slots.1.")
            ]
            x = x + (values["solver.k"] * slots[0] + slots[1]) / 8
        torch.testing.assert_close(flow(x0), x, rtol=0, atol=1e-14)
        flow(x0).square().sum().backward()
        assert all(bool(p.grad.abs().sum() > 0) for p in flow.parameters())

    def test_shared_parameters_stay_shared_and_frozen_ones_stay(self):
        block = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 2))
        block[2].weight = block[0].weight
        block[3].weight.requires_grad_(False)
        kept = block[3].weight
        values = empty(Block(block))
        assert sorted(values) == ["slots.0.0.bias", "slots.0.0.weight", "slots.0.2.bias", "slots.0.3.bias"]
        assert block[3].weight is kept and block[2].weight is None
        block = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
        block[2].weight = block[0].weight
        tied, x0 = Flow(block, "constant", RK4), torch.randn(3, 2)
        expected = tied(x0)
        computed = Flow(block, {"name": "galerkin", "degree": 0}, RK4)
        torch.testing.assert_close(computed(x0), expected, rtol=0, atol=1e-14)


class TestRefusals:
    @pytest.mark.parametrize(
        ("word", "match"),
        [
            ({"name": "galerkin", "basis": "wavelet"}, "basis"),
            ({"name": "galerkin", "degree": -1}, "degree"),
            ({"name": "galerkin", "basis": "bspline", "degree": 0}, "degree"),
            ({"name": "galerkin", "intervals": 3}, "bspline"),
            ({"name": "piecewise_linear", "pieces": 0}, "pieces"),
            ({"name": "piecewise_linear", "init": "zero"}, "init"),
            ({"name": "hypernetwork", "hidden": 0}, "hidden"),
            ({"name": "hypernetwork", "rank": 0}, "rank"),
        ],
    )
    def test_options(self, word, match):
        with pytest.raises(InvalidOption, match=match):
            Flow(Layer(), word)

    def test_blocks(self):
        with pytest.raises(InvalidOption, match="no linear layer or convolution"):
            Flow(nn.LayerNorm(3), "time_concat")
        with pytest.raises(InvalidOption, match="no fixed number of steps"):
            Flow(Layer(), "piecewise_linear", "dopri5")
        with pytest.raises(InvalidOption, match="straddle the breakpoint"):
            Flow(Layer(), {"name": "galerkin", "basis": "bspline", "intervals": 3}, RK4)(torch.randn(1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["legendre", "hypernetwork"])
@pytest.mark.filterwarnings("error:.*compile=True has no effect")
def test_compiled_steps_take_computed_weights(name):
    x0, found = torch.randn(4, 3), []
    for compiled in (False, True):
        torch.manual_seed(1)
        flow = Flow(Layer(), COMPUTED[name], {"name": "rk4", "steps": 4, "compile": compiled})
        flow(x0).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "control", ["piecewise_linear", "galerkin", "hypernetwork", "time_concat", "feedback", "binary", "box"]
)
def test_shapes_that_are_not_known_yet_are_asked_for(control):
    """Lazy modules get theirs with the first batch; controls that need none before take them."""
    with pytest.raises(InvalidOption, match=r"needs the shapes .*weight.* call the dynamics once on a batch"):
        Flow(nn.Sequential(nn.LazyLinear(3), nn.Tanh()), control)
    assert Flow(nn.Sequential(nn.LazyLinear(3), nn.Tanh()), "piecewise_constant")(torch.ones(2, 3)).shape == (2, 3)
