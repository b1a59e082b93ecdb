"""Implicit solvers: orders, stability, what stiffness leaves of the order, iterations, gradients, failures."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import odeframe
from odeframe import Flow, Incompatible, InvalidOption, SolveFailed, Status
from odeframe.field import FunctionField
from odeframe.testing import GradientConformance, SolverConformance
from odeframe_plugins.solvers.implicit import ImplicitEuler, ImplicitMidpoint, Trapezoid
from odeframe_plugins.solvers.krylov import gmres
from odeframe_plugins.solvers.radau import ERROR, MATRIX, NODES, Radau
from odeframe_plugins.solvers.sdirk import SDIRK4, check_tableau, rows_of
from odeframe_plugins.solvers.stages import Coupling, constant
from stiff_problems import PROBLEMS

GRID, ADAPTIVE = (ImplicitEuler, Trapezoid, ImplicitMidpoint), (SDIRK4, Radau)
KINDS = ("exact", "krylov", "anderson")


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


class StepsOnAGrid(SolverConformance):
    def test_a_pole_is_reported(self):
        """From dt x = 1/4 on (Euler) a step's equation has no solution: the solve ends before the pole, in words."""
        flow, x0 = self.exploding("raise")
        with pytest.raises(SolveFailed) as caught:
            flow(x0)
        error = caught.value
        assert error.status is Status.NEWTON_FAILED and 0 < error.t <= 0.5 and error.dt == pytest.approx(0.1)
        assert error.nfe > 0 and error.worst_sample == 1 and error.status.message in str(error)


class TestImplicitEuler(StepsOnAGrid):
    solver = "implicit_euler"


@pytest.mark.slow
class TestTrapezoid(StepsOnAGrid):
    solver = "trapezoid"


@pytest.mark.slow
class TestImplicitMidpoint(StepsOnAGrid):
    solver = "implicit_midpoint"


TIGHT = {"newton_tol": 1e-7, "max_newton": 20}


@pytest.mark.slow
class TestSDIRK4(SolverConformance):
    solver = {"name": "sdirk4", **TIGHT}


@pytest.mark.slow
class TestRadau(SolverConformance):
    solver, dense_order = {"name": "radau", **TIGHT}, 3  # the collocation polynomial


@pytest.mark.slow
class TestGradientByTheImplicitFunctionTheorem(GradientConformance):
    gradient = "backprop"
    solvers = (
        {"name": "radau", "rtol": 1e-8, "atol": 1e-8, "newton_tol": 1e-6, "max_newton": 20},
        {"name": "implicit_midpoint", "steps": 4},
    )
    # Dropout and batch norm are refused by the solver, autocast too (TestRefusals).
    test_autocast_is_the_same_both_ways = None
    test_random_and_batch_wide_layers = None


def one_step(solver, f, x, dt, t=0.0):
    """The state after one step of any solver."""
    law = FunctionField(f).on(*f64(t, t + dt))
    with torch.no_grad():
        memory = solver.init(law, law.t, x)
        if isinstance(solver, GRID):
            return solver.step(law, law.t, dt, x, memory)[0]
        return solver.attempt(law, law.t, dt, x, memory).x


class TestStability:
    @pytest.mark.parametrize("scheme", GRID + ADAPTIVE)
    def test_limit_of_the_stability_function(self, scheme):
        """R(-inf): 0 for the L-stable ones, -1 for trapezoid and midpoint."""
        x = one_step(scheme(), lambda t, x: -1e9 * x, torch.ones(1, 1, dtype=torch.float64), 1.0)
        assert float(x) == pytest.approx(-1.0 if scheme in (Trapezoid, ImplicitMidpoint) else 0.0, abs=2e-8)

    @pytest.mark.parametrize("scheme", GRID + ADAPTIVE)
    def test_a_stable(self, scheme):
        """|R(z)| <= 1 on a net of the left half plane and on its border; z = a + ib is a rotation with decay."""
        a, b = (
            v.flatten() for v in torch.meshgrid(-f64(0, 0.1, 1, 10, 1e3), f64(0.1, 0.7, 2, 5, 20, 1e3), indexing="ij")
        )
        x0 = torch.stack([torch.ones_like(a), torch.zeros_like(a)], dim=1)

        def f(t, x):
            return torch.stack([a * x[:, 0] - b * x[:, 1], b * x[:, 0] + a * x[:, 1]], dim=1)

        size = one_step(scheme(), f, x0, 1.0).norm(dim=1)
        assert float(size.max()) <= 1 + 1e-9
        if scheme in (Trapezoid, ImplicitMidpoint):
            assert torch.allclose(size[a == 0], torch.ones(6, dtype=torch.float64), atol=1e-9)

    @pytest.mark.parametrize(("scheme", "left"), [(SDIRK4, 1), (Radau, 3)])
    def test_order_reduction_is_to_the_stage_order(self, scheme, left):
        """x' = k (x - cos t) - sin t with k = -1e6 (Prothero, Robinson 1974): the error falls with the stage order."""
        errors = []
        for count in (20, 40):
            solver, x, dt = (
                scheme(rtol=1e-6, newton_tol=1e-9, max_newton=20),
                torch.ones(1, 1, dtype=torch.float64),
                2 / count,
            )
            law = FunctionField(lambda t, x: -1e6 * (x - torch.cos(t)) - torch.sin(t)).on(*f64(0, 2))
            with torch.no_grad():
                memory = solver.init(law, law.t, x)
                for k in range(count):
                    attempt = solver.attempt(law, law.t + k * dt, dt, x, memory)
                    x, memory = attempt.x, attempt.memory
            errors.append(abs(float(x) - math.cos(2)))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(left, abs=0.2)


class TestTableaus:
    def test_radau_collocates(self):
        """C(3) and B(5): the matrix integrates quadratics to every node, the weights quartics to the end."""
        a, c = torch.tensor(MATRIX, dtype=torch.float64), torch.tensor(NODES, dtype=torch.float64)
        for q in range(1, 6):
            if q <= 3:
                assert torch.allclose(a @ c ** (q - 1), c**q / q, atol=1e-15)
            assert float(a[2] @ c ** (q - 1)) == pytest.approx(1 / q, abs=1e-15)

    def test_radau_error_is_that_of_a_rule_with_the_start_as_a_node(self):
        """gamma f + e z = sum (b_hat - b) k, with b_hat of order 3 on the nodes 0, c_i and weight gamma at 0."""
        a, c, gamma = torch.tensor(MATRIX, dtype=torch.float64), torch.tensor(NODES, dtype=torch.float64), Radau._gamma
        moments = torch.stack([c ** (q - 1) for q in (1, 2, 3)])
        b_hat = torch.linalg.solve(moments, f64(1 - gamma, 1 / 2, 1 / 3))
        expected = torch.linalg.solve(a.mT, b_hat - a[2])
        assert torch.allclose(gamma * f64(*ERROR), expected, atol=1e-13)

    def test_a_wrong_number_is_refused_when_the_class_is_made(self):
        wrong = rows_of(
            " 1/4\n 1/2 1/4\n 17/50 -1/25 1/4\n 371/1360 -137/2720 15/544 1/4\n 25/24 -49/48 125/16 -85/12 1/4"
        )
        check_tableau("right", wrong, SDIRK4.b_error, (4, 3))
        with pytest.raises(TypeError, match="violates the condition of order 4 for the tree"):
            rows = (*wrong[:2], (wrong[2][0] + 1, wrong[2][1] - 1, wrong[2][2]), *wrong[3:])
            check_tableau("wrong", rows, SDIRK4.b_error, (4, 3))


def swirl(weight, drive=0.0, stiff=20):
    """A stiff nonlinear field with every direction coupled; depends on time, weight and drive."""
    return lambda t, x: torch.tanh(x @ weight.T) * torch.sin(3 * t) - stiff * x**3 + drive


@pytest.mark.slow
class TestIterations:
    @pytest.mark.parametrize("scheme", GRID)
    def test_all_solve_the_same_equation(self, scheme):
        torch.manual_seed(0)
        weight, x0 = torch.randn(5, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
        solver = {kind: scheme(steps=10, newton=kind, max_newton=200) for kind in KINDS}
        found = [odeframe.solve(swirl(weight), x0, (0.0, 1.0), solver[kind]).final for kind in KINDS]
        assert all(torch.allclose(x, found[0], atol=1e-11) for x in found)

    @pytest.mark.parametrize("scheme", ADAPTIVE)
    def test_matrix_free_steps_agree_with_exact_ones(self, scheme):
        torch.manual_seed(0)
        weight, x0 = torch.randn(5, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
        options = {"rtol": 1e-6, "atol": 1e-8}
        with torch.no_grad():
            exact, krylov = (
                odeframe.solve(swirl(weight), x0, (0.0, 1.0), scheme(newton=kind, **options)) for kind in KINDS[:2]
            )
        assert torch.allclose(exact.final, krylov.final, rtol=1e-5, atol=1e-7)
        assert abs(exact.stats.accepted - krylov.stats.accepted) <= 0.2 * exact.stats.accepted

    def test_large_states_take_no_matrix(self):
        """Heat on 2,000 points, dt lambda = 3e4: the resolvent by another code; the default is matrix-free there."""
        size, x0 = 2000, torch.linspace(-1, 1, 2000, dtype=torch.float64)[None] ** 2
        shift = lambda x: torch.cat([x[:, 1:], x[:, -1:]], 1) - 2 * x + torch.cat([x[:, :1], x[:, :-1]], 1)  # noqa: E731
        solver = ImplicitEuler(steps=1, newton_tol=1e-10)
        with torch.no_grad():
            found = odeframe.solve(lambda t, x: 50 * shift(x), x0, (0.0, 1.0), solver).final
        matrix = torch.eye(size, dtype=torch.float64) - 50 * shift(torch.eye(size, dtype=torch.float64))
        assert torch.allclose(found, torch.linalg.solve(matrix, x0.mT).mT, atol=1e-9)

    def test_gmres_gives_every_sample_its_own_space(self):
        torch.manual_seed(1)
        matrix = torch.randn(6, 40, 40, dtype=torch.float64) / 7 + 2 * torch.eye(40, dtype=torch.float64)
        rhs = torch.randn(6, 40, dtype=torch.float64)
        rhs[2] = 0
        found = gmres(lambda v: (matrix @ v[..., None])[..., 0], rhs, 1e-10)
        assert torch.allclose(found, torch.linalg.solve(matrix, rhs), atol=1e-8)
        alone = gmres(lambda v: (matrix[:1] @ v[..., None])[..., 0], rhs[:1], 1e-10)
        assert torch.allclose(found[:1], alone, atol=1e-9)

    def test_a_linear_field_takes_one_correction(self):
        """One evaluation with the Jacobian, one that finds nothing left: two calls a step."""
        solution = odeframe.solve(
            lambda t, x: -3 * x, torch.ones(2, 3), (0.0, 1.0), {"name": "implicit_euler", "steps": 5}
        )
        assert solution.stats.nfe == 10  # nothing has a graph here: none is recorded at the solution

    def test_one_stiff_sample_does_not_change_the_others(self):
        """The rate is the third component, so that samples can leave the batch."""
        x0 = torch.tensor([[1.0, 0.3, 1], [0.5, 2, 1], [1.5, 1, 1], [1, 1, 1e5]], dtype=torch.float64)

        def f(t, x):
            speed = -x[:, 2:] * (x[:, :2] ** 3 - torch.cos(t).reshape(-1, 1))
            return torch.cat([speed, 0 * x[:, 2:]], dim=1)

        for options in ({"name": "implicit_midpoint", "steps": 20}, {"name": "radau", "per_sample": True}):
            together, alone = (odeframe.solve(f, x, (0.0, 1.0), dict(options)).final for x in (x0, x0[:3]))
            assert torch.allclose(together[:3], alone, rtol=0, atol=1e-12)


@pytest.mark.slow
class TestGradients:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("scheme", GRID)
    def test_of_state_weight_drive_and_times(self, scheme, kind):
        torch.manual_seed(0)
        tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 3), (2, 3), (2, 3))]
        times = f64(0.1, 0.2, 0.25).requires_grad_()

        def final(weight, x0, drive, times):
            solver = scheme(steps=4, newton=kind, max_newton=200)
            return odeframe.solve(swirl(weight, drive), x0, times, solver).states.sin()

        assert torch.autograd.gradcheck(final, (*tensors, times), atol=1e-6, rtol=1e-5, fast_mode=True)

    @pytest.mark.parametrize("kind", KINDS[:2])
    @pytest.mark.parametrize("scheme", ADAPTIVE)
    def test_of_one_adaptive_step(self, scheme, kind):
        """With the step frozen: the end, the slope that the next step reuses, and the state in between."""
        torch.manual_seed(0)
        x0, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3), (3, 3)))
        solver = scheme(newton=kind, newton_tol=1e-8, max_newton=50)

        def step(x0, weight):
            law = FunctionField(swirl(weight)).on(*f64(0, 0.2))
            attempt = solver.attempt(law, law.t, 0.01, x0, solver.init(law, law.t, x0))
            return attempt.x, attempt.memory[0], solver.interpolate(0.4, 0.01, x0, attempt)

        assert torch.autograd.gradcheck(step, (x0, weight), atol=1e-6, rtol=1e-5, fast_mode=True)

    def test_memory_does_not_hold_the_iterations(self):
        """Bytes saved for the backward pass are the same at 3 and at 30 iterations."""
        sizes = []
        for tolerance in (1e-3, 1e-15):
            saved, block = [], nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
            flow = Flow(
                block, solver={"name": "implicit_euler", "steps": 4, "newton": "anderson", "newton_tol": tolerance}
            )
            with torch.autograd.graph.saved_tensors_hooks(lambda v, s=saved: s.append(v.nbytes) or v, lambda v: v):
                flow(torch.ones(3, 4, dtype=torch.float64))
            sizes.append((sum(saved), flow.stats.nfe))
        assert sizes[0][0] == sizes[1][0] > 0 and sizes[1][1] > sizes[0][1] + 8

    @pytest.mark.parametrize("solver", [{"name": "trapezoid", "steps": 40}, {"name": "radau", "rtol": 1e-9}])
    def test_continuous_adjoint_agrees(self, solver):
        grads = []
        for gradient in ("backprop", "adjoint"):
            torch.manual_seed(0)
            flow = Flow(nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double(), solver=solver, gradient=gradient)
            flow(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
            grads.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
        assert torch.allclose(*grads, rtol=1e-3 if solver["name"] == "trapezoid" else 1e-6)

    def test_samples_that_depend_on_each_other_are_found_out(self):
        x0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
        solution = odeframe.solve(lambda t, x: x.mean(0) - x**3, x0, (0.0, 0.5), {"name": "implicit_euler", "steps": 2})
        with pytest.raises(SolveFailed, match="samples of the batch depend on one another"):
            solution.final.sum().backward()


class TestGeometry:
    def test_midpoint_keeps_quadratic_invariants(self):
        """The free rigid body: |x|^2 and the energy, to round-off over 300 steps."""
        inertia, x0 = f64(2, 1, 2 / 3), f64(math.cos(1.1), 0, math.sin(1.1))[None]

        def body(t, x):
            return torch.linalg.cross(x, x / inertia)

        with torch.no_grad():
            x = odeframe.solve(body, x0, (0.0, 90.0), {"name": "implicit_midpoint", "steps": 300}).final
        for weight in (torch.ones(3, dtype=torch.float64), 1 / inertia):
            assert float((weight * (x**2 - x0**2)).sum()) == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("name", ["trapezoid", "implicit_midpoint"])
    def test_reverse_steps_undo_steps(self, name):
        """The pendulum, 200 steps there and 200 back."""
        law = FunctionField(lambda t, x: torch.stack([x[:, 1], -torch.sin(x[:, 0])], 1)).on(*f64(0, 50))
        solver, x0 = odeframe.build("solver", name, steps=200), f64(1.0, 0.5)[None]
        x, memory, dt = x0, (), 0.1
        with torch.no_grad():
            for k in range(200):
                x, memory = solver.step(law, f64(k * dt)[0], dt, x, memory)
            for k in reversed(range(200)):
                x, memory = solver.reverse_step(law, f64(k * dt)[0], dt, x, memory)
        assert float((x - x0).abs().max()) <= 1e-10


@pytest.mark.parametrize("solver", ["sdirk4", "radau", "implicit_euler"])
def test_stages_are_evaluated_again_only_where_there_is_a_graph_to_record(solver):
    """The gradient of a weight in a closure costs one evaluation a stage more; without a weight there is none."""
    x0, counts = torch.ones(1, 2, dtype=torch.float64), {}
    for name, recording, wanted in (("neither", True, False), ("no_grad", False, True), ("both", True, True)):
        rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=wanted)
        with torch.set_grad_enabled(recording):
            found = odeframe.solve(lambda t, x, rate=rate: -rate * x, x0, (0.0, 1.0), solver)
        counts[name] = found.stats.nfe
    assert counts["neither"] == counts["no_grad"] < counts["both"]
    (slope,) = torch.autograd.grad(found.final.sum(), rate)
    end = float(found.final.detach().sum())
    assert float(slope) == pytest.approx(-end if solver != "implicit_euler" else -end / (1 + 0.05), rel=1e-5)


@pytest.mark.parametrize("solver", ["sdirk4", "radau"])
def test_a_solve_in_inference_mode_leaves_nothing_behind_that_training_cannot_use(solver):
    """The numbers of a scheme are kept from solve to solve; Lightning evaluates in inference mode before it trains."""
    field, x0 = nn.Linear(2, 2).double(), torch.ones(1, 2, dtype=torch.float64)
    Coupling.on.cache_clear()
    constant.cache_clear()
    with torch.inference_mode():
        odeframe.solve(lambda t, x: field(x), x0.clone(), (0.0, 0.1), solver)
    Flow(field, solver=solver)(x0).sum().backward()
    assert float(field.weight.grad.norm()) > 0


class TestRefusals:
    def test_complex_and_half_states(self):
        with pytest.raises(Incompatible, match="view_as_real"):
            odeframe.solve(lambda t, x: 1j * x, torch.ones(1, 1, dtype=torch.complex128), (0.0, 1.0), "radau")
        with pytest.raises(InvalidOption, match="float32 or float64"):
            odeframe.solve(lambda t, x: -x, torch.ones(1, 1, dtype=torch.float16), (0.0, 1.0), "implicit_euler")

    @pytest.mark.parametrize("solver", ["implicit_euler", "radau"])
    def test_transforms_autocast_and_second_derivatives(self, solver):
        x0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)

        def end(x):
            return odeframe.solve(lambda t, x: -x, x, (0.0, 1.0), solver).final.sum()

        with pytest.raises(Incompatible, match=r"torch\.func"):
            torch.func.grad(end)(x0)
        with pytest.raises(Incompatible, match="autocast"), torch.autocast("cpu", torch.bfloat16):
            end(x0)
        with pytest.raises(Incompatible, match="differentiated twice"):
            torch.autograd.grad(end(x0), x0, create_graph=True)

    @pytest.mark.parametrize("options", [{"newton": "broyden"}, {"newton_tol": 2.0}, {"max_newton": 1}])
    @pytest.mark.parametrize("name", ["trapezoid", "sdirk4"])
    def test_options(self, name, options):
        with pytest.raises(InvalidOption, match="|".join(options)):
            odeframe.build("solver", name, **options)

    @pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)])
    def test_layers_that_couple_samples_or_are_random(self, layer):
        with pytest.raises(Incompatible, match=r"batch_norm|dropout"):
            Flow(nn.Sequential(nn.Linear(3, 3), layer), solver="radau")

    @pytest.mark.parametrize("on_failure", ["return", "last"])
    def test_failure_keeps_what_was_computed(self, on_failure):
        solver = ImplicitEuler(steps=10, on_failure=on_failure)
        solution = odeframe.solve(lambda t, x: x**2, f64(1, 0.1)[:, None], (0.0, 0.1, 2.0), solver)
        assert solution.status is Status.NEWTON_FAILED and bool(torch.isfinite(solution.states[:2]).all())
        assert bool(torch.isfinite(solution.states[2]).all()) is (on_failure == "last")

    def test_a_field_without_batching_rule_names_the_way_out(self):
        class Opaque(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return -x

            @staticmethod
            def backward(ctx, g):
                return torch.from_numpy(-g.detach().numpy())

        with pytest.raises(Incompatible, match="newton='krylov'"):
            odeframe.solve(lambda t, x: Opaque.apply(x), torch.ones(1, 2), (0.0, 1.0), "implicit_euler")


@pytest.mark.slow
class TestStiffProblems:
    def test_robertson_at_equal_cost(self):
        """Against scipy's Radau at 1e-4: error and evaluations (ours with those for Jacobians) of the same size."""
        problem, options = PROBLEMS[0], {"rtol": 1e-4, "atol": 1e-4 * PROBLEMS[0].share}
        with torch.no_grad():
            mine = odeframe.solve(problem.field, problem.x0, (0.0, problem.end), "radau", **options)
        theirs = solve_ivp(problem.numpy, (0.0, problem.end), problem.start, method="Radau", **options)
        errors = [problem.error(x, 1e-4) for x in (mine.final[0].numpy(), theirs.y[:, -1])]
        assert errors[0] <= 3 * errors[1] and mine.stats.nfe <= 1.3 * theirs.nfev
