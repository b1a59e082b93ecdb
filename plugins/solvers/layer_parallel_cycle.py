"""The coarse levels of a layer-parallel iteration: a sweep along the coarsest, relaxation on those between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odeframe import Incompatible
from odeframe_plugins.solvers.layer_parallel_chain import Chain

State = tuple[Tensor, ...]
CoarseMap = Callable[[int, int, State], State]
Step = Callable[[int, State], tuple[State, State]]


class Cycle:
    """One V-cycle over the coarse levels ``l = 1, 2, ..., L``; with one of them, a sweep: parareal's correction.

    Level ``l`` asks for ``U_{m+1} = G_m^l(U_m) + F_m - G_m^l(V_m)``, ``F`` and ``V`` from the level below.  On the last
    one it is solved along the chain.  On the others the states between runs are corrected in the same way, with the
    steps of a run for ``F`` (the full approximation scheme, since ``G`` is nonlinear), and those inside a run follow.

    Args:
        coarse: ``(l, m, z) -> G_m^l(z)``; ``l`` counted from 0 here and in the methods.
        runs: for every level but the last the places where its runs begin and end, as places of this process.
        count: intervals of the last level on this process.
        chain: the processes, in the direction of the iteration.
        fcf: whether a level relaxes twice before it asks the next one.

    Source: Falgout et al. 2014, Parallel Time Integration with Multigrid, sections 2 and 3; Brandt 1977 (FAS).
    """

    def __init__(self, coarse: CoarseMap, runs: Sequence[Sequence[int]], count: int, chain: Chain, fcf: bool) -> None:
        self.coarse, self.runs, self.count, self.chain, self.fcf = coarse, runs, count, chain, fcf
        self.lowest = runs[0][-1] if runs else count

    def first(self, start: State) -> tuple[list[State], list[State]]:
        """A first guess of the points of level 0, and their ``G^0``: a sweep along the last level, then down."""
        last = len(self.runs)
        points, rough = self.sweep(start, self.plain(last))
        for level in reversed(range(last)):
            points, rough = self.fill(level, points, self.plain(level))
        return points, rough

    def plain(self, level: int) -> Step:
        """``G`` of a level as a step, uncorrected."""

        def step(m: int, z: State) -> tuple[State, State]:
            after = self.coarse(level, m, z)
            return after, after

        return step

    def correct(
        self, start: State, points: list[State], ends: list[State], rough: list[State], level: int = 0
    ) -> tuple[list[State], list[State]]:
        """The corrected points of a level, and their ``G``.

        Args:
            start: the state that the whole chain starts from.
            points: ``V``.
            ends: ``F_m(V_m)``.
            rough: ``G_m(V_m)``.
            level: which level.
        """

        def step(m: int, z: State) -> tuple[State, State]:
            again = self.coarse(level, m, z)
            return _corrected(ends[m], again, rough[m]), again

        if level == len(self.runs):
            return self.sweep(start, step)
        corners = [points[place] for place in self.runs[level]]
        tips = self.relaxed(level, corners, step)
        if self.fcf:
            corners = [self.chain.shift(start, tips[-1]), *tips]
            tips = self.relaxed(level, corners, step)
        above = [self.coarse(level + 1, k, corners[k]) for k in range(len(tips))]
        corners, _ = self.correct(start, corners, tips, above, level + 1)
        return self.fill(level, corners, step)

    def sweep(self, start: State, step: Step) -> tuple[list[State], list[State]]:
        """Steps one after the other, over all processes."""
        points, rough = [self.chain.receive(start)], list[State]()
        for m in range(self.count):
            after, again = step(m, points[m])
            points.append(after)
            rough.append(again)
        self.chain.send(points[self.count])
        return points, rough

    def relaxed(self, level: int, corners: Sequence[State], step: Step) -> list[State]:
        """The ends of the runs of a level, each from its own corner."""
        tips = []
        for k, (first, last) in enumerate(zip(self.runs[level], self.runs[level][1:], strict=False)):
            z = corners[k]
            for m in range(first, last):
                z, _ = step(m, z)
            tips.append(z)
        return tips

    def fill(self, level: int, corners: Sequence[State], step: Step) -> tuple[list[State], list[State]]:
        """All points of a level from its corners."""
        points, rough = [corners[0]], list[State]()
        for k, (first, last) in enumerate(zip(self.runs[level], self.runs[level][1:], strict=False)):
            for m in range(first, last):
                after, again = step(m, points[m])
                points.append(after)
                rough.append(again)
            points[last] = corners[k + 1]
        return points, rough


def _corrected(end: State, again: State, before: State) -> State:
    """``F + (G_new - G_old)``: to the bit ``F`` where the two are equal; what is not finite counts as zero."""
    if [v.shape for v in end] != [v.shape for v in again]:
        raise Incompatible(
            "solver 'layer_parallel': the memory of the scheme changes its shape along the way, so that a coarse step "
            "has no counterpart; wrap a scheme of one step, e.g. of: euler, of: rk4"
        )
    changes = [new - old for new, old in zip(again, before, strict=True)]
    changes = [torch.where(torch.isfinite(change), change, torch.zeros_like(change)) for change in changes]
    return tuple(v + change for v, change in zip(end, changes, strict=True))
