"""Cells on a Ray cluster, local or remote; Ray is an extra: ``pip install odeframe[ray]``."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from odeframe.comparison.cell import tell, told
from odeframe.comparison.execution import Started, cell_path
from odeframe.comparison.plan import Cell
from odeframe.errors import InvalidOption, UnknownComponent

__all__ = ["RayExecutor"]


class RayExecutor:
    """Hands every cell to Ray as a task with CPUs and GPUs of its own; records come back and are written here.

    Args:
        address: of a running cluster, or ``"auto"``; ``None`` starts one on this machine.
        workers: CPUs of the one that is started, over those of a cell; a running cluster has its own.
        cpus: of each cell, and its threads.
        gpus: of each cell; a part of one is allowed.

    Raises:
        UnknownComponent: Ray is not installed.
        InvalidOption: a number is below what a cell needs.
    """

    def __init__(self, address: str | None = None, workers: int = 1, cpus: int = 1, gpus: float = 0) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UnknownComponent("executor 'ray' needs ray: pip install odeframe[ray]")
        for name, value, least in (("workers", workers, 1), ("cpus", cpus, 1), ("gpus", gpus, 0)):
            if value < least:
                raise InvalidOption(f"{name}: got {value}, expected at least {least}")
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus

    def run(self, cells: Sequence[Cell], folder: Path, started: Started) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Yields each cell with its record, in the order in which they end."""
        import ray

        ours = not ray.is_initialized()
        if ours:
            local: dict[str, Any] = {"num_cpus": self.workers * self.cpus, "include_dashboard": False}
            options = local if self.address is None else {}
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            # A process for each cell, as on one machine, so that its peak memory is its own; no second try.
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, max_calls=1)(_remote)
            waiting = {task.remote(cell.plain(), self.cpus): cell for cell in cells}
            for cell in cells:
                started(cell)
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(done)
                try:
                    record = ray.get(done)
                except ray.exceptions.RayError as error:
                    text = " ".join(str(error).split())
                    record = {"status": "failed", "reason": f"{type(error).__name__}: {text}", "solver_status": ""}
                tell(cell_path(folder, cell), cell, record)
                yield cell, {**cell.plain(), **record}
        finally:
            if ours:
                ray.shutdown()


def _remote(plain: dict[str, Any], threads: int) -> dict[str, Any]:
    """One cell on a node of the cluster, whose files need not be those of the machine that asked."""
    with tempfile.TemporaryDirectory() as folder:
        return told(Cell.read(plain), Path(folder), threads)
