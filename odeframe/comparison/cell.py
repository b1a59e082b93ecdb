"""One cell of a comparison: composed, trained within the budget, tested, and told as plain data."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from odeframe.cli.console import quiet_lightning, short_warnings
from odeframe.comparison.plan import Budget, Cell, reason_of
from odeframe.composition import compose
from odeframe.errors import Incompatible, InvalidOption, SolveFailed
from odeframe.module import COUNTS, FlowModule
from odeframe.registry import resolve
from odeframe.run import Run

__all__ = ["failure", "measure", "tell", "told", "versions"]

PACKAGES = ("odeframe", "torch", "pytorch-lightning", "numpy")


class Watch(pl.Callback):
    """Counts evaluations and batches, keeps the learning curves, and ends a fit whose evaluations are spent.

    Args:
        monitor: the validation metric whose curve is kept beside the losses.
        budget: of evaluations, where it is one of those.
    """

    def __init__(self, monitor: str, budget: Budget) -> None:
        self.forward = self.backward = self.batches = 0
        self.curves: dict[str, list[float]] = {}
        self._monitor, self._start = monitor, time.perf_counter()
        self._most = budget.amount if budget.unit == "evaluations" else math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of the curves starts here."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *arguments: Any) -> None:
        """Counts the batch; its backward pass is over."""
        stats = pl_module.network.counted()
        self.forward, self.backward = self.forward + stats.nfe, self.backward + stats.nfe_backward
        self.batches += 1
        if math.isfinite(self._most) and not self.forward + self.backward:
            raise InvalidOption(
                "the trainer counts no evaluations, so that their budget never ends; give epochs or seconds"
            )
        if self.forward + self.backward >= self._most:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A point of every curve; Lightning has validated by now."""
        found = trainer.callback_metrics
        values = {
            "epoch": trainer.current_epoch + 1,
            "seconds": time.perf_counter() - self._start,
            "evaluations": self.forward + self.backward,
            "train_loss": found.get("train_loss_epoch"),
            "val_loss": found.get("val_loss"),
            self._monitor: found.get(self._monitor),
        }
        for name, value in values.items():
            if value is not None:
                self.curves.setdefault(name, []).append(float(value))


def measure(cell: Cell) -> dict[str, Any]:
    """Trains and tests a cell in this process.

    Returns:
        its record: ``status`` "done", the metrics of the test set, parameters, evaluations of a training batch forward
        and backward, seconds, the peak memory of the process in MB beyond what it had before, the solver's status, the
        learning curves, the words with their defaults, and versions.

    Raises:
        Exception: whatever goes wrong.
    """
    pl.seed_everything(cell.seed, workers=True, verbose=False)
    before = _resident_bytes()
    with tempfile.TemporaryDirectory() as folder:  # of the run, which a comparison has no use for
        return _measured(cell, compose(**cell.words, output=folder), before)


def _measured(cell: Cell, run: Run, before: int) -> dict[str, Any]:
    module, watch = run.module, Watch(run.module.monitor[0], cell.budget)
    start = time.perf_counter()
    trainer = run.fit(
        **_length(cell.budget),
        accelerator=cell.device,
        devices=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    seconds = time.perf_counter() - start
    tested = {name.removeprefix("test_"): value for name, value in run.test().items()}
    return {
        "status": "done",
        "reason": "",
        "metrics": {name: value for name, value in tested.items() if name not in COUNTS},
        "monitor": module.task.monitor,
        "mode": module.task.monitor_mode,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "evaluations_forward": watch.forward / max(1, watch.batches),
        "evaluations_backward": watch.backward / max(1, watch.batches),
        "evaluations": watch.forward + watch.backward,
        "batches": watch.batches,
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "peak_memory_mb": _peak_bytes(trainer.strategy.root_device, before) / 1e6,
        "solver_status": _solver_status(run),
        "curves": watch.curves,
        "resolved": {kind: module.hparams[kind] for kind in ("architecture", "task", *module_kinds(module))},
        "versions": versions(module),
        "ran_on": str(trainer.strategy.root_device),
    }


def module_kinds(module: FlowModule) -> tuple[str, ...]:
    """The kinds of part that a module's hyper-parameters name beside architecture and task."""
    return tuple(kind for kind in ("dynamics", "control", "solver", "gradient", "trainer") if kind in module.hparams)


def _length(budget: Budget) -> dict[str, Any]:
    """The budget as options of a Lightning trainer."""
    if budget.unit == "epochs":
        return {"max_epochs": int(budget.amount)}
    if budget.unit == "seconds":
        days, seconds = divmod(budget.amount, 86400)
        return {"max_epochs": -1, "max_time": {"days": int(days), "seconds": seconds}}
    return {"max_epochs": -1}


@torch.no_grad()
def _solver_status(run: Run) -> str:
    """How the solver ended on a batch of the test set, of all flows; "SUCCESS" where all did."""
    module = run.module.eval()
    batch = next(iter(run.data.test_dataloader()), None)
    if batch is None:
        return ""
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    found = {solution.status.name for solution in module.objective(batch).outcome.solutions}
    return ", ".join(sorted(found - {"SUCCESS"} or found))


def versions(module: FlowModule) -> dict[str, str]:
    """Versions of Python, of the libraries, and of every package that a part comes from or needs."""
    noted: dict[str, Any] = {}
    module.on_save_checkpoint(noted)
    (record,) = noted.values()
    packages = [*PACKAGES, *(each["package"] for each in record["components"])]
    for each in record["components"]:
        requires = resolve(each["kind"], each["name"]).part.requires
        packages += [text.partition(":")[0] for text in requires]
    found = {"python": platform.python_version()}
    for package in dict.fromkeys(packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a distribution"
    return found


def failure(error: BaseException) -> dict[str, Any]:
    """The record of a cell that raised: "illegal" where parts do not go together, else "failed", with the reason."""
    status = "illegal" if isinstance(error, Incompatible) else "failed"
    record = {"status": status, "reason": f"{type(error).__name__}: {reason_of(error)}", "solver_status": ""}
    if isinstance(error, SolveFailed):
        record["solver_status"] = str(getattr(error.status, "name", error.status))
    return record


def told(cell: Cell, folder: Path, threads: int) -> dict[str, Any]:
    """Measures a cell, whatever comes of it; what it prints goes to ``<identity>.log``, kept where it failed.

    Args:
        cell: the cell.
        folder: of the logs.
        threads: that torch may use.

    Returns:
        the record.
    """
    torch.set_num_threads(threads)
    log = folder / f"{cell.identity}.log"
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        with short_warnings(), quiet_lightning():
            record = measure(cell)
    except Exception as error:
        traceback.print_exc()
        record = failure(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if record["status"] == "done":
        log.unlink()
    return record


def tell(path: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    """Writes a record aside and renames it, so that a file is whole or not there, whenever the process ends."""
    aside = path.with_suffix(f".{os.getpid()}.part")
    with aside.open("w", encoding="utf-8") as file:
        json.dump({**cell.plain(), **record}, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _peak_bytes(device: torch.device, before: int) -> int:
    """The peak of a CUDA device, where nothing was before; else what the peak of the process rose by."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_bytes() - before


def _resident_bytes() -> int:
    """The peak of the process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes but on macOS
