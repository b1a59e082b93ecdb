"""Reversible schemes and the reversible gradient: the kit's checks, reversal to round-off, constant memory."""

import math
import warnings

import pytest
import torch
from torch import nn

import odeframe
from odeframe import DataSpec, Flow, FlowModule, InvalidOption, Noise, SecondOrderDynamics, SeparableDynamics
from odeframe.costs import RunningCost
from odeframe.grid import check_times
from odeframe.testing import GradientConformance, SolverConformance
from odeframe.testing.accuracy import fitted_slope, largest
from odeframe.testing.live import LiveBytes
from odeframe.testing.problems import Liouville

SEPARABLE = ("symplectic_euler", "verlet", "yoshida4")
ANY_FIELD = ("reversible_midpoint", "alf", "reversible_heun")
ALL = (*SEPARABLE, "leapfrog", *ANY_FIELD)
HAMILTONIAN = DataSpec("small", (3,), "value", None, (2,), "regression")


class TestReversibleMidpoint(SolverConformance):
    solver = {"name": "reversible_midpoint", "start": "midpoint"}


class TestReversibleMidpointAfterEuler(SolverConformance):
    solver = "reversible_midpoint"

    def test_exact_on_polynomials(self):
        """Euler's first step leaves h^2 on x' = 2 t: exact to degree 1 alone."""
        x0, times = torch.zeros(1, 1, dtype=torch.float64), torch.linspace(0, 1, 6, dtype=torch.float64)
        states = odeframe.solve(lambda t, x: torch.ones_like(x), x0, times, self.make(steps=5)).states
        assert largest(states[:, 0, 0] - times) <= 1e-14

    def test_order_with_unequal_steps(self):
        """Euler's step at every change of length: order 1 where each step is cut in two."""
        x0, errors = Liouville.start(), []
        for n in self.counts():
            times = (0.0, *((k + 0.3) / n for k in range(n)), 1.0)
            errors.append(largest(self.flow(Liouville(), steps=n).solve(x0, times).final - self.exact(1.0)))
        assert abs(fitted_slope(self.counts(), errors) - 1) <= 0.2

    def test_output_times_off_the_grid(self):
        """A few of them are a few Euler steps more, each h^2 off: the order stays, with a larger constant."""
        x0, errors = Liouville.start(), []
        for n in self.counts():
            states = self.flow(Liouville(), steps=n).solve(x0, (0.0, 0.03, 0.3, 0.59, 0.77, 1.0)).states
            errors.append(largest(states[-1] - self.exact(1.0)))
        assert fitted_slope(self.counts(), errors) >= 1.7

    def test_is_the_two_step_recursion(self):
        x0, h = torch.randn(3, 2, dtype=torch.float64), 0.05
        times = torch.arange(41, dtype=torch.float64) * h
        states = [x0, x0 + h * swing(times[0], x0)]
        for t in times[1:-1]:
            states.append(states[-2] + 2 * h * swing(t, states[-1]))
        assert largest(odeframe.solve(swing, x0, times, self.make(steps=40)).states - torch.stack(states)) <= 1e-13


class TestALF(SolverConformance):
    solver = "alf"


class TestDampedALF(SolverConformance):
    solver = {"name": "alf", "damping": 0.8}


class TestRestartedALF(SolverConformance):
    solver = {"name": "alf", "restart": "breakpoints"}


class TestReversibleHeun(SolverConformance):
    solver = "reversible_heun"


class TestReversibleGradient(GradientConformance):
    gradient = "reversible"
    solvers = tuple({"name": name, "steps": 32} for name in (*ANY_FIELD, *SEPARABLE))

    def test_stochastic_solvers(self):
        """A step that draws from law.noise can be undone, and its gradient sees the same draws."""
        grads = []
        for gradient in ("reversible", "backprop"):
            flow = self.flow(lambda: NoisyCoupling(steps=8), gradient=odeframe.build("gradient", gradient))
            flow(self.start(), noise=Noise(1)).sin().sum().backward()
            grads.append([p.grad for p in flow.parameters()])
        assert max(largest(a - b) for a, b in zip(*grads, strict=True)) <= 1e-12


class NoisyCoupling(odeframe.ReversibleSolver):
    """Euler's step of one half with a random length, then of the other."""

    traits, needs, opaque = ("step", "reversible", "stochastic"), ("dynamics:separable",), False

    def step(self, field, t, dt, x, memory):
        (y, z), scale = SeparableDynamics.split(x), 1 + 0.5 * field.noise.normal(x, (2,))
        y = y + dt * scale * field.part("first", t, z)
        return torch.cat([y, z + dt * field.part("second", t, y)], dim=1), ()

    def reverse_step(self, field, t, dt, x, memory):
        (y, z), scale = SeparableDynamics.split(x), 1 + 0.5 * field.noise.normal(x, (2,))
        z = z - dt * field.part("second", t, y)
        return torch.cat([y - dt * scale * field.part("first", t, z), z], dim=1), ()


def swing(t, x):
    return torch.stack([x[:, 1], -torch.sin(x[:, 0])], dim=1)


class Pendulum(SeparableDynamics):
    """q' = p, p' = -sin q."""

    def first(self, t, z, u=None):
        return z

    def second(self, t, y, u=None):
        return -torch.sin(y)


class Antisymmetric(SeparableDynamics):
    """x' = tanh(M x + b) with an antisymmetric M of two blocks: y' = tanh(K z + a), z' = -tanh(K^T y + b)."""

    def __init__(self, half=4):
        super().__init__()
        self.lift, self.bias = nn.Linear(half, half), nn.Parameter(torch.zeros(half))

    def reset_parameters(self):
        nn.init.uniform_(self.bias, -0.5, 0.5)

    def first(self, t, z, u=None):
        return torch.tanh(self.lift(z))

    def second(self, t, y, u=None):
        return -torch.tanh(y @ self.lift.weight + self.bias)


class Spring(SecondOrderDynamics):
    """x'' = -K^T tanh(K x + b)."""

    def __init__(self, width=8):
        super().__init__()
        self.lift = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return -torch.tanh(self.lift(x)) @ self.lift.weight


def dynamics_for(solver):
    return Spring() if solver == "leapfrog" else Antisymmetric()


def steps_of(flow, times):
    grid = flow.solver.grid(flow.field(), check_times(times))
    for k, dt in enumerate(grid.spacing):
        law = flow.field().on(grid.nodes[k], grid.nodes[k + 1], step=k)
        yield law, law.stepper(flow.solver), grid.nodes[k], dt


def there_and_back(flow, x0):
    """The largest state on the way, and the error of the start after all steps are undone."""
    steps = list(steps_of(flow, flow.horizon))
    with torch.no_grad():
        x, memory = x0, steps[0][1].init(steps[0][0], steps[0][2], x0)
        start, largest_state = memory, 0.0
        for law, stepper, t, dt in steps:
            x, memory = stepper.step(law, t, dt, x, memory)
            largest_state = max(largest_state, float(x.abs().max()))
        for law, stepper, t, dt in reversed(steps):
            x, memory = stepper.reverse_step(law, t, dt, x, memory)
    return largest_state, max(largest(a - b) for a, b in zip((x, *memory), (x0, *start), strict=True))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class TestReversal:
    @pytest.mark.slow
    @pytest.mark.parametrize("solver", ALL)
    def test_a_thousand_steps_of_a_bounded_antisymmetric_field(self, solver):
        flow = Flow(dynamics_for(solver), solver={"name": solver, "steps": 1000}, horizon=(0.0, 50.0)).double()
        _, error = there_and_back(flow, torch.randn(8, 8, dtype=torch.float64))
        assert error <= 1e-10

    @pytest.mark.parametrize("solver", [*SEPARABLE, *ANY_FIELD])
    def test_a_thousand_steps_of_the_pendulum(self, solver):
        flow = Flow(Pendulum(), solver={"name": solver, "steps": 1000}, horizon=(0.0, 50.0)).double()
        state, error = there_and_back(flow, torch.tensor([[0.5, 0.0], [2.0, 0.3]], dtype=torch.float64))
        assert error <= 1e-10 and state < 3

    @pytest.mark.parametrize("solver", ALL)
    def test_a_piece_of_control_a_step(self, solver):
        flow = Flow(dynamics_for(solver), "piecewise_constant", {"name": solver, "steps": 64}, horizon=(0.0, 6.4))
        _, error = there_and_back(flow.double(), torch.randn(8, 8, dtype=torch.float64))
        assert error <= 1e-12

    @pytest.mark.parametrize("solver", ["reversible_midpoint", "alf", "reversible_heun"])
    def test_a_decaying_mode_amplifies_errors_as_the_docs_say(self, solver):
        """x' = -x to T = 20: what comes back is off by about e^20 times round-off, 5e8 x 1e-16, or far more."""
        flow = Flow(nn.Linear(1, 1), solver={"name": solver, "steps": 400}, horizon=(0.0, 20.0)).double()
        nn.init.constant_(flow.dynamics.module.weight, -1.0), nn.init.zeros_(flow.dynamics.module.bias)
        _, error = there_and_back(flow, torch.ones(1, 1, dtype=torch.float64))
        assert error > 1e-9

    def test_midpoint_and_alf_explode_on_decay(self):
        """x' = -3 x to T = 20 at h = 0.05: the second root |r| = 0.15 + sqrt(1 + 0.15^2), to the power 400."""
        root = 0.15 + math.sqrt(1 + 0.15**2)
        for solver in ("reversible_midpoint", "alf"):
            x0 = torch.ones(1, 1, dtype=torch.float64)
            end = odeframe.solve(lambda t, x: -3 * x, x0, (0.0, 20.0), solver, steps=400).final
            assert 1e-5 < abs(float(end)) / root**400 < 1 and abs(float(end)) > 1e19

    @pytest.mark.parametrize(
        "options", [{"damping": 0.5}, {"damping": 0.0}, {"damping": 1.5}, {"restart": "sometimes"}], ids=str
    )
    def test_alf_options_are_checked(self, options):
        with pytest.raises(InvalidOption, match=next(iter(options))):
            odeframe.build("solver", "alf", **options)


def solved(solver, gradient, depth, control="constant", horizon=None, **options):
    """A loss at three times with a running cost, what it depends on, and the bytes that the solve saved for it."""
    torch.manual_seed(1)
    cost = RunningCost(lambda t, x: x.square().sum(1))
    word = {"name": solver, "steps": depth, **options}
    flow = Flow(dynamics_for(solver), control, word, gradient, (0.0, horizon or depth / 8), [cost]).double()
    x0, saved = torch.randn(5, 8, dtype=torch.float64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.nbytes) or v, lambda v: v):
        solution = flow.solve(x0, [0.0, flow.horizon[1] / 2, flow.horizon[1]])
    loss = (solution.states[1].sin() + solution.final.square()).sum() + flow.running_cost(solution).sum()
    return loss, [x0, *flow.parameters()], sum(saved), flow


def differentiated(*words, **options):
    """The gradient of :func:`solved`, the bytes, and the counts."""
    loss, leaves, saved, flow = solved(*words, **options)
    return torch.autograd.grad(loss, leaves), saved, flow.stats


class TestExactAndOfConstantMemory:
    @pytest.mark.parametrize("control", ["constant", "piecewise_constant"])
    @pytest.mark.parametrize("solver", ALL)
    def test_equals_backprop(self, solver, control):
        exact, *_ = differentiated(solver, "backprop", 24, control)
        found, _, stats = differentiated(solver, "reversible", 24, control)
        assert max(largest(a - b) / max(1.0, largest(b)) for a, b in zip(found, exact, strict=True)) <= 1e-11
        assert stats.nfe_backward <= 3 * stats.nfe + 10  # a step back, a step again, and its derivative

    @pytest.mark.parametrize(
        ("solver", "control"), [*((s, "constant") for s in ALL), ("symplectic_euler", "piecewise_constant")]
    )
    def test_saved_bytes_are_the_same_at_depth_8_and_512(self, solver, control):
        shallow, deep = (solved(solver, "reversible", n, control, horizon=4.0)[2] for n in (8, 512))
        assert shallow == deep <= 5 * (8 + 1) * 8 * 3 + 3 * 8  # start, end and memory, and three times
        assert solved(solver, "backprop", 8, control)[2] > 5 * deep

    @pytest.mark.slow
    @pytest.mark.parametrize("control", ["constant", "piecewise_constant"])
    def test_a_thousand_hamiltonian_layers_train_in_the_memory_of_ten(self, control):
        """Activations that autograd keeps at a time in a training step, forward and backward, without parameters."""
        peaks = {}
        for gradient, layers in (("reversible", 10), ("reversible", 1000), ("backprop", 10), ("backprop", 100)):
            torch.manual_seed(0)
            architecture = {"name": "hamiltonian", "width": 8, "blocks": layers, "step": 10 / layers}
            network = FlowModule(HAMILTONIAN.to_dict(), architecture, control=control, gradient=gradient).network
            x, target = torch.randn(64, 3), torch.randn(64, 2)
            optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
            losses = []
            with LiveBytes(network.parameters()) as live:
                for _ in range(2):
                    optimizer.zero_grad()
                    loss = (network(x) - target).square().mean()
                    loss.backward()
                    optimizer.step()
                    losses.append(float(loss.detach()))
            assert losses[1] < losses[0] and live.now == 0
            assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
            peaks[gradient, layers] = live.peak
        assert peaks["reversible", 1000] == peaks["reversible", 10]
        assert peaks["backprop", 100] > 5 * peaks["backprop", 10] > 5 * peaks["reversible", 1000]

    def test_a_restart_keeps_one_memory_for_each_jump(self):
        words = {"control": {"name": "piecewise_constant", "pieces": 4}, "restart": "breakpoints"}
        exact, *_ = differentiated("alf", "backprop", 24, **words)
        found, saved, _ = differentiated("alf", "reversible", 24, **words)
        assert max(largest(a - b) for a, b in zip(found, exact, strict=True)) <= 1e-11
        assert saved - differentiated("alf", "reversible", 24)[1] == 3 * 5 * 9 * 8

    def test_gradients_of_times_equal_backprop(self):
        grads = []
        for gradient in ("reversible", "backprop"):
            torch.manual_seed(1)
            flow = Flow(Antisymmetric(), solver={"name": "reversible_heun", "steps": 9}, gradient=gradient).double()
            times = torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
            states = flow.solve(torch.ones(2, 8, dtype=torch.float64), times).states
            grads.append(torch.autograd.grad((states * torch.arange(3)[:, None, None]).sin().sum(), times)[0])
        assert largest(grads[0] - grads[1]) <= 1e-12 and float(grads[0].abs().min()) > 1e-3


class TestHonesty:
    def flow(self, solver="reversible_heun", rate=-1.0, end=40.0, dynamics=None):
        module = dynamics if dynamics is not None else nn.Linear(1, 1)
        flow = Flow(module, solver={"name": solver, "steps": 400}, gradient="reversible", horizon=(0.0, end)).double()
        if dynamics is None:
            nn.init.constant_(flow.dynamics.module.weight, rate)
        return flow

    def test_warns_where_reversal_has_lost_the_start(self):
        with pytest.warns(UserWarning, match=r"misses the initial state by .*'checkpoint'"):
            self.flow()(torch.ones(2, 1, dtype=torch.float64)).sum().backward()

    def test_is_quiet_where_it_has_not(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flow = self.flow(dynamics=Antisymmetric())
            flow(torch.randn(3, 8, dtype=torch.float64)).sum().backward()

    def test_other_solvers_are_refused_by_name(self):
        with pytest.raises(odeframe.Incompatible, match="reversible") as caught:
            Flow(nn.Linear(2, 2), solver="rk4", gradient="reversible")
        assert "reversible_heun" in str(caught.value)

    def test_a_field_that_draws_is_refused(self):
        class Noisy(nn.Module):
            def forward(self, t, x):
                return x + torch.rand_like(x)

        with pytest.raises(odeframe.Incompatible, match="random"):
            self.flow(dynamics=Noisy())(torch.ones(2, 1, dtype=torch.float64, requires_grad=True))

    def test_parameters_changed_before_the_backward_pass_are_an_error(self):
        flow = self.flow(dynamics=Antisymmetric())
        loss = flow(torch.randn(3, 8, dtype=torch.float64)).sum()
        with torch.no_grad():
            flow.dynamics.bias += 1
        with pytest.raises(odeframe.OdeframeError, match="in place"):
            loss.backward()

    def test_a_failed_solve_has_no_gradient(self):
        flow = Flow(
            nn.Linear(1, 1),
            solver={"name": "alf", "steps": 400, "on_failure": "return"},
            gradient="reversible",
            horizon=(0.0, 400.0),
        )
        nn.init.constant_(flow.dynamics.module.weight, -30.0)
        with pytest.raises(odeframe.Incompatible, match="failed"):
            flow(torch.ones(1, 1)).sum().backward()
