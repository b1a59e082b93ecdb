"""Gradients of the core set are conformant, and the kit catches what it is for."""

import pytest
import torch
from torch import nn

import odeframe
from odeframe import Flow, Incompatible
from odeframe.costs import RunningCost
from odeframe.field import FunctionField
from odeframe.gradient import Gradient
from odeframe.testing import GradientConformance
from odeframe.testing.accuracy import fitted_slope, largest
from odeframe.testing.problems import Coupled, Liouville


class TestBackprop(GradientConformance):
    gradient = "backprop"


class TestAdjoint(GradientConformance):
    gradient = "adjoint"


class TestInterpolatedAdjoint(GradientConformance):
    gradient = "interpolated_adjoint"
    solvers = ({"name": "dopri5", "rtol": 1e-6, "atol": 1e-8}, {"name": "dop853", "rtol": 1e-9, "atol": 1e-11})


def complaint(gradient, check, *arguments):
    """What a check says of a gradient that it must not let pass."""
    kit = type("Kit", (GradientConformance,), {"gradient": gradient})
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(kit(), check)(*arguments)
    return str(caught.value)


class Plain(Gradient):
    """Backpropagation, from which the wrong ones differ in one thing."""

    traits = ("exact",)

    def solve(self, solver, field, x0, times, stop=None):
        return self.counted(solver.solve(field, x0, times, stop))

    @staticmethod
    def counted(solution):
        stats, evaluations = solution.stats, solution.stats.nfe
        if solution.states.requires_grad:
            solution.states.register_hook(
                lambda gradient: setattr(stats, "nfe_backward", stats.nfe_backward + evaluations)
            )
        return solution


class TestPlainOfTheseTests(GradientConformance):
    gradient, solvers = Plain, ({"name": "rk4", "steps": 8},)


class Detached(Plain):
    def solve(self, solver, field, x0, times, stop=None):
        return self.counted(solver.solve(field, x0.detach(), times, stop))


class Negated(Plain):
    def solve(self, solver, field, x0, times, stop=None):
        solution = super().solve(solver, field, x0, times, stop)
        if solution.states.requires_grad:
            solution.states.register_hook(lambda gradient: -gradient)
        return solution


class EndOnly(Plain):
    """Loses what a loss says of times before the last."""

    def solve(self, solver, field, x0, times, stop=None):
        solution = super().solve(solver, field, x0, times, stop)
        solution.states = torch.cat([solution.states[:-1].detach(), solution.states[-1:]])
        return solution


class Uncounted(Plain):
    @staticmethod
    def counted(solution):
        return solution


class Replay(torch.autograd.Function):
    """Solves again in the backward pass, as it stands then: autocast, dropout and statistics are not repeated."""

    @staticmethod
    def forward(ctx, solve, box, x0, *tensors):
        box.append(solve(x0.detach()))
        ctx.solve, ctx.tensors = solve, tensors
        ctx.save_for_backward(x0)
        return box[0].states

    @staticmethod
    def backward(ctx, gradient):
        (x0,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_(True)
            solution = ctx.solve(leaf)
            solution.stats.nfe_backward += solution.stats.nfe
            grads = torch.autograd.grad(solution.states, (leaf, *ctx.tensors), gradient, allow_unused=True)
        return None, None, *grads


class Forgetful(Gradient):
    """A checkpoint that repeats nothing of the forward pass's surroundings."""

    traits = ("exact",)

    def solve(self, solver, field, x0, times, stop=None):
        box, law = [], field.on(*torch.tensor([0.0, 0.1], dtype=torch.float64))
        states = Replay.apply(lambda x: solver.solve(field, x, times, stop), box, x0, *law.tensors)
        box[0].states = states
        return box[0]


@pytest.mark.parametrize(
    ("gradient", "check", "arguments", "said"),
    [
        (Detached, "test_parameters_and_start", ("end", "constant"), "x0 some get no gradient"),
        (Negated, "test_parameters_and_start", ("end", "piecewise"), "a sign"),
        (EndOnly, "test_parameters_and_start", ("several times", "constant"), "jump at an output time"),
        (Uncounted, "test_evaluations_backwards_are_counted", (), "count it in stats.nfe_backward"),
        (Forgetful, "test_autocast_is_the_same_both_ways", (), "another autocast state"),
        (Forgetful, "test_random_and_batch_wide_layers", ("dropout",), "repeat the masks"),
        (Forgetful, "test_random_and_batch_wide_layers", ("batch_norm",), "update statistics once"),
        (Forgetful, "test_closures_are_not_lost", (), "lost in silence"),
        (Forgetful, "test_parameters_and_start", ("end", "piecewise"), "the parameters some get no gradient"),
        (Forgetful, "test_swapped_parameters_are_not_lost", (), "instead of those of the forward pass"),
        (Forgetful, "test_second_derivatives", (), "carries no graph"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if isinstance(value, str) else "",
)
def test_the_kit_says_what_is_wrong(gradient, check, arguments, said):
    assert said in complaint(gradient, check, *arguments)


class TestAdjointAgainstBackprop:
    """Optimise-then-discretise converges to the gradient of the equation, by the order of the scheme."""

    @pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("rk4", 4)])
    def test_they_differ_by_the_order_of_the_scheme(self, solver, order):
        counts, differences = ([16, 32, 64], []) if solver == "euler" else ([4, 8, 16], [])
        for steps in counts:
            grads = []
            for gradient in ("backprop", "adjoint"):
                torch.manual_seed(2)
                flow = Flow(Coupled(), solver={"name": solver, "steps": steps}, gradient=gradient, horizon=(0.0, 2.0))
                x0 = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
                grads.append(torch.autograd.grad(flow(x0).sin().sum(), list(flow.parameters())))
            differences.append(max(largest(a - b) for a, b in zip(*grads, strict=True)))
        assert differences[0] > 1e-9, "at coarse steps they are not the same: never assert that"
        assert abs(fitted_slope(counts, differences) - order) <= 0.2

    def test_closed_form(self):
        """Liouville's ``dy/dv = z ds/dv``: the gradient of the speed is the velocity times the clock."""
        flow, x0 = Flow(Liouville(), solver={"name": "dopri5", "rtol": 1e-10}, gradient="adjoint"), Liouville.start()
        flow(x0)[:, 0].sum().backward()
        z = Liouville.exact(x0, Liouville.clock(1.0))[:, 1]
        assert abs(float(flow.dynamics.speed.grad) - float(z.sum()) * Liouville.clock(1.0)) <= 1e-7

    def test_memory_does_not_grow_with_depth(self):
        saved = {}
        for gradient in ("backprop", "adjoint"):
            for steps in (10, 40):
                flow, count = Flow(Coupled(), solver={"name": "rk4", "steps": steps}, gradient=gradient), [0]

                def pack(tensor, count=count):
                    count[0] += tensor.numel() * tensor.element_size()
                    return tensor

                x0 = torch.randn(64, 4, dtype=torch.float64).requires_grad_(True)
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    flow(x0)
                saved[gradient, steps] = count[0]
        assert saved["backprop", 40] > 3.5 * saved["backprop", 10]
        assert saved["adjoint", 40] == saved["adjoint", 10]

    def test_breakpoints_between_output_times(self):
        """Each piece is integrated back under its own control, wherever losses lie."""
        grads = []
        for gradient in ("backprop", "adjoint"):
            torch.manual_seed(2)
            word = {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12}
            costs = [RunningCost(lambda t, x: x.square().sum(1))]
            flow = Flow(Coupled(), {"name": "piecewise_constant", "pieces": 3}, word, gradient, quadratures=costs)
            x0 = torch.ones(2, 4, dtype=torch.float64)
            solution = flow.solve(x0, (0.0, 0.2, 1 / 3, 0.9, 1.0))
            loss = solution.states.sin().sum() + solution.quadratures["running_cost"].square().sum()
            grads.append(torch.autograd.grad(loss, list(flow.parameters())))
        assert max(largest(a - b) for a, b in zip(*grads, strict=True)) <= 1e-7

    def test_an_empty_batch(self):
        flow = Flow(Coupled(), solver="dopri5", gradient="adjoint")
        flow(torch.zeros(0, 4, dtype=torch.float64)).sum().backward()
        assert all(float(p.grad.abs().sum()) == 0 for p in flow.parameters())


class TestOneBackwardSolve:
    """The costate jumps at output times, and the solve goes on."""

    @staticmethod
    def flow(gradient, **options):
        torch.manual_seed(2)
        return Flow(Coupled(), solver={"name": "dopri5", "rtol": 1e-6, **options}, gradient=gradient)

    @pytest.mark.parametrize("gradient", ["adjoint", "interpolated_adjoint"])
    def test_an_output_time_costs_a_step_and_the_slope_after_the_jump(self, gradient):
        flow, counts = self.flow(gradient), []
        for number in (2, 101):
            x0 = torch.ones(2, 4, dtype=torch.float64)
            flow.solve(x0, torch.linspace(0, 1, number)).states.sum().backward()
            counts.append(flow.stats.nfe_backward)
        assert counts[0] >= 20 and counts[1] <= 100 * 7 + 1, "six evaluations a step, one after a jump, one first step"

    def test_the_sum_of_evaluations_is_the_integral(self):
        """With and without a vector that holds the integrals: the same steps, the same gradient to round-off."""
        grads, counts = [], []
        for weights in (type(odeframe.build("solver", "dopri5")).stage_weights, None):
            flow = self.flow("adjoint")
            flow.solver.stage_weights = weights
            flow.solve(torch.ones(2, 4, dtype=torch.float64), (0.0, 0.3, 1.0)).states.sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
            counts.append(flow.stats.nfe_backward)
        assert counts[0] == counts[1]
        assert max(largest(a - b) for a, b in zip(*grads, strict=True)) <= 1e-13

    def test_a_rejected_step_adds_nothing(self):
        grads = []
        for options in ({"first_step": 1.0}, {"rtol": 1e-9}):
            flow = self.flow("adjoint", **{"rtol": 1e-8, **options})
            flow(3 * torch.ones(2, 4, dtype=torch.float64)).sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
        assert max(largest(a - b) for a, b in zip(*grads, strict=True)) <= 1e-6

    @pytest.mark.parametrize("gradient", ["adjoint", "interpolated_adjoint"])
    def test_a_failed_backward_solve_says_so(self, gradient):
        flow = self.flow(gradient)
        loss = flow(torch.ones(2, 4, dtype=torch.float64)).sum()
        flow.solver.max_steps = 2
        with pytest.raises(odeframe.SolveFailed, match="max_steps"):
            loss.backward()

    def test_the_kept_trajectory_serves_where_integrating_back_amplifies_errors(self):
        """x' = -k (x - c): dx(T)/dc = 1 - exp(-k T), and going back multiplies errors of x by exp(k T)."""

        class Damped(odeframe.Dynamics):
            def __init__(self):
                super().__init__()
                self.c = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

            def forward(self, t, x, u=None):
                return -20.0 * (x - self.c.square())

        counts = {}
        for gradient in ("adjoint", "interpolated_adjoint"):
            flow = Flow(Damped(), solver={"name": "dopri5", "rtol": 1e-6}, gradient=gradient, horizon=(0.0, 2.0))
            flow(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
            assert float(flow.dynamics.c.grad) == pytest.approx(1.0, abs=1e-6)
            counts[gradient] = flow.stats.nfe_backward
        assert counts["interpolated_adjoint"] < 0.7 * counts["adjoint"]


class TestRefusals:
    @pytest.mark.parametrize("options", [{"name": "rk4"}, {"name": "dopri5", "per_sample": True}], ids=str)
    def test_a_solver_without_a_trajectory_of_the_batch(self, options):
        with pytest.raises(Incompatible, match="interpolated_adjoint"):
            Flow(Coupled(), solver=options, gradient="interpolated_adjoint")
        name, options = options["name"], {key: value for key, value in options.items() if key != "name"}
        chosen, solver = odeframe.build("gradient", "interpolated_adjoint"), odeframe.build("solver", name, **options)
        with pytest.raises(Incompatible, match="between the steps of an adaptive solver"):
            chosen.solve(solver, FunctionField(lambda t, x: -x), torch.ones(1, 2), (0.0, 1.0))

    def test_trainable_coefficients(self):
        class Scaled(odeframe.StepSolver):
            traits = ("step",)

            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

            def step(self, field, t, dt, x, memory):
                return x + dt * self.scale * field(t, x), ()

        with pytest.raises(Incompatible, match="trainable coefficients"):
            Flow(Coupled(), solver=Scaled(), gradient="adjoint")(torch.ones(1, 4, dtype=torch.float64))

    def test_complex_states(self):
        class Spin(nn.Module):
            def forward(self, x):
                return 1j * x

        with pytest.raises(Incompatible, match="complex"):
            Flow(Spin(), gradient="adjoint")(torch.ones(1, 2, dtype=torch.complex128))

    def test_a_tensor_in_a_plain_attribute(self):
        class Field(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(2, 2).double()
                self.gain = [torch.ones((), dtype=torch.float64, requires_grad=True)]

            def forward(self, x):
                return self.gain[0] * self.inner(x)

        loss = Flow(Field(), gradient="adjoint")(torch.ones(1, 2, dtype=torch.float64)).sum()
        with pytest.raises(Incompatible, match=r"register it as an nn.Parameter.*drive"):
            loss.backward()

    def test_parameters_that_were_swapped_in(self):
        """Under ``functional_call`` the backward solve would see others than the forward one."""
        flow, x0 = Flow(Coupled(), gradient="adjoint"), torch.ones(1, 4, dtype=torch.float64)
        values = {name: p.detach().clone().requires_grad_(True) for name, p in flow.named_parameters()}
        loss = torch.func.functional_call(flow, values, (x0,)).sum()
        with pytest.raises(Incompatible, match="functional_call"):
            loss.backward()

    def test_swapped_parameters_of_which_one_makes_the_other(self):
        """Their shares would be counted twice where autograd goes on from one to the other."""
        flow, x0 = Flow(Coupled(), gradient="checkpoint"), torch.ones(1, 4, dtype=torch.float64)
        first = {name: p.detach().clone().requires_grad_(True) for name, p in flow.named_parameters()}
        matrix = next(name for name, p in first.items() if p.dim() == 2 and p.shape[0] == p.shape[1])
        vector = next(name for name, p in first.items() if p.dim() == 1 and len(p) == len(first[matrix]))
        values = {**first, vector: first[matrix].sum(1)}
        with pytest.raises(Incompatible, match="computed from another of them"):
            torch.func.functional_call(flow, values, (x0,))

    def test_twice(self):
        flow, x0 = Flow(Coupled(), gradient="adjoint"), torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
        with pytest.raises(Incompatible, match="cannot be differentiated twice"):
            torch.autograd.grad(flow(x0).sum(), x0, create_graph=True)
