"""The nouns against the designs that break such interfaces: each case in at most 40 lines, each with a number."""

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import odeframe
from odeframe import Control, Dynamics, Flow, Gradient, Network, Noise, ReversibleSolver, SeparableDynamics, StepSolver
from odeframe.block import empty
from odeframe.control import ControlLaw, FunctionalLaw
from odeframe.costs import RunningCost
from odeframe.drive import ConstantDrive, SequenceDrive
from odeframe.grid import check_times
from odeframe.jacobian_costs import LogDensity
from odeframe.stepmap import sharing_groups

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
        assert len({piece.solver.k.item() for piece in pieces}) == 5 and len(parameters) == 5 * 3
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
        cost = RunningCost(lambda t, x: x.square().sum(1))
        flow = Flow(Coupling(), "piecewise_constant", SymplecticEuler(16), horizon=(0, 16), quadratures=[cost])
        x0 = torch.randn(5, 6)
        y, z = SeparableDynamics.split(x0)
        for piece in flow.control.blocks:
            y = y + piece.slots[0].first(None, z)
            z = z + piece.slots[0].second(None, y)
        solution, field = flow.solve(x0), flow.packed(flow.field(), x0)
        close(solution.final, torch.cat([y, z], dim=1))
        x = torch.cat([solution.final, flow.running_cost(solution)[:, None]], dim=1).detach()
        with torch.no_grad():
            for law, stepper, t, dt in reversed(list(steps_of(flow.solver, field, flow.horizon))):
                x, memory = stepper.reverse_step(law, t, dt, x, ())
                assert memory == ()
        close(x, field.pack(x0))  # the state, and a running cost of zero

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

    def flow(self, steps, end, **choices):
        torch.manual_seed(2)
        cost = RunningCost(lambda t, x: 0.5 * x.square().sum(1))
        choices = {"solver": SymplecticEuler(steps), **choices}
        return Flow(self.Hamiltonian(), horizon=(0, end), quadratures=[cost], **choices)

    def drift(self, steps):
        flow, times = self.flow(steps, 50), torch.linspace(0, 50, steps + 1)
        with torch.no_grad():
            states = flow.solve(torch.ones(1, 6), times).states[:, 0]
            energy = flow.dynamics.energy(states)
            euler = self.flow(steps, 50, solver={"name": "euler", "steps": steps})(states[:1])
            return (energy - energy[0]).abs(), float(flow.dynamics.energy(euler) - energy[0])

    def test_energy_stays_bounded(self):
        drift, explicit = self.drift(500)
        assert drift[250:].max() < 1.1 * drift[:250].max() < 0.01 and explicit > 15 * drift.max()
        assert abs(slope(lambda steps: self.drift(steps)[0].max(), (250, 500)) - 1) < 0.2

    def test_state_and_running_cost_have_order_one(self):
        x0, counts = torch.randn(3, 6), (20, 40, 80)
        exact = self.flow(None, 2, solver={"name": "rk4", "steps": 400}).solve(x0)
        found = {n: self.flow(n, 2).solve(x0, torch.linspace(0, 2, n + 1)) for n in counts}
        assert abs(slope(lambda n: (found[n].final - exact.final).detach().norm(), counts) - 1) < 0.2
        q = {n: s.quadratures["running_cost"].detach() for n, s in found.items()}
        assert (
            abs(slope(lambda n: (q[n][-1] - exact.quadratures["running_cost"][-1]).detach().norm(), counts) - 1) < 0.2
        )
        rate = 0.5 * found[20].states.detach().square().sum(2)
        close(q[20][-1], torch.trapezoid(rate, dx=0.1, dim=0))


class TestSchemesThatSeeParts:
    """A scheme with parts or slots says opaque = False; one that forgets is told so."""

    def test_slots(self):
        with pytest.raises(odeframe.InvalidOption, match="opaque = False"):
            type("Forgetful", (TestFractalStep.TwoColumns,), {"opaque": True})

    def test_parts_beside_a_running_cost(self):
        forgetful = type("Forgetful", (SymplecticEuler,), {"opaque": True})
        costs = [RunningCost(lambda t, x: x[:, 0], name=name) for name in "ab"]  # six and two: still even
        flow = Flow(Coupling(), solver=forgetful(4), quadratures=costs)
        with pytest.raises(odeframe.Incompatible, match="opaque = False"):
            flow(torch.randn(3, 6))


class TestContinuousNormalisingFlow:
    """x' = A x to T = 1.5: q = -tr(A) T, and the density is Gaussian (Chen et al. 2018, section 4)."""

    END = 1.5

    def flow(self, **choices):
        torch.manual_seed(3)
        return Flow(nn.Linear(3, 3, bias=False), horizon=(0, self.END), quadratures=[LogDensity()], **choices)

    @pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 40}, {"name": "dopri5", "rtol": 1e-10}])
    def test_log_density_is_the_closed_form(self, solver):
        flow, x = self.flow(solver=solver), torch.randn(5, 3)
        A = flow.dynamics.module.weight.detach()
        with torch.no_grad():
            solution = flow.solve(x)
        q = solution.quadratures["log_density"][-1]
        close(q, -A.trace() * self.END * torch.ones(5))
        inverse = torch.linalg.matrix_exp(-A * self.END)
        density = torch.distributions.MultivariateNormal(torch.zeros(3), inverse @ inverse.T)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(solution.final).sum(1)
        close(base - q, density.log_prob(x), 1e-7)

    @pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
    def test_gradient_is_minus_the_horizon_times_the_identity(self, gradient):
        flow = self.flow(gradient=gradient)
        flow.solve(torch.randn(5, 3)).quadratures["log_density"][-1].mean().backward()
        close(flow.dynamics.module.weight.grad, -self.END * torch.eye(3))


class TestDrivenRecurrence:
    """h_{k+1} = h_k + tanh(W h_k + b + V w_k): a recurrent network is a flow under a drive (Chang et al. 2019)."""

    def sequence(self):
        torch.manual_seed(4)
        raw, embed = torch.randn(2, 6, 5, requires_grad=True), nn.Linear(5, 3)
        return [raw, *embed.parameters()], embed(raw)

    def gradients(self, leaves, cell, h):
        return torch.autograd.grad(h.square().sum(), [*leaves, *cell.parameters()])

    def test_equals_a_hand_loop(self):
        cell, (leaves, sequence), h0 = Driven(), self.sequence(), torch.randn(2, 4)
        h = h0
        for item in sequence.unbind(1):
            h = h + torch.tanh(cell.linear(h) + cell.inputs(item))
        flow, drive = Flow(cell, solver={"name": "euler", "steps": 6}, horizon=(0, 6)), SequenceDrive(sequence, (0, 6))
        with torch.no_grad():
            close(flow(h0, drive), h)  # and what was evaluated without a graph has one when it is needed
        close(flow(h0, drive), h)
        found = self.gradients(leaves, cell, flow(h0, drive))
        close(found, self.gradients(*self.again(cell, h0)))

    def again(self, cell, h0):
        leaves, sequence = self.sequence()
        for item in sequence.unbind(1):
            h0 = h0 + torch.tanh(cell.linear(h0) + cell.inputs(item))
        return leaves, cell, h0

    @pytest.mark.parametrize("solver", [{"name": "rk4", "steps": 120}, {"name": "dopri5", "rtol": 1e-9}])
    def test_backprop_and_adjoint_agree_on_the_sequence(self, solver):
        cell, h0, found = Driven(), torch.randn(2, 4), []
        for gradient in ("backprop", "adjoint"):
            leaves, sequence = self.sequence()
            flow = Flow(cell, solver=solver, gradient=gradient, horizon=(0, 6))
            found.append(self.gradients(leaves, cell, flow(h0, SequenceDrive(sequence, (0, 6)))))
        close(*found, 1e-7)
        assert float(found[0][0].abs().min(1).values.max()) > 0


class TestFeedbackControl:
    """Closed loop: u = pi(t, x), while the dynamics keep weights of their own."""

    class PolicyLaw(ControlLaw):
        def __init__(self, control):
            self.module, self.tensors = control, tuple(control.parameters())

        def call(self, slot, method, t, x, **inputs):
            return getattr(self.module.block.slots[slot], method)(t, x, u=self.module.policy(x), **inputs)

        def stepper(self, solver):
            return solver

    class Feedback(Control):
        def __init__(self, policy):
            super().__init__()
            self.policy = policy

        def build(self, block, steps):
            self.driven = block

        block = property(lambda self: self.driven)

        def on(self, t, t_next):
            return TestFeedbackControl.PolicyLaw(self)

    class Plant(nn.Linear):
        def forward(self, t, x, u=None):
            return super().forward(x) - u

    def test_closed_form_and_its_gradient_in_three_ways(self):
        policy, plant, x0 = nn.Linear(2, 2, bias=False), self.Plant(2, 2, bias=False), torch.randn(3, 2)
        expected = x0 @ torch.linalg.matrix_exp(2 * (plant.weight - policy.weight)).T
        flow, adjoint = (
            Flow(plant, self.Feedback(policy), {"name": "rk4", "steps": 100}, gradient, horizon=(0, 2))
            for gradient in ("backprop", "adjoint")
        )
        z = (x0,)
        for step in flow.steps():
            assert set(step.read()) == {"driven.policy.weight", "driven.driven.slots.0.weight"}
            z = step.step(z)
        weights = [policy.weight, plant.weight]
        exact = torch.autograd.grad(expected.square().sum(), weights)
        for x in (flow(x0), adjoint(x0), *z):
            close(x, expected, 1e-8)
            close(torch.autograd.grad(x.square().sum(), weights), exact, 1e-7)


class TestGalerkinControl:
    """theta(t) = sum_j c_j P_j(tau): an empty block fed by Legendre polynomials."""

    class Legendre(Control):
        def __init__(self, degree):
            super().__init__()
            self.degree = degree

        def build(self, block, steps):
            values, self.driven = empty(block), block
            self.names = list(values)
            self.coefficients = nn.ParameterList(torch.randn(self.degree + 1, *v.shape) for v in values.values())

        block = property(lambda self: self.driven)

        def parameters_at(self, t):
            start, end = self.horizon
            tau = 2 * (t - start) / (end - start) - 1
            basis = [torch.ones_like(tau), tau]
            for j in range(1, self.degree):
                basis.append(((2 * j + 1) * tau * basis[j] - j * basis[j - 1]) / (j + 1))
            values = (torch.tensordot(torch.stack(basis), c, 1) for c in self.coefficients)
            return dict(zip(self.names, values, strict=True))

        def on(self, t, t_next):
            return FunctionalLaw(self.driven, self.parameters_at, self, t)

    def flow(self, steps, gradient="backprop"):
        torch.manual_seed(5)
        solver = {"name": "rk4", "steps": steps}
        return Flow(nn.Linear(1, 1, bias=False), self.Legendre(3), solver, gradient, horizon=(0, 2))

    def test_order_four_on_the_closed_form(self):
        x0 = torch.ones(1, 1)  # x' = w(t) x: only c_0 has an integral, so x(2) = exp(2 c_0)
        exact = (2 * self.flow(1).control.coefficients[0][0]).exp().detach()
        assert abs(slope(lambda steps: (self.flow(steps)(x0) - exact).detach().abs(), (16, 32, 64)) - 4) < 0.2

    @pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
    def test_gradient_is_that_of_the_mean_alone(self, gradient):
        flow = self.flow(200, gradient)
        x = flow(torch.ones(1, 1))
        x.sum().backward()
        (gradient,) = (p.grad for p in flow.parameters())
        close(gradient.flatten(), torch.stack([2 * x.detach().squeeze(), *[x.new_zeros(())] * 3]), 1e-7)


class StochasticDepth(StepSolver):
    """x + h eta f(x), eta ~ Bernoulli(0.6) keyed by (seed, sample, step); the mean in evaluation."""

    traits = ("step", "stochastic")

    def draw(self, field, x):
        return field.noise.bernoulli(0.6, x, (1,))

    def step(self, field, t, dt, x, memory):
        return x + dt * (0.6 if field.noise is None else self.draw(field, x)) * field(t, x), ()


class TestRecomputingGradient:
    """A gradient that runs every step again in its backward pass sees the noise of the first run."""

    class Unkeyed(StochasticDepth):
        def draw(self, field, x):
            return (torch.rand(x.shape[0], 1) < 0.6).to(x.dtype)

    class Recomputing(Gradient):
        traits = ("exact",)

        def solve(self, solver, field, x0, times, stop=None):
            x, memory, once = x0, None, {"use_reentrant": False, "preserve_rng_state": False}
            for law, stepper, t, dt in steps_of(solver, field, times):
                memory = stepper.init(law, t, x) if memory is None else memory
                x, memory = checkpoint(stepper.step, law, t, dt, x, memory, **once)
            return odeframe.Solution(times, torch.stack([x0, x]), field.stats)

    def run(self, solver, gradient):
        torch.manual_seed(6)
        flow, x0 = Flow(Layer(), "piecewise_constant", solver(8), gradient, horizon=(0, 8)), torch.randn(16, 4)
        found = torch.autograd.grad(flow(x0).square().sum(), list(flow.parameters()))
        return found, flow.stats.nfe

    def test_equals_backprop(self):
        (exact, once), (found, twice) = (self.run(StochasticDepth, g) for g in ("backprop", self.Recomputing()))
        close(found, exact)
        assert (once, twice) == (8, 16)

    def test_noise_without_a_key_would_not(self):
        exact, found = (self.run(self.Unkeyed, g)[0] for g in ("backprop", self.Recomputing()))
        assert max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)) > 0.01


class TestKeyedNoise:
    """A sample draws the same alone, in a batch and in step maps; evaluation draws nothing."""

    def test_draws_depend_on_seed_sample_and_step_alone(self):
        flow, x0 = Flow(Layer(), solver=StochasticDepth(8)), torch.randn(5, 4)
        whole = flow(x0, noise=Noise(7))
        close(torch.cat([flow(x0[i : i + 1], noise=Noise(7, torch.tensor([i]))) for i in range(5)]), whole)
        z = (x0,)
        for step in flow.steps(noise=Noise(7)):
            z = step.step(z)
        close(z[0], whole)
        states = flow.solve(x0[:1].expand(64, 4), torch.linspace(0, 1, 9), noise=Noise(7)).states
        kept = (states.diff(dim=0).abs().sum(2) > 0).int()
        assert len(set(map(tuple, kept.tolist()))) == 8 and len(set(map(tuple, kept.T.tolist()))) > 30
        assert not torch.equal(flow(x0), flow(x0))
        mean = x0
        for _ in range(8):
            mean = mean + 0.6 / 8 * flow.dynamics(None, mean)
        close(flow.eval()(x0), mean)


class TestStopPerImage:
    """Each image runs until it is quiet: its state, running cost and gradient end there."""

    END = 5.0

    def flow(self):
        block = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.dirac_(block.weight)
        block.weight.data.mul_(-1.0).add_(0.05 * torch.randn(1, 1, 3, 3))
        cost = RunningCost(lambda t, x: x.square().flatten(1).sum(1))
        return Flow(block, solver={"name": "euler", "steps": 20}, horizon=(0, self.END), quadratures=[cost])

    def quiet(self, t, x, memory):
        assert x.shape[1:] == (1, 4, 4)
        return x.flatten(1).norm(dim=1) < 1.0

    def by_hand(self, block, x):
        h, x, cost = self.END / 20, x[None], 0.0
        for k in range(1, 21):
            x, cost = x + h * block(x), cost + h * x.square().sum()
            if k == 20 or bool(x.norm() < 1.0):
                return x[0], cost, k * h

    def test_equals_loops_of_different_lengths(self):
        flow, images = self.flow(), torch.randn(4, 1, 4, 4) * torch.tensor([0.5, 1.0, 4.0, 1e3]).reshape(4, 1, 1, 1)
        images.requires_grad_()
        solution = flow.solve(images, torch.linspace(0, self.END, 21), stop=self.quiet)
        x, cost, ends = zip(*(self.by_hand(flow.dynamics.module, image) for image in images), strict=True)
        assert solution.stop_times.tolist() == pytest.approx(ends) and len(set(ends)) == 4 and ends[3] == self.END
        close([solution.final, flow.running_cost(solution)], [torch.stack(x), torch.stack(cost)])
        for i, end in enumerate(ends):
            frozen = solution.states[round(end / 0.25) :, i].detach()
            assert torch.equal(frozen, frozen[:1].expand_as(frozen))
        leaves = [images, *flow.parameters()]
        found = torch.autograd.grad(solution.final.sum() + flow.running_cost(solution).sum(), leaves)
        close(found, torch.autograd.grad(torch.stack(x).sum() + sum(cost), leaves))


class AdamsBashforth(StepSolver):
    """x_{n+1} = x_n + h/2 (3 f_n - f_{n-1}), started by f_{-1} = f_0: a scheme whose starter has a share of u."""

    traits = ("step",)

    def init(self, field, t, x):
        return (field(t, x),)

    def step(self, field, t, dt, x, memory):
        f = field(t, x)
        return x + dt / 2 * (3 * f - memory[0]), (f,)


class Stem(nn.Module):
    """image -> (x, drive): the state, and what the steps read of the image beside it."""

    def __init__(self):
        super().__init__()
        self.lift, self.embed = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, image):
        return self.lift(image), ConstantDrive(self.embed(image))


def sweep(steps, z, objective):
    """One forward and one backward pass over step maps: all costates, and the gradient of H_k over u_k, by step."""
    states = [z]
    for step in steps:
        states.append(tuple(v.detach() for v in step.step(states[-1])))
    end = [v.requires_grad_() for v in states.pop()]
    costates, gradients = [[-g for g in torch.autograd.grad(objective(*end), end)]], []
    for step, z in zip(reversed(steps), reversed(states), strict=True):
        z, u = [v.detach().requires_grad_() for v in z], {n: v.requires_grad_() for n, v in step.read().items()}
        H = sum((p * v).sum() for p, v in zip(costates[0], step.step(tuple(z), u), strict=True))
        found = torch.autograd.grad(H, [*z, *u.values()], allow_unused=True, materialize_grads=True)
        costates.insert(0, list(found[: len(z)]))
        gradients.insert(0, dict(zip(u, found[len(z) :], strict=True)))
    return costates, gradients


# A tied control is one parameter, its H_k summed over the steps; a starter shares the block of the first step.
GROUPS = {
    "constant": [[0], [1, 2, 3, 4, 5, 6], [7]],
    "piecewise_constant": [[0], [1, 2], [3], [4], [5], [6], [7]],
}


class TestPontryaginSweep:
    """One sweep over stem, steps and head: p_k = -dJ/dz_k and dH_k/du_k = -dJ/du_k, by other code than backward."""

    def problem(self, control):
        flow = Flow(
            Driven(), control, AdamsBashforth(5), quadratures=[RunningCost(lambda t, x: x.square().sum(1), 0.3)]
        )
        network = Network({"stem": Stem(), "flow": flow, "head": nn.Linear(4, 2)})
        image, target = torch.randn(7, 6), torch.randint(2, (7,))
        return network, image, lambda x, cost: nn.functional.cross_entropy(x, target) + cost.mean()

    @pytest.mark.parametrize("control", GROUPS)
    def test_gradients_equal_autograd(self, control):
        network, image, objective = self.problem(control)
        steps, outcome, total = network.steps(image), network.run(image), {}
        for step, gradient in zip(steps, sweep(steps, (image,), objective)[1], strict=True):
            for name, parameter in step.named_parameters():
                total[parameter] = total.get(parameter, 0) - gradient[name]
        exact = torch.autograd.grad(objective(outcome.output, outcome.cost), list(network.parameters()))
        close([total[parameter] for parameter in network.parameters()], exact, 1e-10)
        assert all(float(g.abs().max()) > 1e-4 for g in exact) and sharing_groups(steps) == GROUPS[control]

    @pytest.mark.parametrize("control", GROUPS)
    def test_costates_equal_autograd(self, control):
        network, image, objective = self.problem(control)
        states, steps = [(image.requires_grad_(),)], network.steps(image)
        for step in steps:  # clones: what passes through is one tensor, but a state of every step
            states.append(tuple((v.clone() if v.requires_grad else v.requires_grad_()) for v in step.step(states[-1])))
        flat = [v for z in states for v in z]
        exact = torch.autograd.grad(objective(*states[-1]), flat, allow_unused=True, materialize_grads=True)
        close([-p for z in sweep(steps, (image,), objective)[0] for p in z], exact, 1e-10)
        assert [len(z) for z in states] == [1, 2, *[4] * 5, 2, 2]  # image; x, c; x, memory, q, c; x, q; output, q


def test_cases_are_short_and_use_public_names_alone():
    text = Path(__file__).read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    cases = {
        n.name: lines[n.lineno - 1 : n.end_lineno] for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)
    }
    length = {name: sum(1 for line in body if line.strip()) for name, body in cases.items()}
    assert sum(name.startswith("Test") for name in length) >= 11
    assert {name: count for name, count in length.items() if count > MAX_CASE_LINES} == {}
    used = [
        n.attr if isinstance(n, ast.Attribute) else n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute | ast.alias)
    ]
    assert [name for name in used if name.startswith("_") and not name.endswith("__")] == []
