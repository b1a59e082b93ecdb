"""The walk of a step solver over a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeframe.compiled import compiled_step
from odeframe.errors import InvalidOption
from odeframe.field import Field, Law
from odeframe.grid import Grid
from odeframe.solution import Solution

if TYPE_CHECKING:
    from odeframe.solver import Memory, StepSolver, StopRule


class Walk:
    """One pass of a step solver over a grid."""

    def __init__(self, solver: StepSolver, field: Field, grid: Grid, x0: Tensor, stop: StopRule | None) -> None:
        self.solver, self.field, self.grid, self.x0, self.stop = solver, field, grid, x0, stop
        self.x = x0
        self.memory: Memory = ()
        self.found: dict[int, Tensor] = {}
        self.stop_times: Tensor | None = None
        if stop is not None:
            end = float(grid.nodes[-1])
            self.stop_times = torch.full((x0.shape[0],), end, dtype=torch.float64, device=x0.device)
            self._done = torch.zeros(x0.shape[0], dtype=torch.bool, device=x0.device)

    def run(self, times: Tensor) -> Solution:
        """All steps; the states at the output nodes."""
        outputs = set(self.grid.outputs)
        self.found = {0: self.x0}
        for k in range(len(self.grid.spacing)):
            self.advance(k)
            if k + 1 in outputs:
                self.found[k + 1] = self.x
        return self.solution(times)

    def solution(self, times: Tensor) -> Solution:
        """The states at the output nodes; not a number at those that were not reached."""
        missing = torch.full_like(self.x0, float("nan"))
        states = torch.stack([self.found.get(node, missing) for node in self.grid.outputs])
        return Solution(times, states, self.field.stats, stop_times=self.stop_times)

    def advance(self, k: int) -> None:
        """Step ``k``, unless every sample has stopped."""
        if self.stop is not None and k > 0 and bool(self._done.all()):
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
        if self.stop is None:
            self.x, self.memory = x, memory
        else:
            self.keep_stopped(grid.nodes[k + 1], x, memory)

    def keep_stopped(self, t: Tensor, x: Tensor, memory: Memory) -> None:
        """Takes the step for the samples that go on, then asks the rule who stops here."""
        done = self._done
        if k_memory := len(self.memory) == len(memory):
            memory = tuple(_where(done, old, new) for old, new in zip(self.memory, memory, strict=True))
        if not k_memory and bool(done.any()):
            raise InvalidOption(f"solver {type(self.solver).__name__} changes the length of its memory: no stop rule")
        self.x, self.memory = _where(done, self.x, x), memory
        assert self.stop is not None and self.stop_times is not None
        mask = self.stop(t, self.x, self.memory)
        if mask.shape != done.shape or mask.dtype != torch.bool:
            raise InvalidOption(
                f"a stop rule returns a bool mask of shape {tuple(done.shape)}, got {mask.dtype} {tuple(mask.shape)}"
            )
        self.stop_times = torch.where(mask & ~done, t.to(self.stop_times.device), self.stop_times)
        self._done = done | mask

    def locate(self) -> tuple[float, float, Tensor, Tensor]:
        """Walks again without a graph up to the first non-finite state: ``t, dt, last finite state`` there, and it."""
        again = Walk(self.solver, self.field, self.grid, self.x0.detach(), self.stop)
        evaluations, accepted = self.field.stats.nfe, self.field.stats.accepted
        last = again.x0
        try:
            with torch.no_grad():
                for k in range(len(self.grid.spacing)):
                    again.advance(k)
                    if not bool(torch.isfinite(again.x).all()):
                        return float(self.grid.nodes[k]), float(self.grid.spacing[k]), last, again.x
                    last = again.x
        finally:
            self.field.stats.nfe, self.field.stats.accepted = evaluations, accepted
        return float(self.grid.nodes[-1]), 0.0, last, self.x


def one_step(stepper: Any, law: Law, t: Tensor, dt: Tensor, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """One step as a function: what ``compile`` compiles."""
    return stepper.step(law, t, dt, x, memory)


def _where(mask: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), old, new)
