"""Who runs the cells: processes on this machine, each cell in one of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from odeframe.comparison.plan import Cell
from odeframe.component import resolve
from odeframe.errors import InvalidOption
from odeframe.hookspecs import KINDS

__all__ = ["Executor", "LocalExecutor", "cell_path", "read_record"]

Started = Callable[[Cell], None]


class Executor(Protocol):
    """Runs cells and writes a record of each to ``cells/<identity>.json``."""

    def run(self, cells: Sequence[Cell], folder: Path, started: Started) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Yields each cell with its record, in the order in which they end."""


def cell_path(folder: Path, cell: Cell) -> Path:
    """The file of a cell's record."""
    return folder / f"{cell.identity}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """A record that was written; ``None`` where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) and "status" in found else None


class LocalExecutor:
    """Processes on this machine.

    They are forked from a server that has imported what the cells need and nothing has run in: a cell starts in
    milliseconds, and a crash takes its own process alone. Where there is no fork, each starts anew.

    Args:
        workers: how many cells run at a time.
        threads: of torch in each.
        limit: seconds after which a cell is ended, and is a row with that reason; ``None`` for none.

    Raises:
        InvalidOption: a number is below 1.
    """

    def __init__(self, workers: int = 1, threads: int = 1, limit: float | None = None) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value < 1:
                raise InvalidOption(f"{name}: got {value}, expected at least 1")
        if limit is not None and not limit > 0:
            raise InvalidOption(f"limit: got {limit}, expected seconds > 0")
        self.workers, self.threads, self.limit = workers, threads, limit

    def run(self, cells: Sequence[Cell], folder: Path, started: Started) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Yields each cell with its record, in the order in which they end."""
        context: Any = _context(cells)
        waiting, running = list(cells), dict[int, tuple[Any, Cell, float]]()
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    cell = waiting.pop(0)
                    process = context.Process(target=work, args=(cell.plain(), str(folder), self.threads))
                    process.start()
                    running[process.sentinel] = process, cell, time.monotonic()
                    started(cell)
                ended: set[Any] = set(wait(list(running), timeout=None if self.limit is None else 0.2))
                late = [each for each, (_, _, start) in running.items() if self._is_late(start)]
                for sentinel in ended | set(late):
                    process, cell, _ = running.pop(sentinel)
                    yield cell, self._record(process, cell, folder, late=sentinel not in ended)
        finally:
            for process, _, _ in running.values():
                process.kill()
            for process, _, _ in running.values():
                process.join()

    def _is_late(self, start: float) -> bool:
        return self.limit is not None and time.monotonic() - start > self.limit

    def _record(self, process: Any, cell: Cell, folder: Path, late: bool) -> dict[str, Any]:
        """What a process left; where that is nothing, how it ended."""
        if late:
            process.kill()
        process.join()
        path = cell_path(folder, cell)
        record = read_record(path)
        if record is None:
            from odeframe.comparison.cell import tell

            reason = f"ended after the limit of {self.limit:g} s" if late else _ending(process.exitcode)
            tell(path, cell, {"status": "failed", "reason": reason, "solver_status": ""})
            record = read_record(path)
        return record or {}


def work(plain: dict[str, Any], folder: str, threads: int) -> None:
    """Runs one cell in a process of its own, and ends with the process that asked for it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from odeframe.comparison.cell import tell, told

    cell = Cell.read(plain)
    tell(cell_path(Path(folder), cell), cell, told(cell, Path(folder), threads))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with status {code} and left no result"


def _context(cells: Sequence[Cell]) -> Any:
    """Processes that are forked from a server with the parts' modules, or started anew where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["odeframe.comparison.cell", *_modules(cells)])
    return context


def _modules(cells: Sequence[Cell]) -> list[str]:
    """The modules of the parts that the cells name."""
    found: dict[str, None] = {}
    for cell in cells:
        for kind, value in {"data": "digits", **cell.words}.items():
            name = value.get("name") if isinstance(value, dict) else value
            if kind in KINDS and isinstance(name, str):
                from odeframe.assembly import GRADIENT_WORDS

                target = resolve("gradient" if name in GRADIENT_WORDS else kind, name).part.target
                found[target.partition(":")[0] if isinstance(target, str) else target.__module__] = None
    return list(found)
