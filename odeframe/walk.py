"""The walk of a step solver over a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeframe.compiled import compiled_step
from odeframe.errors import InvalidOption
from odeframe.event import Event, Passage, StopWatch, check_mask, where
from odeframe.field import Field, Law, per_sample
from odeframe.grid import Grid
from odeframe.solution import Solution
from odeframe.transforms import finite

if TYPE_CHECKING:
    from odeframe.solver import Memory, StepSolver, StopRule


class Walk:
    """One pass of a step solver over a grid."""

    def __init__(self, solver: StepSolver, field: Field, grid: Grid, x0: Tensor, stop: StopRule | None) -> None:
        self.solver, self.field, self.grid, self.x0, self.stop = solver, field, grid, x0, stop
        self.x = x0
        self.memory: Memory = ()
        self.found: dict[int, Tensor] = {}
        ends = float(grid.nodes[0].detach()), float(grid.nodes[-1].detach())
        self.watch = None if stop is None else StopWatch(stop, x0, ends)
        if isinstance(stop, Event) and not solver.opaque:
            raise InvalidOption(
                f"solver {type(solver).__name__}: an event is located by dx/dt at the ends of a step, which this "
                "scheme does not have as one value; give a rule (t, x, memory) -> mask, or another solver, e.g. 'rk4'"
            )

    def run(self, times: Tensor) -> Solution:
        """All steps; the states at the output nodes."""
        outputs = set(self.grid.outputs)
        self.found = {0: self.x0}
        for k in range(len(self.grid.spacing)):
            self.advance(k)
            if k + 1 in outputs:
                self.found[k + 1] = (
                    self.x if self.watch is None else self.watch.hold(self.x, float(self.grid.nodes[k + 1]))
                )
        return self.solution(times)

    def solution(self, times: Tensor) -> Solution:
        """The states at the output nodes; not a number at those that were not reached."""
        missing = torch.full_like(self.x0, float("nan"))
        states = torch.stack([self.found.get(node, missing) for node in self.grid.outputs])
        solution = Solution(times, states, self.field.stats)
        if self.watch is not None:
            solution.stop_times, solution.stopped = self.watch.times, self.watch.done
        return solution

    def advance(self, k: int) -> None:
        """Step ``k``, unless every sample has stopped."""
        if self.watch is not None and k > 0 and self.watch.all_done:
            return
        grid, solver = self.grid, self.solver
        t = grid.nodes[k]
        law = self.field.on(t, grid.nodes[k + 1], step=k)
        stepper = law.stepper(solver)
        if k == 0 or k in grid.restarts:
            self.memory = stepper.init(law, t, self.x)
        if solver.compile_step:
            dt = torch.as_tensor(grid.spacing[k], dtype=torch.float64)
            x, memory = compiled_step(solver, one_step)(self.field.stats, stepper, law, t, dt, self.x, self.memory)
        else:
            x, memory = stepper.step(law, t, grid.spacing[k], self.x, self.memory)
        self.field.stats.accepted += 1
        self.field.taken(k, t, grid.spacing[k], (self.x, self.memory), (x, memory))
        if self.watch is None:
            self.x, self.memory = x, memory
        else:
            self.keep_stopped(self.watch, k, law, x, memory)

    def keep_stopped(self, watch: StopWatch, k: int, law: Law, x: Tensor, memory: Memory) -> None:
        """Takes the step for the samples that go on, then asks who stops here."""
        done, t_next = watch.done, self.grid.nodes[k + 1]
        if same := len(self.memory) == len(memory):
            memory = tuple(where(done, old, new) for old, new in zip(self.memory, memory, strict=True))
        if not same and bool(done.any()):
            raise InvalidOption(f"solver {type(self.solver).__name__} changes the length of its memory: no stop rule")
        start, self.x, self.memory = self.x, where(done, self.x, x), memory
        if isinstance(watch.rule, Event):
            ends = self.grid.nodes[k].to(x.device), t_next.to(x.device)
            _, _, self.x = watch.look(Hermite(law, ends, (start, self.x)).passage(), ~done)
            return
        mask = check_mask(watch.rule(t_next, self.x, self.memory), len(done))
        watch.times = torch.where(mask & ~done, t_next.to(watch.times.device), watch.times)
        watch.kept, watch.done = self.x, done | mask

    def locate(self) -> tuple[float, float, Tensor, Tensor]:
        """Walks again without a graph up to the first non-finite state: ``t, dt, last finite state`` there, and it."""
        again = Walk(self.solver, self.field, self.grid, self.x0.detach(), self.stop)
        evaluations, accepted = self.field.stats.nfe, self.field.stats.accepted
        last = again.x0
        try:
            with torch.no_grad():
                for k in range(len(self.grid.spacing)):
                    again.advance(k)
                    if not finite(again.x):
                        return float(self.grid.nodes[k]), float(self.grid.spacing[k]), last, again.x
                    last = again.x
        finally:
            self.field.stats.nfe, self.field.stats.accepted = evaluations, accepted
        return float(self.grid.nodes[-1]), 0.0, last, self.x


def one_step(stepper: Any, law: Law, t: Tensor, dt: Tensor, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """One step as a function: what ``compile`` compiles."""
    return stepper.step(law, t, dt, x, memory)


class Hermite:
    """The cubic through the states and slopes at both ends of a step; slopes are evaluated when first needed."""

    def __init__(self, law: Law, times: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor]) -> None:
        self.law, self.times, self.states = law, times, states
        self.slopes: list[Tensor] = []

    def passage(self) -> Passage:
        """The step whose ends alone are looked at for a crossing."""
        (t, t_next), (start, end) = self.times, self.states
        t = t.expand(len(start))
        return Passage(t, (t_next - self.times[0]).expand(len(start)), start, end, self, cheap=False)

    def __call__(self, theta: Tensor) -> Tensor:
        """The state at ``t + theta dt``, ``theta`` ``(batch,)``."""
        (t, t_next), (start, end) = self.times, self.states
        if not self.slopes:
            self.slopes = [self.law(time, x) for time, x in zip(self.times, self.states, strict=True)]
        s, dt = per_sample(theta, start), (t_next - t).to(start.dtype)
        first, last = self.slopes
        change = end - start - dt * first
        return start + dt * s * first + s * s * (3 - 2 * s) * change + dt * s * s * (s - 1) * (last - first)
