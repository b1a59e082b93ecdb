"""What a solve returns: times, states, quadratures, statistics, status."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from torch import Tensor


class Status(enum.Enum):
    """How a solve ended; the value is the sentence that an error shows."""

    SUCCESS = "the interval was crossed"
    NON_FINITE = "the state became non-finite"
    STEP_TOO_SMALL = "the step size fell below the resolution of time"
    TOO_MANY_STEPS = "the limit max_steps was reached"
    NEWTON_FAILED = "the iteration for an implicit step did not converge"

    @property
    def message(self) -> str:
        """The sentence."""
        return str(self.value)


@dataclass
class Stats:
    """Counts of one solve.

    Attributes:
        nfe: calls of the dynamics on the way forward.
        nfe_backward: calls of the dynamics, or of their derivative, that the gradient made.
        accepted: steps taken.
        rejected: steps tried and thrown away by an adaptive solver.
        stiff: whether an explicit adaptive solver took many steps at its limit of stability (a hint: an implicit
            solver may need far fewer).
    """

    nfe: int = 0
    nfe_backward: int = 0
    accepted: int = 0
    rejected: int = 0
    stiff: bool = False

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.nfe + other.nfe,
            self.nfe_backward + other.nfe_backward,
            self.accepted + other.accepted,
            self.rejected + other.rejected,
            self.stiff or other.stiff,
        )


@dataclass
class Solution:
    """A trajectory at the times that were asked for.

    Attributes:
        times: ``(num_times,)`` in float64.
        states: ``(num_times, batch, *state)``.
        quadratures: running costs by name, each ``(num_times, batch)``.
        stats: counts of evaluations and steps.
        status: how the solve ended.
        stop_times: ``(batch,)`` time at which each sample stopped, the last time where it did not; where an event or a
            stop rule was given.
        stopped: ``(batch,)`` whether it did, likewise.
    """

    times: Tensor
    states: Tensor
    stats: Stats
    status: Status = Status.SUCCESS
    quadratures: dict[str, Tensor] = field(default_factory=dict)
    stop_times: Tensor | None = None
    stopped: Tensor | None = None

    @property
    def final(self) -> Tensor:
        """The state at the last time, ``(batch, *state)``."""
        return self.states[-1]
