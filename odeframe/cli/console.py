"""What a command prints, and what Lightning may print beside it."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

__all__ = ["metrics_table", "one_line", "quiet_lightning", "say", "short_warnings"]

CHATTER = (
    "does not have many workers",
    "smaller than the logging interval",
    "exists and is not empty",
    "configure_optimizers` will be overridden",
    "args parameter is intended to run from within Python",
    "resuming from a checkpoint that ended before the epoch ended",
    "GPU available but not used",
    "The dirpath has changed from",
    "You defined a `validation_step` but have no `val_dataloader`",
)
"""Warnings of Lightning about what a run does on purpose, or says itself."""

_LIGHTNING = ("pytorch_lightning", "lightning_fabric")
KILLED = "terminated with code -"
"""What Lightning notes of a rank that a signal has ended, before it kills the others."""


def one_line(text: object) -> str:
    """A message without line breaks."""
    return " ".join(str(text).split())


def say(text: str) -> None:
    """A line on standard output, at once."""
    print(text, flush=True)


class _Notes(logging.StreamHandler):
    """What plugins tell by Lightning's logger, as lines of ours; Lightning's own tips are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record; the file it comes from says whose it is."""
        if not any(name in Path(record.pathname).parts for name in _LIGHTNING):
            print(f"note: {one_line(record.getMessage())}", file=sys.stderr)
        elif KILLED in record.getMessage():
            what = one_line(record.getMessage()).partition(" Forcefully")[0]
            resume = "All ranks are stopped; go on from the last checkpoint by odeframe fit --resume auto"
            print(f"error: {what} {resume}", file=sys.stderr, flush=True)
        elif record.levelno >= logging.ERROR:
            print(f"error: {one_line(record.getMessage())}", file=sys.stderr)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {one_line(message)}", file=sys.stderr)


@contextmanager
def short_warnings() -> Iterator[None]:
    """Within it warnings are single lines, and those of libraries about their own code are not shown."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        for text in CHATTER:
            warnings.filterwarnings("ignore", f"(?s).*{text}")
        warnings.showwarning = _show
        yield


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within it Lightning's tips are not shown; it must be imported already, since it sets its loggers up then."""
    loggers = [logging.getLogger(name) for name in _LIGHTNING]
    before = [each.handlers for each in loggers]
    for each in loggers:
        each.handlers = [_Notes()]
    try:
        yield
    finally:
        for each, handlers in zip(loggers, before, strict=True):
            each.handlers = handlers


def metrics_table(title: str, found: Mapping[str, Any]) -> None:
    """Metrics by name, as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", title, title_justify="left")
    table.columns[1].justify = "right"
    for name, value in sorted(found.items()):
        table.add_row(name.partition("_")[2], f"{value:.6g}")
    Console().print(table)
