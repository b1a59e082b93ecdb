"""Solvers of the core set are conformant, every registered one is tested so, and the kit catches what it is for."""

import ast
from pathlib import Path

import pytest
import torch

import odeframe
from odeframe import InvalidOption, SolveFailed, Solver, Status, StepSolver
from odeframe.adaptive import AdaptiveSolver, Attempt
from odeframe.solver import ReversibleSolver
from odeframe.testing import SolverConformance
from odeframe.testing.conformance import build


class TestEuler(SolverConformance):
    solver = "euler"


class TestRK4(SolverConformance):
    solver = "rk4"


class TestDopri5(SolverConformance):
    solver = "dopri5"


class TestLeapfrog(SolverConformance):
    """But for its order, which is that of x'' = F: tests of symplectic schemes have it."""

    solver = "leapfrog"


@pytest.mark.slow
class TestTorchdiffeqDopri5(SolverConformance):
    solver = "torchdiffeq"


class TestTorchdiffeqEuler(SolverConformance):
    solver, order = {"name": "torchdiffeq", "method": "euler"}, 1


class TestTorchdiffeqRK4(SolverConformance):
    solver, order = {"name": "torchdiffeq", "method": "rk4"}, 4


def torchdiffeq_methods():
    from torchdiffeq._impl.odeint import SOLVERS

    return sorted(SOLVERS)


class TestEveryMethodOfTorchdiffeq:
    @pytest.mark.parametrize("method", torchdiffeq_methods())
    def test_solves_forwards_and_backwards_and_fails_in_words(self, method):
        x0, word = torch.tensor([[1.0], [2.0]], dtype=torch.float64), {"name": "torchdiffeq", "method": method}
        with torch.no_grad():
            solver = build("solver", word)
            there = odeframe.solve(lambda t, x: -t * x, x0, (0.0, 0.4, 1.0), solver)
            back = odeframe.solve(lambda t, x: -t * x, there.final, (1.0, 0.0), solver)
            coarse = 0.06 if method == "euler" else 0.01
            assert torch.allclose(there.states[1:, 0, 0], torch.tensor([-0.08, -0.5]).double().exp(), atol=coarse)
            assert torch.allclose(back.final, x0, atol=4 * coarse)
            with pytest.raises(SolveFailed) as caught:
                odeframe.solve(lambda t, x: x**2, x0.float(), (0.0, 4.0), build("solver", word, max_steps=200))
        assert caught.value.status in set(Status) - {Status.SUCCESS}
        assert caught.value.worst_sample == 1

    @pytest.mark.parametrize("method", torchdiffeq_methods())
    def test_the_table_knows_which_are_adaptive(self, method):
        found = odeframe.describe("solver", "torchdiffeq")
        traits = (*found["traits"], *found["when"].get(f"method={method}", {}).get("traits", ()))
        assert traits == build("solver", {"name": "torchdiffeq", "method": method}).traits

    def test_options_are_checked(self):
        for options, said in (
            ({"method": "rk5"}, "expected one of"),
            ({"method": "rk4", "options": {"step": 0.1}}, "has no option step; it has"),
            ({"method": "dopri5", "steps": 4}, "fixed-step method"),
            ({"method": "dopri5", "rtol": float("nan")}, "option rtol: got nan, expected a finite number > 0"),
        ):
            with pytest.raises(InvalidOption, match=said):
                build("solver", {"name": "torchdiffeq", **options})

    def test_scipy_loses_no_gradient(self):
        solver = build("solver", {"name": "torchdiffeq", "method": "scipy_solver"})
        x0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        with pytest.raises(odeframe.Incompatible, match="goes through scipy"):
            odeframe.solve(lambda t, x: -x, x0, (0.0, 1.0), solver)
        flow = odeframe.Flow(torch.nn.Linear(1, 1).double(), solver=solver, gradient="adjoint")
        flow(x0).sum().backward()
        assert x0.grad is not None

    def test_an_error_of_the_field_is_the_users_own(self):
        def field(t, x):
            raise AssertionError("the field's own")

        with pytest.raises(AssertionError, match="the field's own"):
            odeframe.solve(field, torch.ones(1, 1), (0.0, 1.0), "torchdiffeq")


def conformant_names(kind):
    """What the test modules that use the conformance class of a kind name: some make their classes in a loop."""
    texts = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    trees = [ast.parse(text) for text in texts if f"{kind.title()}Conformance" in text]
    return {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("kind", ["solver", "control", "gradient"])
def test_every_registered_part_has_a_conformance_class(kind):
    missing = set(odeframe.available(kind)) - conformant_names(kind)
    assert not missing, f"{kind}s without a class Test...({kind.title()}Conformance): {', '.join(sorted(missing))}"


def complaint(solver, check, *arguments, **attributes):
    """What a check says of a solver that it must not let pass."""
    kit = type("Kit", (SolverConformance,), {"solver": solver, **attributes})
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(kit(), check)(*arguments)
    return str(caught.value)


class Step(StepSolver):
    """Heun's method of order 2, from which the wrong ones differ in one thing."""

    traits, order = ("step",), 2

    def step(self, field, t, dt, x, memory):
        k = field(t, x)
        return x + dt / 2 * (k + field(t + dt, x + dt * k)), ()


class TestHeunOfTheseTests(SolverConformance):
    solver = Step


class WrongWeight(Step):
    def step(self, field, t, dt, x, memory):
        k = field(t, x)
        return x + dt * (0.4 * k + 0.6 * field(t + dt, x + dt * k)), ()


class FrozenTime(Step):
    def step(self, field, t, dt, x, memory):
        k = field(t, x)
        return x + dt / 2 * (k + field(t, x + dt * k)), ()


class Remembering(StepSolver):
    """Two-step Adams-Bashforth for equal steps, its memory never dropped."""

    traits, order, restart = ("step",), 2, "breakpoints"

    def init(self, field, t, x):
        return ()

    def step(self, field, t, dt, x, memory):
        k = field(t, x)
        if memory:
            return x + dt * (1.5 * k - 0.5 * memory[0]), (k,)
        return x + dt / 2 * (k + field(t + dt, x + dt * k)), (k,)


class Hoarding(Remembering):
    """The same with its memory on the object."""

    last = None

    def step(self, field, t, dt, x, memory):
        x, (k,) = super().step(field, t, dt, x, () if self.last is None else (self.last,))
        self.last = k
        return x, ()


class Reaching(Step):
    def step(self, field, t, dt, x, memory):
        return x + dt * (1.5 * field(t, x) - 0.5 * field(t - dt, x)), ()


class Widening(Step):
    def step(self, field, t, dt, x, memory):
        x, _ = super().step(field, t, dt, x, memory)
        return x * torch.ones(1, dtype=torch.float64), ()


class Unsigned(Step):
    def step(self, field, t, dt, x, memory):
        return super().step(field, t, abs(dt), x, memory)


class Averaging(Step):
    def step(self, field, t, dt, x, memory):
        x, _ = super().step(field, t, dt, x, memory)
        return x + 1e-3 * (x - x.mean(0)), ()


class Uncounted(Step):
    def step(self, field, t, dt, x, memory):
        return x + dt * field.control.call(0, "forward", t, x), ()


class Silencing(Step):
    def step(self, field, t, dt, x, memory):
        x, _ = super().step(field, t, dt, x, memory)
        return torch.nan_to_num(x).clamp(-1e6, 1e6), ()


class Untold(Step):
    traits = ()


class Careless(Step):
    def __init__(self, steps=None, on_failure="raise", dt=None):
        Solver.__init__(self)
        self.steps, self.dt = steps, dt


class Anonymous(Step):
    """Says nothing of the sample that failed."""

    def failed(self, solution, t, dt, last, suspect=None):
        return super().failed(solution, t, dt, torch.zeros_like(last))


class Unkeyed(StepSolver):
    traits = ("step", "stochastic")

    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x) * (1 + torch.randn_like(x)), ()


class Irreversible(ReversibleSolver):
    traits = ("step", "reversible")

    def step(self, field, t, dt, x, memory):
        return x + dt * field(t, x), ()

    def reverse_step(self, field, t, dt, x, memory):
        return x - dt * field(t + dt, x), ()


class Constant(StepSolver):
    """A coefficient that is read as a number."""

    traits, order = ("step",), 1

    def __init__(self, steps=None, dt=None, on_failure="raise"):
        super().__init__(steps, dt, on_failure)
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def reset_parameters(self):
        torch.nn.init.ones_(self.scale)

    def step(self, field, t, dt, x, memory):
        return x + dt * float(self.scale.detach()) * field(t, x), ()


class Adaptive(AdaptiveSolver):
    """Heun with Euler's error, from which the wrong ones differ."""

    order, error_order = 2, 2

    def attempt(self, field, t, dt, x, memory):
        k = field(t, x)
        new = x + dt / 2 * (k + (last := field(t + dt, x + dt * k)))
        return Attempt(new, dt / 2 * (last - k).detach(), (), (k, last))

    def interpolate(self, theta, dt, x, attempt):
        k, last = attempt.stages
        return x + dt * (theta * k + theta**2 / 2 * (last - k))


class TestAdaptiveHeunOfTheseTests(SolverConformance):
    solver = Adaptive


class Optimist(Adaptive):
    def attempt(self, field, t, dt, x, memory):
        tried = super().attempt(field, t, dt, x, memory)
        return Attempt(tried.x, tried.error * 1e-4, tried.memory, tried.stages)


class Stepwise(Adaptive):
    def interpolate(self, theta, dt, x, attempt):
        return x


@pytest.mark.parametrize(
    ("solver", "check", "arguments", "said"),
    [
        (WrongWeight, "test_order", (), "order 2 is claimed"),
        (WrongWeight, "test_exact_on_polynomials", (), "the weights violate"),
        (FrozenTime, "test_order", (), "each stage gets its own time"),
        (FrozenTime, "test_order_with_a_smooth_control", (), "at each stage's own time"),
        (Hoarding, "test_order_across_jumps_of_the_control", (), "restart = 'breakpoints'"),
        (Hoarding, "test_step_maps_compose_to_the_flow", (), "not as an attribute"),
        (Remembering, "test_order_with_unequal_steps", (), "lengths of its past steps"),
        (Reaching, "test_steps_stay_in_their_interval", (), "times within its own interval"),
        (Widening, "test_shape_dtype_and_device_are_kept", ((3, 2), torch.float32), "keep coefficients plain numbers"),
        (Unsigned, "test_solving_back_returns", (), "dt is negative on the way back"),
        (Averaging, "test_samples_do_not_see_each_other", (), "treats samples one by one"),
        (Averaging, "test_one_sample_as_in_a_larger_batch", (), "solved differently"),
        (Uncounted, "test_evaluations_are_counted", (), "call the law that is given"),
        (Silencing, "test_a_pole_is_reported", (), "DID NOT RAISE"),
        (Silencing, "test_a_failure_is_returned_where_asked", (), "status says success"),
        (Anonymous, "test_a_pole_is_reported", (), "worst_sample = 0"),
        (Untold, "test_traits_of_table_and_class_agree", (), "write traits = ('step',)"),
        (Careless, "test_step_options_are_checked", (), "DID NOT RAISE"),
        (Careless, "test_unknown_failure_mode_is_refused", (), "DID NOT RAISE"),
        (Unkeyed, "test_noise_is_replayed", (), "draw from law.noise"),
        (Unkeyed, "test_samples_do_not_see_each_other", (), "keyed by the sample"),
        (Irreversible, "test_steps_can_be_reversed", (), "undo the half steps"),
        (Constant, "test_trainable_coefficients_are_part_of_the_control", (), "read as a number"),
        (Optimist, "test_error_falls_with_the_tolerance", (), "the error estimate is too small"),
        (Stepwise, "test_order_of_attempts_and_of_dense_output", (), "check interpolate()"),
        (Stepwise, "test_output_times_off_the_grid", (), "the interpolation between steps"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value if isinstance(value, str) else "",
)
def test_the_kit_says_what_is_wrong(solver, check, arguments, said):
    assert said in complaint(solver, check, *arguments)


def test_the_kit_leaves_out_what_does_not_concern_a_solver():
    assert TestRK4.test_order is not None
    assert TestRK4.test_max_steps_is_a_limit is None
    assert TestDopri5.test_order is None
    assert TestDopri5.test_breakpoints_are_respected is not None
    assert TestTorchdiffeqDopri5.test_exact_on_polynomials is None, "no order is claimed"


def test_the_kit_takes_words_classes_and_functions():
    for choice in ("euler", {"name": "euler", "dt": 0.5}, Step, lambda **options: Step(**options)):
        kit = type("Kit", (SolverConformance,), {"solver": choice})
        assert kit.make(steps=3).steps == 3
    with pytest.raises(InvalidOption, match="builds the part several times"):
        type("Kit", (SolverConformance,), {"solver": Step()})


class TestAdaptivity:
    def test_the_order_is_what_breaks_across_jumps(self):
        """Fact: a control that is sampled at points makes rk4 first order; the law of the interval keeps it at 4."""
        from odeframe.testing.accuracy import fitted_slope, largest
        from odeframe.testing.problems import Liouville

        torch.manual_seed(5)
        flow = odeframe.Flow(Liouville(), {"name": "piecewise_constant", "pieces": 4})
        speeds = [float(parameter.detach()) for parameter in flow.parameters()]
        x0, counts = Liouville.start(), [8, 16, 32, 64]
        exact = Liouville.exact(x0, Liouville.elapsed(flow.control.breakpoints(), speeds, 1.0))

        def at_points(t, x):  # the piece that begins at t, as a lookup by time gives it
            speed = speeds[min(int(float(t) * 4), 3)]
            y, z = Liouville.split(x)
            return speed * Liouville.pace(t) * torch.cat([z, torch.exp(-2 * y)], dim=1)

        by_point = [largest(odeframe.solve(at_points, x0, (0.0, 1.0), "rk4", steps=n).final - exact) for n in counts]
        by_law = []
        for n in counts:
            flow.solver.steps = n
            by_law.append(largest(flow(x0) - exact))
        assert abs(fitted_slope(counts, by_point) - 1) <= 0.2
        assert abs(fitted_slope(counts, by_law) - 4) <= 0.2


@pytest.mark.gpu
class TestRK4OnCUDA(SolverConformance):
    solver, device = "rk4", "cuda"


@pytest.mark.gpu
class TestDopri5OnCUDA(SolverConformance):
    solver, device = "dopri5", "cuda"
