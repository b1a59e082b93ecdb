"""The folder of a fit: as it was before where the fit is refused."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from odeframe.run import NothingLeft, output_folder

__all__ = ["RunFolder"]

RESULTS = ("config.yaml", "metrics.csv", "hparams.yaml", "checkpoints", "figures", "predictions.csv")
WRITTEN = ("config.yaml", "hparams.yaml", "metrics.csv")
"""What may be there before the first batch, by the logger, or where there is none."""


class RunFolder(Callback):
    """Makes room for a fit, and undoes that if it ends with an error before it has begun.

    A context around the fit, of the main process, and a callback in it. An earlier run in the folder is moved aside,
    unless the fit goes on from a checkpoint, and comes back where this one ends without a batch that it has trained.
    ``config.yaml`` is written when the fit begins, with its first batch of validation or training, in whichever
    process that is: its presence says that there is something to keep, but for a checkpoint that leaves nothing to do.

    Args:
        folder: the folder.
        config: the text of ``config.yaml``.
        resumed: whether the fit goes on from a checkpoint.
        trainer: Lightning's, of the fit.

    Raises:
        InvalidOption: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, config: str, resumed: bool, trainer: pl.Trainer) -> None:
        self.folder, self._config, self._resumed, self._trainer = folder, config, resumed, trainer
        self._made: list[Path] = []
        self._aside: Path | None = None
        self._before: str | None = None
        self._begun = self._stepped = False

    def __enter__(self) -> RunFolder:
        self._made = [each for each in (self.folder, *self.folder.parents) if not each.exists()]
        output_folder(self.folder)
        if self._resumed and (self.folder / "config.yaml").exists():
            self._before = (self.folder / "config.yaml").read_text("utf-8")
        if not self._resumed and any((self.folder / name).exists() for name in ("metrics.csv", "checkpoints")):
            count = 1
            while (aside := self.folder / f"earlier-{count}").exists():
                count += 1
            aside.mkdir()
            _move(self.folder, aside)
            self._aside = aside
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._aside is not None and not self._trained():
            self._undo()
        elif kind is None:
            self._write(self._config)  # of a fit without a batch too
        elif issubclass(kind, NothingLeft) and self._before is not None:
            self._write(self._before)
        elif issubclass(kind, NothingLeft) or not (self.folder / "config.yaml").exists():
            self._undo()

    def _trained(self) -> bool:
        """Whether there is more than of a fit without a batch; a process that was forked leaves checkpoints alone."""
        stepped = self._stepped or self._trainer.global_step > 0 or any(self.folder.glob("checkpoints/*"))
        return stepped and not _tries(self._trainer)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins here."""
        self._begin(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins here where there is no sanity check."""
        self._begin(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """A batch has been trained: an earlier run stays where it was moved to."""
        if self._aside is not None and trainer.is_global_zero and not self._stepped and not _tries(trainer):
            warnings.warn(f"{self.folder} held an earlier run, which is now in {self._aside}", stacklevel=2)
        self._stepped = True

    def _begin(self, trainer: Any) -> None:
        if self._begun or not trainer.is_global_zero:
            return
        self._begun = True
        self._write(self._config)

    def _write(self, config: str) -> None:
        (self.folder / "config.yaml").write_text(config, "utf-8")

    def _undo(self) -> None:
        if not self._made and self._aside is None:
            return
        for name in WRITTEN:
            (self.folder / name).unlink(missing_ok=True)
        if self._aside is not None:
            _move(self._aside, self.folder)
            self._aside.rmdir()
        for each in self._made:
            try:
                each.rmdir()
            except OSError:  # something else has been put there
                break


def _tries(trainer: Any) -> bool:
    """Whether Lightning tries a batch alone, and writes nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _move(source: Path, target: Path) -> None:
    """The results of a run."""
    for name in RESULTS:
        if (source / name).exists():
            shutil.move(source / name, target / name)
