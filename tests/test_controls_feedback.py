"""Closed loop: a policy as input and as modulation, gain schedules, summaries, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Dynamics, Flow, Incompatible, InvalidOption, SeparableDynamics
from odeframe.network import Parts
from odeframe.registry import word as as_word

RK4 = {"name": "rk4", "steps": 20}


@pytest.fixture(autouse=True)
def double_precision():
    """Identities are claimed to round-off."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Integrator(Dynamics):
    """x' = u, steered by an input of the state's size."""

    control_size = 2

    def forward(self, t, x, u=None):
        return u


class Layer(Dynamics):
    """f(x) = tanh(W x + b)."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return torch.tanh(self.linear(x))


def set_gains(flow, gains):
    """Writes K to the linear policies of a flow's gains, one after the other, with k = 0."""
    policies = [p for p in flow.control.gains.parameters() if p.dim() == 2]
    with torch.no_grad():
        for parameter in flow.control.gains.parameters():
            parameter.zero_()
        for weight, gain in zip(policies, gains, strict=True):
            weight.copy_(gain * torch.eye(2))


class TestInput:
    def test_linear_feedback_of_an_integrator(self):
        """u = -2 x: x(1) = exp(-2) x0."""
        flow, x0 = Flow(Integrator(), {"name": "feedback", "hidden": 0, "width": 2}, RK4), torch.randn(4, 2)
        set_gains(flow, [-2.0])
        torch.testing.assert_close(flow(x0), math.exp(-2) * x0, rtol=1e-5, atol=0)

    def test_a_gain_schedule_is_a_control_of_the_policy(self):
        """u = K(t) x with K linear between knots: x(1) = exp(trapezoid) x0; its knots are breakpoints."""
        word = {"name": "feedback", "hidden": 0, "width": 2, "gains": {"name": "piecewise_linear", "pieces": 2}}
        flow, x0, knots = Flow(Integrator(), word, RK4), torch.randn(4, 2), [-2.0, 1.0, 0.5]
        set_gains(flow, knots)
        torch.testing.assert_close(flow(x0), math.exp((-0.5 + 0.75) / 2) * x0, rtol=1e-5, atol=0)
        assert flow.control.breakpoints() == (0.5,)

    def test_a_gain_schedule_is_refined_and_coarsened_with_the_steps(self):
        """The flow of knots at every other end of a step is the same with knots at each, and back."""
        word = {"name": "feedback", "hidden": 0, "width": 2, "gains": {"name": "piecewise_linear", "pieces": 4}}
        flow, x0 = Flow(Integrator(), word, RK4), torch.randn(4, 2)
        set_gains(flow, [-2.0, 1.0, 0.5, 0.0, -1.0])
        before = flow(x0)
        flow.refine(2)
        assert flow.control.breakpoints() == tuple(k / 8 for k in range(1, 8)) and flow.control.pieces == 8
        torch.testing.assert_close(flow(x0), before, rtol=1e-5, atol=0)
        flow.coarsen(2)
        torch.testing.assert_close(flow(x0), before, rtol=1e-12, atol=1e-12)
        flow.coarsen(4)
        assert flow.control.pieces == 1 and flow.solver.steps == 5 and bool(flow(x0).isfinite().all())

    def test_what_only_the_gains_cannot_do_changes_nothing(self):
        word = {"name": "feedback", "width": 2, "of": "piecewise_constant"}
        gains = {"name": "piecewise_linear", "pieces": 4}
        flow = Flow(Integrator(), {**word, "gains": gains}, {"name": "rk4", "steps": 8})
        with pytest.raises(InvalidOption, match="got factor 8, expected a divisor of 4 pieces"):
            flow.coarsen(8)
        assert flow.control.open_loop.pieces == flow.solver.steps == 8
        plain = Flow(Integrator(), {"name": "feedback", "width": 2}, RK4)
        with pytest.raises(InvalidOption, match="no pieces to refine"):
            plain.refine(2)
        assert not plain.control.refinable and flow.control.refinable

    def test_size_as_an_option(self):
        class Pushed(Dynamics):
            def forward(self, t, x, u=None):
                return torch.cat([x[:, 1:], u], dim=1)

        flow = Flow(Pushed(), {"name": "feedback", "size": 1, "width": 2}, RK4)
        assert flow(torch.randn(3, 2)).shape == (3, 2)

    def test_input_needs_the_keyword(self):
        with pytest.raises(InvalidOption, match="takes no input u"):
            Flow(nn.Linear(2, 2), {"name": "feedback", "size": 1})


class TestModulation:
    def test_scale_and_shift_by_hand(self):
        flow, x0 = Flow(Layer(), "feedback", {"name": "euler", "steps": 1}), torch.randn(4, 3)
        (policy,) = flow.control.gains.block.slots
        u = policy(torch.tensor(0.0), x0)
        expected = x0 + torch.tanh((1 + u[:, :3]) * flow.dynamics.linear(x0) + u[:, 3:])
        torch.testing.assert_close(flow(x0), expected, rtol=0, atol=1e-14)
        assert not flow.dynamics.linear._forward_hooks

    @pytest.mark.parametrize("of", ["piecewise_constant", "galerkin", {"name": "binary", "of": "piecewise_linear"}])
    def test_a_silent_policy_is_the_open_loop_control(self, of):
        x0 = torch.randn(4, 3)
        torch.manual_seed(1)
        closed = Flow(Layer(), {"name": "feedback", "of": of}, RK4)
        for parameter in closed.control.gains.parameters():
            nn.init.zeros_(parameter)
        torch.manual_seed(1)
        block = Flow(Layer(), of, RK4)
        torch.testing.assert_close(closed(x0), block(x0), rtol=0, atol=1e-14)
        assert closed.control.breakpoints() == block.control.breakpoints()

    def test_samples_are_alone(self):
        flow, x0 = Flow(Layer(), "feedback", RK4), torch.randn(4, 3)
        torch.testing.assert_close(flow(x0)[1:2], flow(x0[1:2]), rtol=0, atol=1e-13)

    def test_per_sample_steps(self):
        solver = {"name": "dopri5", "per_sample": True, "rtol": 1e-8, "atol": 1e-10}
        flow, x0 = Flow(Layer(), "feedback", solver), torch.randn(4, 3)
        grid = copy.deepcopy(flow)
        object.__setattr__(grid, "solver", odeframe.build("solver", "rk4", steps=100))
        torch.testing.assert_close(flow(x0), grid(x0), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("state", [(2, 5, 3), (2, 3, 6, 6)], ids=["tokens", "images"])
    def test_features_lie_where_the_layer_has_them(self, state):
        """Of a linear layer last, of a convolution along dimension 1; images are seen by their channels' means."""
        block = nn.Linear(3, 3) if len(state) == 3 else nn.Conv2d(3, 3, 3, padding=1)
        flow = Flow(block, {"name": "feedback", "width": state[1]}, {"name": "euler", "steps": 1})
        x0 = torch.randn(state)
        u = flow.control.gains.block.slots[0](torch.tensor(0.0), x0)
        shape = (2, 1, 3) if len(state) == 3 else (2, 3, 1, 1)
        expected = x0 + (1 + u[:, :3].reshape(shape)) * block(x0) + u[:, 3:].reshape(shape)
        torch.testing.assert_close(flow(x0), expected, rtol=0, atol=1e-14)

    def test_adjoint_knows_the_policy(self):
        found, x0 = [], torch.randn(4, 3)
        for gradient in ("backprop", "adjoint"):
            torch.manual_seed(1)
            flow = Flow(Layer(), "feedback", {"name": "dopri5", "rtol": 1e-8, "atol": 1e-10}, gradient)
            flow(x0).square().sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)

    def test_step_maps(self):
        flow, x0 = Flow(Layer(), {"name": "feedback", "of": "piecewise_constant"}, {"name": "euler", "steps": 4}), None
        x0 = torch.randn(2, 3)
        z = (x0,)
        for step in flow.steps():
            names = step.read()
            z = step.step(z, {name: value.clone() for name, value in names.items()})
        assert len(names) == 2 + 4  # the piece's layer, and the policy's two
        torch.testing.assert_close(z[0], flow(x0), rtol=0, atol=1e-13)


class TestSummary:
    def test_it_sees_the_distribution(self):
        flow, x0 = Flow(Layer(), "feedback_summary", RK4), torch.randn(6, 3)
        permuted = torch.randperm(6)
        torch.testing.assert_close(flow(x0)[permuted], flow(x0[permuted]), rtol=0, atol=1e-13)
        assert float((flow(x0)[:3] - flow(x0[:3])).detach().abs().max()) > 1e-5, "it does not depend on the others"
        doubled = flow(torch.cat([x0, x0]))[:6]
        torch.testing.assert_close(doubled, flow(x0), rtol=0, atol=1e-13)  # of the measure, not of the number
        assert flow(x0[:0]).shape == (0, 3)

    def test_solvers_that_take_samples_alone_refuse_it(self):
        with pytest.raises(Incompatible, match="mean_field"):
            Flow(Layer(), "feedback_summary", {"name": "dopri5", "per_sample": True})


class Halves(SeparableDynamics):
    """y' = z, z' = A y."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def first(self, t, z, u=None):
        return z

    def second(self, t, y, u=None):
        return self.linear(y)


class TestRefusals:
    def test_schemes_that_ask_for_parts(self):
        with pytest.raises(Incompatible, match=r"feedback.*partitioned"):
            Flow(Halves(), {"name": "feedback", "width": 4}, "symplectic_euler")
        law = Flow(Halves(), {"name": "feedback", "width": 4}, RK4).field().on(torch.tensor(0.0), torch.tensor(1.0))
        with pytest.raises(Incompatible, match="sees the whole state"):
            law.part("first", torch.tensor(0.0), torch.randn(2, 2))

    def test_wrong_width_says_what_to_write(self):
        with pytest.raises(InvalidOption, match="width: 4"):
            Flow(Halves(), "feedback", RK4)(torch.randn(2, 4))

    @pytest.mark.parametrize("option", ["of", "gains"])
    def test_feedback_around_feedback(self, option):
        with pytest.raises(InvalidOption, match="another feedback"):
            Flow(Layer(), {"name": "feedback", option: "feedback"})

    def test_nothing_to_modulate(self):
        with pytest.raises(InvalidOption, match="no linear layer or convolution to modulate"):
            Flow(nn.LayerNorm(3), "feedback")

    def test_traits_of_the_control_underneath_count(self):
        word = {"name": "feedback", "of": {"name": "binary", "of": "galerkin"}}
        with pytest.raises(Incompatible, match="time_varying"):
            Flow(Layer(), word, {"name": "dopri5", "per_sample": True})

    def test_architectures_offer_the_width(self):
        words = {"dynamics": "mlp", "control": "feedback", "solver": "euler", "gradient": "backprop"}
        flow = Parts({kind: as_word(kind, name) for kind, name in words.items()}).flow((0.0, 1.0), steps=2, width=7)
        assert flow(torch.randn(3, 7)).shape == (3, 7)
