"""A flow as a module, as a solve, and as what its words say; properties of the solution map."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, SolveFailed, Status
from odeframe.costs import KineticEnergy
from odeframe.field import FunctionField
from odeframe.gradient import Gradient
from odeframe.noise import Noise
from odeframe.testing.problems import Explosion, Liouville, NoisyEuler
from problems import Driven, Linear, Logistic, Rotation, batch

TIGHT = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-9}


def block(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width)).double()


class TestDropIn:
    def test_in_a_sequential_with_a_plain_training_loop(self):
        torch.manual_seed(0)
        x = batch(64, 2)
        y = (x[:, 0] * x[:, 1] > 0).long()
        network = nn.Sequential(nn.Linear(2, 4), Flow(block(), solver="rk4"), nn.Linear(4, 2)).double()
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        losses = []
        for _ in range(60):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.3 * losses[0]

    @pytest.mark.parametrize("depth", [1, 5, 12])
    def test_euler_with_a_piece_a_step_is_a_residual_network(self, depth):
        """``x + h f_k(x)`` written by hand, and the flow: values and gradients, to round-off."""
        flow, x0 = Flow(block(), "piecewise_constant", {"name": "euler", "steps": depth}), batch(5, 4)
        blocks = [piece.slots[0].module for piece in flow.control.blocks]
        x = x0
        for f in blocks:
            x = x + f(x) / depth
        assert torch.allclose(flow(x0), x, rtol=0, atol=1e-12)
        by_hand = torch.autograd.grad(x.sin().sum(), [p for f in blocks for p in f.parameters()])
        by_flow = torch.autograd.grad(flow(x0).sin().sum(), list(flow.parameters()))
        for a, b in zip(by_hand, by_flow, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)

    def test_images_and_scalars(self):
        conv = odeframe.build("dynamics", "conv", width=3).double()
        assert Flow(conv, solver="rk4")(batch(2, 3, 5, 5)).shape == (2, 3, 5, 5)
        assert Flow(Logistic())(torch.full((3,), 0.2)).shape == (3,)

    def test_copies_and_state_dicts(self):
        flow, other, x = Flow(block(), "piecewise_constant"), Flow(block(seed=1), "piecewise_constant"), batch(3, 4)
        expected = flow(x)
        assert torch.equal(copy.deepcopy(flow)(x), expected)
        other.load_state_dict(flow.state_dict())
        assert torch.equal(other(x), expected)

    def test_a_flow_says_what_it_is(self):
        text = repr(Flow(block(), horizon=(0.0, 2.0), gradient="adjoint"))
        assert "horizon=(0.0, 2.0), gradient=Adjoint" in text


class TestWords:
    def test_name_mapping_class_and_object_are_one(self):
        x, rk4 = batch(3, 4), type(odeframe.build("solver", "rk4"))
        results = [
            Flow(block(), solver=choice)(x) for choice in ("rk4", {"name": "rk4", "steps": 10}, rk4, rk4(steps=10))
        ]
        assert all(torch.equal(result, results[0]) for result in results)
        assert not torch.equal(Flow(block(), solver={"name": "rk4", "steps": 5})(x), results[0])

    def test_dynamics_by_word(self):
        flow = Flow({"name": "mlp", "width": 4, "time": True}, control="piecewise_constant", solver="euler").double()
        assert flow(batch(3, 4)).shape == (3, 4)
        assert type(flow.dynamics).__name__ == "MLP"

    @pytest.mark.parametrize("kind", ["control", "solver", "gradient"])
    def test_an_object_of_another_kind_is_refused(self, kind):
        with pytest.raises(InvalidOption, match=f"{kind}: got an object of type Linear"):
            Flow(block(), **{kind: nn.Linear(2, 2)})

    def test_a_function_is_no_dynamics(self):
        with pytest.raises(InvalidOption, match=r"a bare function goes to odeframe\.solve"):
            Flow(lambda t, x: -x)

    def test_a_plain_module_and_a_timed_one(self):
        class Timed(nn.Module):
            def forward(self, t, x):
                return t * x

        x = batch(3, 2)
        fine = {"name": "rk4", "steps": 40}
        assert torch.allclose(Flow(Timed(), solver=fine)(x), x * torch.tensor(0.5).exp(), atol=1e-6)
        assert torch.allclose(Flow(nn.Identity(), solver=fine)(x), x * torch.tensor(1.0).exp(), atol=1e-6)

    def test_unknown_options_are_named(self):
        with pytest.raises(InvalidOption, match=r"has no option 'step'.*Did you mean 'steps'"):
            Flow(block(), solver={"name": "rk4", "step": 3})


class TestCompatibility:
    @pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.1)], ids=["batch norm", "dropout"])
    def test_the_adjoint_refuses_what_it_cannot_repeat(self, layer):
        trait = "dropout" if isinstance(layer, nn.Dropout) else "batch_norm"
        with pytest.raises(Incompatible) as caught:
            Flow(nn.Sequential(nn.Linear(4, 4), layer), gradient="adjoint")
        text = str(caught.value)
        assert f"gradient 'adjoint' refuses a dynamics with the trait '{trait}'" in text
        assert "Sequential" in text, "the message names the user's module"
        assert "backprop" in text.partition("gradient that fits")[2], "and what would fit"

    def test_a_solver_that_needs_halves(self):
        with pytest.raises(
            Incompatible, match=r"'symplectic_euler' needs a dynamics with the trait 'separable'"
        ) as caught:
            Flow(Logistic(), solver="symplectic_euler")
        assert "rk4" in str(caught.value)

    def test_a_stochastic_solver_has_no_adjoint(self):
        with pytest.raises(Incompatible, match="refuses a solver with the trait 'stochastic'"):
            Flow(block(), solver=NoisyEuler(), gradient="adjoint")

    def test_parts_take_no_drive(self):
        class Halves(Liouville):
            def forward(self, t, x, u=None, drive=None):
                return super().forward(t, x) + drive

        with pytest.raises(Incompatible, match="parts take no drive"):
            Flow(Halves(), solver="symplectic_euler")(batch(3, 2), drive=batch(3, 2))


class TestHorizon:
    @pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 80}, TIGHT], ids=["rk4", "dopri5"])
    @pytest.mark.parametrize("horizon", [(0.0, 2.0), (2.0, 0.5), (-1.0, 1.0)])
    def test_any_horizon_in_any_direction(self, horizon, solver):
        x0, dynamics = torch.rand(4, 1, dtype=torch.float64), Rotation()
        x0 = batch(4, 2)
        flow = Flow(dynamics, solver=solver, horizon=horizon)
        exact = dynamics.exact(torch.tensor(horizon[1] - horizon[0]), x0)
        assert torch.allclose(flow(x0), exact, atol=1e-6)
        assert torch.allclose(flow.solve(flow(x0), horizon[::-1]).final, x0, atol=1e-6)

    @pytest.mark.parametrize("times", [(0.0, 1.1), (-0.1, 1.0), (2.0, 3.0)])
    def test_times_outside_are_refused(self, times):
        with pytest.raises(InvalidOption, match="outside the flow's horizon"):
            Flow(Rotation()).solve(batch(2, 2), times)

    def test_round_off_at_the_ends_is_not_outside(self):
        assert Flow(Rotation()).solve(batch(2, 2), (0.0, 1.0 + 1e-12)).status is Status.SUCCESS

    @pytest.mark.parametrize("horizon", [(0.0,), (0.0, 0.5, 1.0), (1.0, 1.0), (0.0, float("inf")), "long"])
    def test_what_is_no_horizon(self, horizon):
        with pytest.raises(InvalidOption):
            Flow(Rotation(), horizon=horizon)


class TestSolve:
    def test_a_bare_function(self):
        solution = odeframe.solve(lambda t, x: torch.cos(t) * x, torch.ones(2, 1, dtype=torch.float64), (0.0, 1.0, 2.0))
        exact = torch.exp(torch.sin(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)))
        assert torch.allclose(solution.states[:, 0, 0], exact, atol=1e-5)
        assert solution.status is Status.SUCCESS
        assert solution.times.tolist() == [0.0, 1.0, 2.0]

    def test_options_go_to_the_word(self):
        solution = odeframe.solve(lambda t, x: -x, torch.ones(1, 1), (0.0, 1.0), "rk4", steps=3)
        assert (solution.stats.nfe, solution.stats.accepted) == (12, 3)
        with pytest.raises(InvalidOption, match="no effect on a built solver"):
            odeframe.solve(lambda t, x: -x, torch.ones(1, 1), (0.0, 1.0), odeframe.build("solver", "rk4"), steps=3)
        with pytest.raises(InvalidOption, match="expected a function"):
            odeframe.solve(torch.ones(1), torch.ones(1, 1), (0.0, 1.0))

    def test_functions_of_parameters_are_differentiated(self):
        dynamics, x0 = Linear(torch.tensor([[0.0, 1.0], [-1.0, -0.2]])), batch(3, 2)
        odeframe.solve(dynamics, x0, (0.0, 1.0), rtol=1e-9).final.sum().backward()
        found, dynamics.matrix.grad = dynamics.matrix.grad, None
        dynamics.exact(1.0, x0).sum().backward()
        assert torch.allclose(found, dynamics.matrix.grad, atol=1e-6)

    def test_breakpoints_of_a_function(self):
        field = FunctionField(lambda t, x: torch.where(t < 0.5, 1.0, -1.0).to(x) + 0 * x, breakpoints=(0.5,))
        solver = odeframe.build("solver", "euler", steps=4)
        assert torch.allclose(solver.solve(field, torch.zeros(1, 1), (0.0, 1.0)).final, torch.zeros(1, 1))
        assert torch.allclose(solver.solve(field, torch.zeros(1, 1), (0.0, 0.5)).final, torch.full((1, 1), 0.5))

    def test_stats_of_the_last_solve_stay_on_the_flow(self):
        flow = Flow(Rotation(), solver={"name": "rk4", "steps": 3})
        assert flow.stats.nfe == 0
        flow(batch(2, 2))
        assert (flow.stats.nfe, flow.stats.accepted, flow.stats.rejected) == (12, 3, 0)

    @pytest.mark.parametrize("solver", ["euler", "dopri5"])
    def test_failures_speak_for_states_with_costs_too(self, solver):
        x0 = torch.tensor([[0.1, 0.1], [2.0, 2.0], [0.2, 0.2]])
        options = {"name": solver, **({"steps": 40} if solver == "euler" else {})}
        flow = Flow(Explosion(), solver=options, horizon=(0.0, 4.0), quadratures=[KineticEnergy()])
        with pytest.raises(SolveFailed) as caught:
            flow(x0)
        assert caught.value.worst_sample == 1
        returned = Flow(Explosion(), solver={**options, "on_failure": "return"}, horizon=(0.0, 4.0))
        solution = returned.solve(x0, (0.0, 0.3, 4.0))
        assert solution.status is not Status.SUCCESS
        assert torch.allclose(solution.states[1, 0, 0], torch.tensor(0.1 / 0.97), atol=2e-3), "what was computed before"


class TestNoise:
    def test_drawn_in_training_and_absent_in_evaluation(self):
        flow, x = Flow(block(), solver=NoisyEuler(steps=5)), batch(3, 4)
        torch.manual_seed(4)
        first = flow(x)
        assert not torch.equal(flow(x), first), "each training solve draws anew"
        torch.manual_seed(4)
        assert torch.equal(flow(x), first), "from torch's generator"
        assert torch.equal(flow(x, noise=Noise(1)), flow(x, noise=Noise(1)))
        flow.eval()
        assert torch.allclose(flow(x), Flow(block(), solver={"name": "euler", "steps": 5})(x)), "the scheme's mean"


class TestStopRules:
    @staticmethod
    def past(level):
        return lambda t, x, memory: x[:, 0] > level

    def test_samples_stop_by_themselves(self):
        """``x' = x``: a sample stops at the first node where it has passed the level, and stays."""
        flow = Flow(nn.Identity(), solver={"name": "rk4", "steps": 100}, horizon=(0.0, 3.0))
        x0 = torch.tensor([[1.0], [0.5], [3.0], [1e-3]], dtype=torch.float64)
        solution = flow.solve(x0, (0.0, 1.5, 3.0), stop=self.past(2.0))
        for start, stopped in zip(x0[:, 0], solution.stop_times, strict=True):
            crossing = torch.log(2.0 / start).clamp(0.0, 3.0)
            assert 0 <= float(stopped - crossing) <= 0.03 + 1e-9 or float(stopped) == 3.0
        assert torch.allclose(solution.final[:, 0], x0[:, 0] * solution.stop_times.exp(), atol=1e-6)
        assert torch.equal(solution.states[1, 2], solution.states[2, 2])
        assert flow.solve(x0, stop=self.past(-1.0)).stats.accepted == 1, "no step once all have stopped"

    def test_gradients_pass_through_what_was_run(self):
        flow = Flow(Linear(torch.tensor([[0.7]])), solver={"name": "euler", "steps": 10})
        x0 = torch.tensor([[1.0], [1.9]], dtype=torch.float64, requires_grad=True)
        solution = flow.solve(x0, stop=self.past(2.0))
        solution.final.sum().backward()
        steps = (solution.stop_times * 10).round()
        assert torch.allclose(x0.grad[:, 0], 1.07**steps)

    @pytest.mark.parametrize("mask", [torch.ones(3, 1, dtype=torch.bool), torch.ones(3)], ids=["shape", "dtype"])
    def test_a_mask_of_another_kind_is_refused(self, mask):
        with pytest.raises(InvalidOption, match="a stop rule returns a bool mask of shape"):
            Flow(Rotation()).solve(batch(3, 2), stop=lambda t, x, memory: mask)

    @pytest.mark.parametrize("words", [{"solver": "torchdiffeq"}, {"gradient": "adjoint"}], ids=str)
    def test_what_cannot_stop_says_so(self, words):
        with pytest.raises(InvalidOption, match="stop rule"):
            Flow(Rotation(), **words).solve(batch(3, 2), stop=self.past(1.0))


class TestGradientInterface:
    def test_a_gradient_of_ones_own(self):
        """A gradient wraps a solve: nothing else of a flow needs to know."""

        class Scaled(Gradient):
            def solve(self, solver, field, x0, times, stop=None):
                solution = solver.solve(field, x0, times, stop)
                if solution.states.requires_grad:
                    solution.states.register_hook(lambda gradient: 2 * gradient)
                return solution

        x0 = batch(2, 2).requires_grad_(True)
        plain, scaled = (
            torch.autograd.grad(Flow(Rotation(), gradient=gradient)(x0).sum(), x0)[0]
            for gradient in ("backprop", Scaled())
        )
        assert torch.allclose(scaled, 2 * plain)


STATES = st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4)


class TestProperties:
    """Of the solution map, for any start and any split of the time."""

    @settings(max_examples=15)
    @given(states=STATES, split=st.integers(1, 11))
    def test_composition_on_the_grid(self, states, split):
        """Solving 0 -> 1 is solving 0 -> s -> 1, exactly where s is a node of equal steps."""
        x0, flow = torch.tensor(states, dtype=torch.float64), Flow(Liouville(), solver={"name": "rk4", "dt": 1 / 12})
        s = split / 12
        middle = flow.solve(x0, (0.0, s)).final
        assert torch.allclose(flow.solve(middle, (s, 1.0)).final, flow(x0), rtol=1e-12, atol=1e-12)

    @settings(max_examples=10)
    @given(states=STATES, s=st.floats(0.05, 0.95))
    def test_composition_anywhere_to_tolerance(self, states, s):
        x0, flow = torch.tensor(states, dtype=torch.float64), Flow(Liouville(), solver=TIGHT)
        whole = flow.solve(x0, (0.0, s, 1.0))
        assert torch.allclose(flow.solve(whole.states[1], (s, 1.0)).final, whole.final, rtol=1e-6, atol=1e-7)

    @settings(max_examples=10)
    @given(states=STATES, start=st.floats(0, 1), end=st.floats(0, 1))
    def test_time_reversal(self, states, start, end):
        if abs(start - end) < 1e-3:
            return
        x0, flow = torch.tensor(states, dtype=torch.float64), Flow(Liouville(), solver=TIGHT)
        there = flow.solve(x0, (start, end)).final
        assert torch.allclose(flow.solve(there, (end, start)).final, x0, rtol=1e-6, atol=1e-6)

    @settings(max_examples=15)
    @given(states=STATES, order=st.randoms(use_true_random=False))
    def test_batch_independence_of_step_solvers(self, states, order):
        x0, flow = torch.tensor(states, dtype=torch.float64), Flow(Liouville(), solver={"name": "rk4", "steps": 5})
        places = list(range(len(states)))
        order.shuffle(places)
        together = flow(x0)
        assert torch.equal(flow(x0[places]), together[places])
        assert torch.equal(torch.cat([flow(x[None]) for x in x0]), together)

    @settings(max_examples=20)
    @given(
        shape=st.lists(st.integers(0, 3), min_size=1, max_size=4),
        dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]),
        solver=st.sampled_from(["euler", "rk4", "dopri5"]),
    )
    def test_shape_and_dtype_are_kept(self, shape, dtype, solver):
        solution = odeframe.solve(lambda t, x: -t * x, torch.ones(shape, dtype=dtype), (0.0, 0.3, 1.0), solver)
        assert solution.states.shape == (3, *shape)
        assert solution.states.dtype == dtype
        exact = torch.exp(torch.tensor(-0.5)).to(dtype)
        assert torch.allclose(solution.final, exact.expand(shape), atol=0.06)

    @settings(max_examples=15)
    @given(angle=st.floats(0.1, 3.0))
    def test_a_rotation_in_the_complex_plane(self, angle):
        x0 = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128)
        final = odeframe.solve(lambda t, x: 1j * x, x0, (0.0, angle), rtol=1e-9).final
        assert torch.allclose(final, x0 * torch.exp(torch.tensor(1j * angle)), atol=1e-7)


def test_dynamics_under_a_drive_and_a_control_at_once():
    x0, items = batch(2, 3), batch(2, 2, 3, seed=1)
    flow = Flow(Driven(), {"name": "piecewise_constant", "pieces": 4}, {"name": "rk4", "steps": 80})
    assert torch.allclose(flow(x0, drive=odeframe.drive.SequenceDrive(items)), Driven.exact(x0, items), atol=1e-8)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_a_field_of_another_shape_is_refused(solver: str) -> None:
    with pytest.raises(InvalidOption, match=r"\(3, 1\) for a state of shape \(3, 2\)"):
        odeframe.solve(lambda t, x: x[:, :1], torch.ones(3, 2), (0.0, 1.0), solver=solver)
    with pytest.raises(InvalidOption, match=r"\(2, 1\) for a state of shape \(2, 4\)"):
        Flow(nn.Linear(4, 1), solver=solver)(torch.ones(2, 4))
    with pytest.raises(InvalidOption, match="NoneType"):
        odeframe.solve(lambda t, x: None, torch.ones(3, 2), (0.0, 1.0), solver=solver)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_a_state_that_is_not_finite_is_named_as_such(solver: str) -> None:
    x0 = torch.ones(3, 2)
    x0[1] = float("nan")
    with pytest.raises(InvalidOption, match=r"x0.*sample 1"):
        odeframe.solve(lambda t, x: -x, x0, (0.0, 1.0), solver=solver)
