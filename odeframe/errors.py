"""What can go wrong: every error that odeframe raises on purpose.

All are ``OdeframeError``, so one ``except`` catches them; each says what was got, what was expected and what
to write instead. This module imports nothing of odeframe, because everything imports it.
"""

# ruff: noqa: N818 - public names: they say what happened, as exceptions of the field do, without the suffix

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "Incompatible",
    "InvalidOption",
    "OdeframeError",
    "PluginConflict",
    "SolveFailed",
    "UnknownComponent",
    "suggestion",
]


class OdeframeError(Exception):
    """The root of all errors that odeframe raises on purpose."""


class UnknownComponent(OdeframeError, LookupError):
    """A name that no usable plugin provides, or one whose package or dependency is not installed."""


class PluginConflict(OdeframeError):
    """One name with several providers; ``package/name`` picks one."""


class Incompatible(OdeframeError):
    """Two components that do not go together."""


class InvalidOption(OdeframeError, ValueError):
    """An option, or a word, that is unknown, missing, of a wrong type or of a value that cannot be."""


class DataError(OdeframeError):
    """Data that is not there, cannot be read or has a shape other than the one that was stated."""


class CheckpointError(OdeframeError):
    """A checkpoint that cannot be read, or that does not belong to this model."""


class SolveFailed(OdeframeError):
    """A solve that did not reach the end of its interval.

    Args:
        message: what happened; the status speaks where it is empty.
        status: the solver's result code, anything with ``.message`` or ``.name``, or a string.
        t: the time that was reached, in the units of the horizon.
        dt: the last step that was tried, same units.
        nfe: how many times the field was evaluated.
        worst_sample: the index in the batch of the sample with the largest error.
    """

    REMEDIES = (
        "What usually helps: looser tolerances (rtol, atol) or more steps (steps, max_steps); an implicit"
        " solver where the problem is stiff; smaller or bounded weights, or float64."
    )

    def __init__(
        self,
        message: str = "",
        *,
        status: Any = "failed",
        t: float | None = None,
        dt: float | None = None,
        nfe: int | None = None,
        worst_sample: int | None = None,
    ) -> None:
        self.message, self.status = message, status
        self.t, self.dt, self.nfe, self.worst_sample = t, dt, nfe, worst_sample
        super().__init__(self._text())

    def _text(self) -> str:
        status = getattr(self.status, "message", "") or getattr(self.status, "name", "") or str(self.status)
        facts = [
            f"t = {float(self.t):.6g}" if self.t is not None else "",
            f"dt = {float(self.dt):.3g}" if self.dt is not None else "",
            f"{self.nfe} evaluations of the field" if self.nfe is not None else "",
            f"worst sample {self.worst_sample}" if self.worst_sample is not None else "",
        ]
        where = ", ".join(fact for fact in facts if fact)
        text = f"the solve failed: {self.message or status}".rstrip(".")
        return f"{text}{f' ({where})' if where else ''}. {self.REMEDIES}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions unpickle as cls(*args), which would feed the finished text in as the message; failures do
        # cross process borders (a rank, a data worker).
        names = ("message", "status", "t", "dt", "nfe", "worst_sample")
        return functools.partial(type(self), **{name: getattr(self, name) for name in names}), ()


def suggestion(word: object, choices: Iterable[str]) -> str:
    """The near miss, as the end of a sentence.

    Args:
        word: what was got.
        choices: what could have been written.

    Returns:
        `` Did you mean 'rk4'?`` with its leading space, or an empty string where nothing is near.
    """
    near = difflib.get_close_matches(str(word), list(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
