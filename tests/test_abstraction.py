"""The nouns against the designs that break such interfaces: each case in at most 40 lines, each with a number."""

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import odeframe
from odeframe import Control, Dynamics, Flow, Gradient, Noise, ReversibleSolver, SeparableDynamics, StepSolver
from odeframe.control import ControlLaw, FunctionalLaw, empty
from odeframe.drive import ConstantDrive, SequenceDrive
from odeframe.grid import check_times
from odeframe.quadrature import LogDensity, RunningCost
from odeframe.stepmap import ModuleStep, StepMap, sharing_groups

MAX_CASE_LINES = 40


@pytest.fixture(autouse=True)
def double_precision():
    """Identities are claimed to 1e-12, so everything is made in float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Layer(Dynamics):
    """f(x) = tanh(W x + b), the block of most cases."""

    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, x, u=None):
        return torch.tanh(self.linear(x))


class Driven(Layer):
    """f(x; w) = tanh(W x + b + V w), the cell of a recurrent network."""

    def __init__(self, width=4, inputs=3):
        super().__init__(width)
        self.inputs = nn.Linear(inputs, width, bias=False)

    def forward(self, t, x, u=None, drive=None):
        return torch.tanh(self.linear(x) + self.inputs(drive))


def close(found, expected, tolerance=1e-12):
    """Asserts that two tensors, or two sequences of tensors, agree in every component."""
    one = torch.is_tensor(found)
    for a, b in zip([found] if one else found, [expected] if one else expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).detach().abs().max()) <= tolerance * max(1.0, float(b.detach().abs().max()))


def slope(error, counts):
    """The order of convergence: minus the slope of log error over log steps, from the first to the last count."""
    errors = [float(error(count)) for count in counts]
    return math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])


def steps_of(solver, field, times):
    """The steps of a solve over ``times`` as ``(law, driven solver, t, dt)``: what a gradient of one's own replays."""
    grid = solver.grid(field, check_times(times))
    for k, dt in enumerate(grid.spacing):
        law = field.on(grid.nodes[k], grid.nodes[k + 1], step=k)
        yield law, law.stepper(solver), grid.nodes[k], dt


class TestLinearMultistepResNet:
    """x_{n+1} = (1 - k_n) x_n + k_n x_{n-1} + h f_n(x_n) with a trainable k_n a piece (Lu et al. 2018)."""

    class Scheme(StepSolver):
        traits = ("step",)

        def __init__(self, steps):
            super().__init__(steps)
            self.k = nn.Parameter(torch.empty(()))
            self.reset_parameters()

        def reset_parameters(self):
            nn.init.uniform_(self.k, 0.1, 0.5)

        def init(self, field, t, x):
            return (x,)

        def step(self, field, t, dt, x, memory):
            return (1 - self.k) * x + self.k * memory[0] + dt * field(t, x), (x,)

    def test_value_and_gradient_equal_a_hand_loop(self):
        flow, x0 = Flow(Layer(), "piecewise_constant", self.Scheme(5)), torch.randn(3, 4)
        pieces = list(flow.control.blocks)
        before = now = x0
        for piece in pieces:
            k, f = piece.solver.k, piece.slots[0]
            before, now = now, (1 - k) * now + k * before + f(None, now) / 5
        parameters = list(flow.parameters())
        assert len({float(piece.solver.k) for piece in pieces}) == 5 and len(parameters) == 5 * 3
        close(flow(x0), now)
        found = torch.autograd.grad(flow(x0).square().sum(), parameters)
        close(found, torch.autograd.grad(now.square().sum(), parameters))
        assert all(float(g.abs().max()) > 1e-4 for g in found[5:])  # k_0 alone has none: x_{-1} = x_0

    def test_restarting_at_the_breakpoints_would_make_it_a_plain_resnet(self):
        plain = type("Restarted", (self.Scheme,), {"restart": "breakpoints"})(5)
        flow, x0 = Flow(Layer(), "piecewise_constant", plain), torch.randn(3, 4)
        x = x0
        for piece in flow.control.blocks:
            x = x + piece.slots[0](None, x) / 5
        close(flow(x0), x)


class SymplecticEuler(ReversibleSolver):
    """y += h F(z), z += h G(y): RevNet's coupling and the Hamiltonian networks' "Verlet"."""

    traits, needs, opaque, order = ("step", "partitioned"), ("dynamics:separable",), False, 1

    def step(self, field, t, dt, x, memory):
        y, z = SeparableDynamics.split(x)
        y = y + dt * field.part("first", t, z)
        return torch.cat([y, z + dt * field.part("second", t, y)], dim=1), ()

    def reverse_step(self, field, t, dt, x, memory):
        y, z = SeparableDynamics.split(x)
        z = z - dt * field.part("second", t, y)
        return torch.cat([y - dt * field.part("first", t, z), z], dim=1), ()


class Coupling(SeparableDynamics):
    """y' = tanh(A z + a), z' = tanh(B y + b)."""

    def __init__(self, half=3):
        super().__init__()
        self.upper, self.lower = nn.Linear(half, half), nn.Linear(half, half)

    def first(self, t, z, u=None):
        return torch.tanh(self.upper(z))

    def second(self, t, y, u=None):
        return torch.tanh(self.lower(y))


class TestRevNet:
    """y1 = x1 + F(x2), y2 = x2 + G(y1): the inverse needs the end state and nothing else (Gomez et al. 2017)."""

    def test_inverse_from_the_end_state(self):
        flow, x0 = Flow(Coupling(), "piecewise_constant", SymplecticEuler(16), horizon=(0, 16)), torch.randn(5, 6)
        y, z = SeparableDynamics.split(x0)
        for piece in flow.control.blocks:
            y = y + piece.slots[0].first(None, z)
            z = z + piece.slots[0].second(None, y)
        x = flow(x0).detach()
        close(x, torch.cat([y, z], dim=1))
        with torch.no_grad():
            for law, stepper, t, dt in reversed(list(steps_of(flow.solver, flow.field(), flow.horizon))):
                x, memory = stepper.reverse_step(law, t, dt, x, ())
                assert memory == ()
        close(x, x0)

    def test_needs_the_two_halves(self):
        with pytest.raises(odeframe.Incompatible, match="separable"):
            Flow(Layer(), solver=SymplecticEuler(4))


class ReversedSteps(torch.autograd.Function):
    """The end state of a solve; its derivative walks the steps back and keeps no state in between."""

    @staticmethod
    def forward(ctx, steps, final, x0, *tensors):
        ctx.steps, ctx.tensors = steps, tensors
        ctx.save_for_backward(final)
        return final.clone()

    @staticmethod
    def backward(ctx, a):
        (x,), totals = ctx.saved_tensors, [torch.zeros_like(v) for v in ctx.tensors]
        for law, stepper, t, dt in reversed(ctx.steps):
            x = stepper.reverse_step(law, t, dt, x, ())[0].requires_grad_()
            with torch.enable_grad():
                end, _ = stepper.step(law, t, dt, x, ())
            a, *shares = torch.autograd.grad(end, (x, *ctx.tensors), a, allow_unused=True, materialize_grads=True)
            totals, x = [g + share for g, share in zip(totals, shares, strict=True)], x.detach()
        return None, None, a, *totals


class TestReversibleGradient:
    """RevNet's memory: what a solve saves for the backward pass does not grow with depth."""

    class Reversible(Gradient):
        def solve(self, solver, field, x0, times, stop=None):
            steps = list(steps_of(solver, field, times))
            tensors = {id(v): v for law, *_ in steps for v in law.tensors}.values()
            with torch.no_grad():
                solution = solver.solve(field, x0, times)
            solution.states = torch.stack([x0, ReversedSteps.apply(steps, solution.final, x0, *tensors)])
            return solution

    def run(self, gradient, depth):
        torch.manual_seed(1)
        cost = RunningCost(lambda t, x: x.square().sum(1))
        solver = SymplecticEuler(depth)
        flow = Flow(Coupling(), "piecewise_constant", solver, gradient, horizon=(0, depth / 4), quadratures=[cost])
        x0, saved = torch.randn(5, 6, requires_grad=True), []
        with torch.autograd.graph.saved_tensors_hooks(lambda v: saved.append(v.nbytes) or v, lambda v: v):
            solution = flow.solve(x0)
        loss = solution.final.square().sum() + flow.running_cost(solution).sum()
        return torch.autograd.grad(loss, [x0, *flow.parameters()]), sum(saved)

    def test_gradient_is_exact_and_its_memory_constant(self):
        (exact, stored), (found, kept) = self.run("backprop", 16), self.run(self.Reversible(), 16)
        close(found, exact)
        assert kept == self.run(self.Reversible(), 4)[1] == 5 * (6 + 1) * 8  # the end state and its running cost
        assert stored > 100 * kept


class TestFractalStep:
    """Two columns, join(f_a(x), f_c(f_b(x))): three blocks a step (Larsson et al. 2017)."""

    class TwoColumns(StepSolver):
        traits, slots, opaque, order = ("step",), 3, False, 2

        def step(self, field, t, dt, x, memory):
            short, first, second = field.slots
            middle = x + dt * first(t, x)
            return 0.5 * (x + dt * short(t, x) + middle + dt * second(t + dt, middle)), ()

    def test_every_piece_owns_three_blocks(self):
        flow, x0 = Flow(Layer(), "piecewise_constant", self.TwoColumns(4)), torch.randn(3, 4)
        x = x0
        for piece in flow.control.blocks:
            a, b, c = piece.slots
            y = x + b(None, x) / 4
            x = (x + a(None, x) / 4 + y + c(None, y) / 4) / 2
        close(flow(x0), x)
        assert len({float(p.detach().sum()) for p in flow.parameters()}) == 4 * 3 * 2

    def test_heun_weights_give_order_two(self):
        x0, layer = torch.randn(3, 4), Layer()
        exact = odeframe.solve(layer, x0, (0, 2), "rk4", steps=400).final

        def error(steps):
            cost = RunningCost(lambda t, x: x[:, 0])
            flow = Flow(Layer(), solver=self.TwoColumns(steps), horizon=(0, 2), quadratures=[cost])
            short, first, second = flow.control.block.slots
            nn.init.zeros_(short.linear.weight), nn.init.zeros_(short.linear.bias)
            first.load_state_dict(layer.state_dict()), second.load_state_dict(layer.state_dict())
            solution = flow.solve(x0)
            assert flow.running_cost(solution).shape == (3,)
            return (solution.final - exact).norm().detach()

        assert abs(slope(error, (16, 32, 64)) - 2) < 0.2


class TestSymplecticEuler:
    """The two-layer Hamiltonian network Y' = A^T s(A Z + a), Z' = -B^T s(B Y + b) (Chang et al. 2018)."""

    class Hamiltonian(Coupling):
        def first(self, t, z, u=None):
            return super().first(t, z) @ self.upper.weight

        def second(self, t, y, u=None):
            return -super().second(t, y) @ self.lower.weight

        def energy(self, x):
            y, z = self.split(x)
            return (self.upper(z).cosh().log() + self.lower(y).cosh().log()).sum(1)

    def flow(self, steps, end):
        torch.manual_seed(2)
        cost = RunningCost(lambda t, x: 0.5 * x.square().sum(1))
        return Flow(self.Hamiltonian(), solver=SymplecticEuler(steps), horizon=(0, end), quadratures=[cost])

    def test_energy_stays_bounded(self):
        flow, x0 = self.flow(4000, 400.0), torch.randn(3, 6)
        times = torch.linspace(0, 400, 4001)
        with torch.no_grad():
            energy = flow.dynamics.energy(flow.solve(x0, times).states.flatten(0, 1)).reshape(-1, 3)
            euler = odeframe.solve(flow.dynamics, x0, (0, 400), "euler", steps=4000).final
            drift, explicit = (energy - energy[0]).abs(), flow.dynamics.energy(euler) - energy[0]
        assert drift.max() < 0.02 and drift[2000:].max() < 1.2 * drift[:2000].max()
        assert explicit.min() > 10 * drift.max()

    def test_state_and_running_cost_have_order_one(self):
        x0 = torch.randn(3, 6)
        fine = odeframe.Flow(self.flow(1, 2.0).dynamics, solver={"name": "rk4", "steps": 400}, horizon=(0, 2.0),
                             quadratures=self.flow(1, 2.0).quadratures).solve(x0)
        solutions = {n: self.flow(n, 2.0).solve(x0, torch.linspace(0, 2, n + 1)) for n in (20, 40, 80)}
        assert abs(slope(lambda n: (solutions[n].final - fine.final).norm(), (20, 40, 80)) - 1) < 0.2
