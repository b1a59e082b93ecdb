"""The coarse levels of a grid, and which of their intervals one process has."""

from __future__ import annotations

import bisect
from typing import Any

from torch import Tensor

from odeframe import Field, InvalidOption
from odeframe.grid import Grid
from odeframe_plugins.solvers.layer_parallel_chain import Chain
from odeframe_plugins.solvers.layer_parallel_cycle import CoarseMap, Cycle
from odeframe_plugins.solvers.layer_parallel_intervals import Coarse, Intervals


class Levels:
    """The intervals of every coarse level, ``coarsening``, ``coarsening^2``, ... steps long, and what one process has.

    Args:
        solver, field, grid, coarsening, coarse: as for :class:`Intervals`.
        levels: how many, the fine one included.
        group: the processes; each has whole intervals of the last level.

    Raises:
        InvalidOption: where the last level has a single interval, or fewer than there are processes.
    """

    def __init__(
        self, solver: Any, field: Field, grid: Grid, coarsening: int, coarse: Coarse, levels: int, group: Any
    ) -> None:
        bounds, spans = level_bounds(len(grid.spacing), coarsening, levels, Chain(group))
        self.intervals = [Intervals(solver, field, grid, coarsening ** (i + 1), coarse) for i in range(levels - 1)]
        self.spans = spans
        self.runs = [
            [bisect.bisect_left(low, high[k]) - own.start for k in range(above.start, above.stop + 1)]
            for low, high, own, above in zip(bounds, bounds[1:], spans, spans[1:], strict=False)
        ]

    def tensors(self) -> list[Tensor]:
        """What the own layers say that they depend on."""
        low = self.intervals[0]
        nodes, steps = low.grid.nodes, range(low.bounds[self.spans[0].start], low.bounds[self.spans[0].stop])
        return [tensor for k in steps for tensor in low.field.on(nodes[k], nodes[k + 1], k).tensors]

    def lowest(self, level: int, i: int) -> int:
        """The own interval of the lowest level with which the i-th own one of another begins."""
        for places in reversed(self.runs[:level]):
            i = places[i]
        return i

    def cycle(self, coarse: CoarseMap, chain: Chain, fcf: bool, back: bool = False) -> Cycle:
        """The iteration over these levels; ``back`` where the last interval comes first."""
        runs = [[places[-1] - place for place in reversed(places)] for places in self.runs] if back else self.runs
        return Cycle(coarse, runs, len(self.spans[-1]), chain, fcf)


def level_bounds(steps: int, coarsening: int, levels: int, chain: Chain) -> tuple[list[list[int]], list[range]]:
    """For every coarse level where its intervals begin and end, in steps, and which of them this process has."""
    bounds = [[*range(0, steps, coarsening**level), steps] for level in range(1, levels)]
    if levels > 2 and len(bounds[-1]) <= 2:
        raise InvalidOption(
            f"solver 'layer_parallel': {levels} levels with coarsening {coarsening} leave one interval of {steps} "
            f"steps on the last; write at most levels: {max(2, _most(steps, coarsening))}, or more steps"
        )
    top = chain.share(len(bounds[-1]) - 1)
    first, last = bounds[-1][top.start], bounds[-1][top.stop]
    return bounds, [range(bisect.bisect_left(each, first), bisect.bisect_left(each, last)) for each in bounds]


def _most(steps: int, coarsening: int) -> int:
    """The most levels that leave two intervals or more."""
    levels = 2
    while coarsening**levels < steps:
        levels += 1
    return levels
