"""What a step solver owes: one law a step, samples that do not see each other, maps that can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odeframe.costs import RunningCost
from odeframe.errors import InvalidOption
from odeframe.field import Field, Law
from odeframe.flow import Flow
from odeframe.noise import Noise
from odeframe.solver import ReversibleSolver, StepSolver
from odeframe.stepmap import State, StepMap
from odeframe.testing.accuracy import SolverChecks, largest
from odeframe.testing.conformance import concerns, refused, said
from odeframe.testing.problems import Coupled, Pendulum

MARGIN = 1e-9
STEPS = 4


class WatchedLaw(Law):
    """A law that refuses to be evaluated outside its interval, and its parts likewise."""

    def __init__(self, inner: Law) -> None:
        self.inner = inner
        self.t, self.t_next, self.tensors, self.noise = inner.t, inner.t_next, inner.tensors, inner.noise
        self.horizon = inner.horizon

    def check(self, t: Tensor) -> None:
        """Fails where the time is not within the interval."""
        low, high = sorted((float(self.t), float(self.t_next)))
        assert low - MARGIN <= float(torch.as_tensor(t).min()) and float(torch.as_tensor(t).max()) <= high + MARGIN, (
            f"the law of [{low:g}, {high:g}] was evaluated at t = {float(torch.as_tensor(t).max()):g}: a step may use "
            "times within its own interval alone; what lies before it belongs into the memory"
        )

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """The inner law."""
        self.check(t)
        return self.inner(t, x)

    def part(self, name: str, *args: Any) -> Any:
        """The inner law's part."""
        if name in ("first", "second", "branches", "nonlinear", "diffusion"):
            self.check(args[0])
        return self.inner.part(name, *args)

    @property
    def slots(self) -> Sequence[Law]:
        """Those of the inner law, watched."""
        return [WatchedLaw(law) for law in self.inner.slots]

    def stepper(self, solver: Any) -> Any:
        """The inner law's."""
        return self.inner.stepper(solver)


class WatchedField(Field):
    """A field of watched laws."""

    def __init__(self, inner: Field) -> None:
        self.inner, self.stats = inner, inner.stats

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The watched law of an interval."""
        return WatchedLaw(self.inner.on(t, t_next, step))

    def breakpoints(self) -> tuple[float, ...]:
        """Those of the inner field."""
        return self.inner.breakpoints()

    def cut(self) -> Field:
        """The inner field's, watched."""
        return WatchedField(self.inner.cut())


class StepChecks(SolverChecks):
    """Checks of step solvers."""

    def network(self, quadratures: Sequence[RunningCost] = ()) -> tuple[Flow, Tensor, Noise | None]:
        """A flow with weights of its own at every step, a batch, and noise where the scheme has a use for it."""
        torch.manual_seed(3)
        words = {"quadratures": quadratures} if quadratures else {}
        flow = self.flow(Coupled(), {"name": "piecewise_constant", "pieces": STEPS}, steps=STEPS, **words)
        x0 = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(self.device)
        noise = Noise(7, torch.arange(5) + 10) if "stochastic" in self.part.traits else None
        return flow, x0, noise

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_a_step_gives_a_state_and_a_memory(self) -> None:
        """``step(field, t, dt, x, memory) -> (x, memory)``, with a new ``x`` of the old one's shape."""
        flow, x0, noise = self.network()
        law = flow.field(noise=noise).on(*torch.tensor([0.0, 1 / STEPS], dtype=torch.float64))
        stepper, before = law.stepper(flow.solver), x0.clone()
        with said("step(field, t, dt, x, memory) -> (x, memory), called with these,"):
            made = stepper.step(law, law.t, 1 / STEPS, x0, stepper.init(law, law.t, x0))
        assert isinstance(made, tuple) and len(made) == 2 and all(isinstance(each, tuple) for each in made[1:]), (
            f"step gives a {type(made).__name__}, expected (x, memory): a scheme without memory ends with return x, ()"
        )
        assert isinstance(made[0], Tensor) and made[0].shape == x0.shape, (
            f"x is {tuple(x0.shape)}, the state after a step {tuple(getattr(made[0], 'shape', ()))}: keep its shape"
        )
        assert made[0] is not x0 and torch.equal(x0, before), (
            "the step has changed x itself: a state belongs to the graph and to the output; write x + dt * k, not x += "
            "dt * k, x.add_() or the like"
        )

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_steps_stay_in_their_interval(self) -> None:
        """Every evaluation of a step lies between its ends, forwards and, where it goes there, backwards."""
        flow, x0, noise = self.network()
        for times in ((0.0, 1.0), (0.25, 0.75), *([] if self.is_one_way() else [(1.0, 0.0)])):
            flow.solver.solve(WatchedField(flow.field(noise=noise)), x0, times)

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_samples_do_not_see_each_other(self) -> None:
        """A sample's result does not depend on the rest of its batch, nor on its place there."""
        flow, x0, noise = self.network()
        order = torch.tensor([3, 0, 4])
        some = None if noise is None else Noise(7, order + 10)
        together, alone = flow(x0, noise=noise)[order], flow(x0[order], noise=some)
        assert largest(together - alone) <= 1e-12, (
            "a step solver treats samples one by one: a norm, a mean or a step length over the batch is no part of it, "
            "and noise is keyed by the sample (law.noise), not drawn from torch's generator"
        )

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_step_options_are_checked(self) -> None:
        """Numbers of steps and step lengths that cannot be are refused."""
        for options in ({"steps": 0}, {"dt": 0.0}, {"dt": -0.1}, {"steps": 3, "dt": 0.1}):
            hint = f"{options} was taken: hand steps and dt on by super().__init__(steps, dt, on_failure, compile)"
            with refused(InvalidOption, "", hint):
                self.make(**options)

    @concerns(lambda kit: "stochastic" in kit.part.traits)
    def test_noise_is_replayed(self) -> None:
        """One seed gives one result, another seed another, and evaluation none of it."""
        flow, x0, noise = self.network()
        first = flow(x0, noise=noise)
        assert torch.equal(first, flow(x0, noise=noise)), (
            "the same noise gave another result: draw from law.noise alone"
        )
        assert largest(first - flow(x0, noise=Noise(8))) > 1e-6, (
            "another seed changed nothing: the scheme is not stochastic"
        )
        assert torch.equal(flow(x0), flow(x0)), "in evaluation, where law.noise is None, the scheme is its mean"
        flow.train()
        assert largest(flow(x0) - flow(x0)) > 1e-6, "in training every solve draws anew"

    @concerns(lambda kit: isinstance(kit.part, ReversibleSolver))
    def test_steps_can_be_reversed(self) -> None:
        """``reverse_step`` undoes ``step``: state and memory, to round-off."""
        flow, x, noise = self.network()
        field, solver = flow.field(noise=noise), flow.solver
        nodes = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
        laws = [field.on(nodes[k], nodes[k + 1], k) for k in range(STEPS)]
        memory = laws[0].stepper(solver).init(laws[0], nodes[0], x)
        trail = [(x, *memory)]
        for law in laws:
            x, memory = law.stepper(solver).step(law, law.t, 1 / STEPS, x, memory)
            trail.append((x, *memory))
        for law, before in zip(reversed(laws), reversed(trail[:-1]), strict=True):
            x, memory = law.stepper(solver).reverse_step(law, law.t, 1 / STEPS, x, memory)
            assert len(memory) == len(before) - 1, "reverse_step returns as much memory as step was given"
            error = max(largest(a - b) for a, b in zip((x, *memory), before, strict=True))
            assert error <= 1e-12, (
                f"reverse_step misses the state before by {error:.1e}: undo the half steps in reverse order, with the "
                "times t and t + dt of the forward step (t is the earlier end in both)"
            )

    @concerns(lambda kit: "symplectic" in kit.part.traits)
    def test_energy_does_not_drift(self) -> None:
        """Of a pendulum over many swings, the energy's error is no larger at the end than at the beginning."""
        x0 = torch.tensor([[1.0, 0.0], [0.3, 0.5]], dtype=torch.float64, device=self.device)
        flow = self.flow(Pendulum(), horizon=(0.0, 24.0), steps=96)
        states = flow.solve(x0, torch.linspace(0, 24, 97, dtype=torch.float64)).states
        errors = torch.stack([(Pendulum.energy(x) - Pendulum.energy(x0)).abs().max() for x in states]).detach()
        early, late = float(errors[:32].max()), float(errors[-32:].max())
        assert late <= 1.5 * early + 1e-9, (
            f"the energy of a pendulum is off by {early:.1e} in the first third and by {late:.1e} in the last: it "
            "drifts, so the map is not symplectic; update one half from the new value of the other, or drop the trait"
        )

    @concerns(lambda kit: any(True for _ in kit.part.parameters()))
    def test_trainable_coefficients_are_part_of_the_control(self) -> None:
        """Every coefficient of the scheme is a parameter of the flow and gets a gradient, at every piece its own."""
        flow, x0, noise = self.network()
        flow(x0, noise=noise).square().sum().backward()
        names = [name for name, _ in flow.named_parameters() if ".solver." in name]
        assert len(names) == STEPS * len(list(self.part.parameters())), (
            f"of the scheme's coefficients there are {names}"
        )
        idle = [name for name, parameter in flow.named_parameters() if parameter.grad is None]
        assert not idle, f"{idle} have no gradient: a coefficient was read as a number, or in __init__"

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_step_maps_compose_to_the_flow(self) -> None:
        """The steps, one after the other, are the solve: state and running cost."""
        flow, x0, noise = self.network([cost()])
        solution = flow.solve(x0, noise=noise)
        trail = forward(flow.steps(noise=noise), (x0,))
        x, spent = trail[-1]
        assert largest(x - solution.final) <= 1e-12, (
            "what a step needs must come in as memory and law, not as an attribute"
        )
        assert largest(spent - flow.running_cost(solution)) <= 1e-12, "the steps' running cost is not the solve's"

    @concerns(lambda kit: isinstance(kit.part, StepSolver))
    def test_costates_are_minus_the_gradients(self) -> None:
        """Pontryagin: ``p_k = d(p_{k+1} . z_{k+1})/dz_k`` is ``-dJ/dz_k``, and the sum of ``dH/du`` is ``-dJ/du``."""
        flow, x0, noise = self.network([cost()])
        maps = flow.steps(noise=noise)
        expected = torch.autograd.grad(objective(flow, x0, noise), list(flow.parameters()))
        costates, gradients = pontryagin(maps, (x0,))
        trail = forward(maps, (x0.requires_grad_(True),))
        pairs = [
            both
            for point, costate in zip(trail[:-1], costates, strict=True)
            for both in zip(point, costate, strict=True)
        ]
        pairs = [(z, p) for z, p in pairs if z.requires_grad]
        slopes = torch.autograd.grad(terminal(trail[-1]), [z for z, _ in pairs], allow_unused=True)
        for (_, p), slope in zip(pairs, slopes, strict=True):
            assert largest(p if slope is None else p + slope) <= 1e-10, (
                "a costate is not minus the gradient of its state"
            )
        for parameter, gradient in zip(flow.parameters(), expected, strict=True):
            assert largest(gradients[id(parameter)] + gradient) <= 1e-10, "dH/du, summed over the steps, is not -dJ/du"


def cost() -> RunningCost:
    """A running cost of time and state."""
    return RunningCost(lambda t, x: (1 + t) * x.square().sum(1), weight=0.3)


def terminal(z: State) -> Tensor:
    """``J`` of the last ``z``, ``(x, *running costs)``."""
    return z[0].sin().sum() + sum(c.sum() for c in z[1:])


def objective(flow: Flow, x0: Tensor, noise: Noise | None, drive: Any = None) -> Tensor:
    """The same ``J`` from the flow's own solve."""
    solution = flow.solve(x0, noise=noise, drive=drive)
    costs = (flow.running_cost(solution),) if flow.quadratures else ()
    return terminal((solution.final, *costs))


def forward(maps: Sequence[StepMap], z: State) -> list[State]:
    """All states ``z_0 ... z_N``, on one graph."""
    trail = [z]
    for step in maps:
        trail.append(
            tuple(v.clone() for v in step(trail[-1]))
        )  # what passes through is one tensor, and a state of each
    return trail


def pontryagin(maps: Sequence[StepMap], z: State) -> tuple[list[State], dict[int, Tensor]]:
    """Costates ``p_0 ... p_{N-1}`` and the summed ``dH_k/du_k`` by parameter, each from the graph of one step alone."""
    with torch.no_grad():
        trail = [tuple(v.detach() for v in point) for point in forward(maps, z)]
    last = tuple(v.clone().requires_grad_(True) for v in trail[-1])
    p: State = tuple(-g for g in torch.autograd.grad(terminal(last), last))
    costates: list[State] = []
    gradients: dict[int, Tensor] = {}
    for step, point in zip(reversed(maps), reversed(trail[:-1]), strict=True):
        leaves = tuple(v.clone().requires_grad_(True) for v in point)
        hamiltonian = sum((a * b).sum() for a, b in zip(p, step(leaves), strict=True))
        inputs = [*leaves, *step.parameters()]
        found = torch.autograd.grad(hamiltonian, inputs, allow_unused=True)
        found = tuple(torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found, strict=True))
        p = found[: len(leaves)]
        costates.append(p)
        for parameter, gradient in zip(step.parameters(), found[len(leaves) :], strict=True):
            gradients[id(parameter)] = gradients.get(id(parameter), 0) + gradient
    return costates[::-1], gradients
