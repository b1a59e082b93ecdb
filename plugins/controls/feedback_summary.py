"""Closed loop on the distribution of the samples."""

from __future__ import annotations

from typing import Any, ClassVar

from odeframe import InvalidOption
from odeframe_plugins.controls.feedback import Feedback


class FeedbackSummary(Feedback):
    """``u_i = pi(t, x_i, m)`` with ``m = mean_j tanh(E x_j + e)`` over all samples of the batch.

    The samples are particles of one flow: what one of them does depends on all (a deep set).  The batch of one process
    is the distribution it sees, so that the result depends on the batch, and per-sample steps are refused.

    Args:
        of, size, hidden, gains, width, pieces: as for ``feedback``.
        summary: size of ``m``.

    Source: Zaheer et al. 2017, Deep Sets; Carmona, Delarue 2018, Probabilistic Theory of Mean Field Games, 6 (controls
        that depend on the law of the state).
    """

    traits: ClassVar[tuple[str, ...]] = ("closed_loop", "mean_field")

    def __init__(
        self,
        of: Any = "constant",
        size: int | None = None,
        hidden: int = 16,
        gains: Any = "constant",
        width: int | None = None,
        pieces: int | None = None,
        summary: int = 8,
    ) -> None:
        super().__init__(of, size, hidden, gains, width, pieces)
        if summary < 1:
            raise InvalidOption(f"control 'feedback_summary': option summary: got {summary}, expected at least 1")
        self.summary = summary  # type: ignore[misc]
