"""Parareal along a chain of intervals: what the states of a solve and its costates are found by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from odeframe_plugins.solvers.layer_parallel_chain import Chain
from odeframe_plugins.solvers.layer_parallel_cycle import Cycle

State = tuple[Tensor, ...]
Propagator = Callable[[int, State], State]


@dataclass(frozen=True)
class Rule:
    """When the iteration ends, and how it relaxes.

    Attributes:
        iterations: most coarse corrections; ``None`` for as many as make it exact.
        tolerance: on the largest jump between neighbours, relative to the largest state.
        fcf: whether every iteration relaxes twice, F, C and F.
    """

    iterations: int | None
    tolerance: float
    fcf: bool

    def limit(self, intervals: int) -> int:
        """Corrections after which the result is the serial one: a sweep makes one more interval exact, FCF two."""
        exact = max(intervals - 1, 0)
        exact = (exact + 1) // 2 if self.fcf else exact
        return exact if self.iterations is None else min(self.iterations, exact)


@dataclass
class Iterates:
    """What an iteration ended with, on the intervals of this process.

    Attributes:
        points: states at the starts of the intervals and at the end of the last, as they were iterated.
        ends: fine results from each of ``points``.
        jumps: the relative jump ``|F(V_m) - V_{m+1}| / |F(V_m)|``, the largest over all, before every correction and
            at the end: one number more than there were corrections.
    """

    points: list[State]
    ends: list[State]
    jumps: list[float]


def parareal(
    start: State,
    fine: Propagator,
    cycle: Cycle,
    chain: Chain,
    rule: Rule,
    guess: Sequence[State] = (),
) -> Iterates:
    """Solves ``V_{m+1} = F_m(V_m)`` by ``V_{m+1}^{k+1} = F_m(V_m^k) + G_m(V_m^{k+1}) - G_m(V_m^k)``.

    The fine maps of one sweep do not wait for each other, the coarse ones do; with more levels a V-cycle stands for
    the sweep of the coarse ones.  With ``m`` counted from 1, ``V_m`` is exact, to the bit, after ``m - 1`` corrections.
    FCF puts ``V_{m+1} <- F_m(V_m)`` before each correction: two-level MGRIT.  A correction that is not finite (a coarse
    map may blow up where the fine one does not) counts as zero.

    Args:
        start: ``V_0``, on the first process of the chain.
        fine: ``(m, V) -> F_m(V)``, ``m`` counted on this process; the last call of each ``m`` is at the final ``V_m``.
        cycle: the coarse levels; the lowest has an interval for each ``F_m``.
        chain: the processes, in the direction of the iteration.
        rule: when it ends.
        guess: states at the ends of the intervals to begin with, in place of those of a first coarse sweep.

    Source: Lions, Maday, Turinici 2001; Gander, Vandewalle 2007; Falgout et al. 2014 (MGRIT); Guenther et al. 2020,
    Layer-Parallel Training of Deep Residual Neural Networks, section 3.
    """
    count, jumps = cycle.lowest, list[float]()
    limit = rule.limit(chain.total(count))
    if guess:
        points = [chain.shift(start, guess[-1]), *guess]
        rough = [cycle.coarse(0, m, points[m]) for m in range(count)]
    else:
        points, rough = cycle.first(start)
    while True:
        ends = [fine(m, points[m]) for m in range(count)]
        jumps.append(_jump(ends, points[1:], chain))
        if len(jumps) > limit or jumps[-1] <= rule.tolerance:
            return Iterates(points, ends, jumps)
        if rule.fcf:
            points = [chain.shift(start, ends[-1]), *ends]
            ends = [fine(m, points[m]) for m in range(count)]
            rough = [cycle.coarse(0, m, points[m]) for m in range(count)]
        points, rough = cycle.correct(start, points, ends, rough)


def _jump(ends: Sequence[State], points: Sequence[State], chain: Chain) -> float:
    """The largest ``|F(V_m) - V_{m+1}|`` over the largest ``|F(V_m)|``, over all processes; infinite where not finite.

    Only ``x`` is looked at: a memory may have other units, and follows it.
    """
    inner = len(ends) - (chain.place == chain.size - 1)  # behind the last interval nothing starts from a point
    jump = [largest(end[0] - point[0]) for end, point in zip(ends[:inner], points[:inner], strict=True)]
    size = [largest(end[0]) for end in ends]
    top, scale = chain.largest([max(jump, default=0.0), max(size, default=0.0)])
    return 0.0 if top == 0.0 else top / scale if scale > 0 and scale != float("inf") else float("inf")


def largest(x: Tensor) -> float:
    """The maximum norm; infinite where a value is not finite, 0 for an empty batch."""
    if x.numel() == 0:
        return 0.0
    top = float(x.detach().abs().max())
    return top if top == top else float("inf")
