"""Callbacks of a run: the checkpoint of an interrupted fit, a progress bar or lines in its place, the best weights."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar

__all__ = ["EpochLines", "InterruptCheckpoint", "Interrupted", "best_and_last", "progress_bar"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):  # a request, not an error: no `except Exception` may swallow it
    """A fit was asked by a signal to stop, and did so between two batches.

    Args:
        signum: the signal.
        path: the checkpoint of that moment; None where there was nothing to save yet.
    """

    def __init__(self, signum: int, path: Path | None = None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.path = signum, path


class InterruptCheckpoint(Callback):
    """Stops a fit on SIGINT or SIGTERM after the batch in progress, and leaves ``interrupted.ckpt``.

    On several ranks one signal stops all of them after the same batch; this has to be the first callback, since a
    progress bar makes rank 0 reduce metrics before the others do, and a decision in between would meet those. A second
    SIGINT stops at once, as without this callback, and leaves no checkpoint, since the weights may be half updated.

    Args:
        folder: where the checkpoint goes; rank 0's counts.

    Raises:
        Interrupted: out of ``Trainer.fit``, with the signal and the path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.folder / "interrupted.ckpt"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """All ranks take rank 0's folder."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens from here on."""
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens from here on where there is no sanity check."""
        self._listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops here, but for an epoch's last batch: its end can be resumed from, the place just before cannot."""
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *arguments: Any, **named: Any) -> None:
        """Stops here too while the weights are untrained; there is nothing to save."""
        if trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops after the epoch's last batch and its validation."""
        self._stop_if_asked(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes the checkpoint of an interruption, and of that alone."""
        self._restore()
        if isinstance(exception, Interrupted) and exception.path is not None:
            trainer.save_checkpoint(exception.path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back; Lightning gives back its own after that, so that a later hook would be too late."""
        self._restore()

    def _listen(self) -> None:
        # Not from on_fit_start on: after that hook Lightning sets a SIGTERM that ends the other ranks mid-batch.
        if not self._previous and threading.current_thread() is threading.main_thread():
            self._signal = None
            self._previous = {each: signal.signal(each, self._note) for each in SIGNALS}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and signum in self._previous:
            signal.signal(signum, self._previous[signum])
        self._signal = self._signal or signum

    def _restore(self) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)
        self._previous = {}

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            trained = not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False)
            raise Interrupted(self._signal or signal.SIGTERM, self.path if trained else None)


class EpochLines(Callback):
    """A line an epoch on standard output, for where a progress bar cannot be drawn."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the time: a fit that goes on within an epoch has no start of it."""
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the time."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the losses, the metrics of the progress bar and the seconds, on rank 0.

        All ranks read the metrics: to read one for the first time is to reduce it over the ranks.
        """
        names = ("train_loss_epoch", "val_loss", *trainer.progress_bar_metrics)
        found = {name: trainer.callback_metrics[name] for name in names if name in trainer.callback_metrics}
        shown = {name.removesuffix("_epoch"): value for name, value in found.items() if not name.endswith("_step")}
        values = "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items())
        last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        seconds = time.perf_counter() - self._start
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1}{last}  {values}  {seconds:.1f} s", flush=True)


def progress_bar() -> RichProgressBar:
    """The progress bar of a terminal; the last epoch's stays."""
    return RichProgressBar(leave=False)


def best_and_last(folder: str | Path, monitor: str | None, mode: str) -> list[ModelCheckpoint]:
    """Keep ``best.ckpt``, by a validation metric, and ``last.ckpt``, of the last epoch.

    Two callbacks, since Lightning's ``save_last`` writes ``last.ckpt`` only where the best is written too, so that it
    is not the last. Without version numbers, since a second fit in a folder would write ``last-v1.ckpt`` beside a stale
    ``last.ckpt``.

    Args:
        folder: where they go.
        monitor: the metric; ``None`` where there is none, and nothing is best.
        mode: ``"max"`` or ``"min"``.
    """
    last = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    if monitor is None:
        return [last]
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    return [best, last]
