"""A run: a module and its data with Lightning's trainer, and the folder its results go to."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from odeframe.errors import InvalidOption, OdeframeError
from odeframe.module import FlowModule


class Run:
    """A composed model with its data.

    Args:
        module: the Lightning module.
        data: the Lightning data module.
        output: folder for results; default ``runs/<date>-<architecture>``, made on first use.
    """

    def __init__(self, module: FlowModule, data: pl.LightningDataModule, output: str | Path | None = None) -> None:
        self.module, self.data = module, data
        self._output = None if output is None else Path(output)
        self.trainer: pl.Trainer | None = None

    @property
    def output(self) -> Path:
        """The folder, made when it is first asked for."""
        if self._output is None:
            architecture = self.module.hparams["architecture"]
            name = architecture["name"] if isinstance(architecture, dict) else "network"
            self._output = default_output(name.rpartition("/")[2])
        return output_folder(self._output)

    def fit(self, **options: Any) -> pl.Trainer:
        """Trains; options are those of ``pytorch_lightning.Trainer``, and ``ckpt_path`` to resume."""
        resume = options.pop("ckpt_path", None)
        self.trainer = self._trainer(options)
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume, weights_only=True if resume else None)
        return self.trainer

    def test(self, **options: Any) -> dict[str, float]:
        """The test metrics of the weights as they are."""
        trainer = self._trainer({"logger": False, **options}) if options or self.trainer is None else self.trainer
        (found,) = trainer.test(self.module, datamodule=self.data, verbose=False)
        return dict(found)

    def predict(self, **options: Any) -> Path:
        """Predicts the data's predict set and writes ``predictions.csv``; returns its path."""
        trainer = self._trainer({"logger": False, **options}) if options or self.trainer is None else self.trainer
        batches = trainer.predict(self.module, datamodule=self.data)
        return write_predictions(self.output / "predictions.csv", batches or [])

    def _trainer(self, options: dict[str, Any]) -> pl.Trainer:
        settings = {**quiet_defaults(self.module, self.output), **options}
        return pl.Trainer(**settings)


def quiet_defaults(module: FlowModule, output: Path) -> dict[str, Any]:
    """Trainer options of a run: metrics.csv and checkpoints in its folder, the best by the task's metric."""
    monitor, mode = module.monitor
    return {
        "default_root_dir": str(output),
        "logger": CSVLogger(str(output), name="", version=""),
        "callbacks": [ModelCheckpoint(output / "checkpoints", monitor=monitor, mode=mode, save_last=True)],
        "log_every_n_steps": 10,
    }


def default_output(name: str) -> Path:
    """``runs/<date>-<name>``, with a number behind it where that is taken."""
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder, count = Path("runs") / f"{stamp}-{name}", 1
    while folder.exists():
        count += 1
        folder = Path("runs") / f"{stamp}-{name}-{count}"
    return folder


def output_folder(path: Path) -> Path:
    """The folder, made where it is not there.

    Raises:
        InvalidOption: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"output folder {path}: cannot be made: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise InvalidOption(f"output folder {path}: cannot be written to")
    return path


def write_predictions(path: Path, batches: Iterable[Any]) -> Path:
    """One row a sample: ``sample``, and a column for each named prediction and component."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        if not isinstance(batch, dict):
            raise OdeframeError(
                f"predictions: got {type(batch).__name__} from predict_step, expected a dict of tensors"
            )
        columns = dict(pair for name, values in batch.items() for pair in _columns(name, values))
        for row in zip(*columns.values(), strict=True):
            rows.append({"sample": len(rows), **dict(zip(columns, row, strict=True))})
    aside = path.with_suffix(".part")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["sample"])
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)  # a reader never sees half a file
    return path


def _columns(name: str, values: torch.Tensor) -> Iterable[tuple[str, list[Any]]]:
    flat = values.detach().cpu().reshape(values.shape[0], -1)
    if values.dim() == 1:
        yield name, values.detach().cpu().tolist()
        return
    for index in range(flat.shape[1]):
        yield f"{name}_{index}", flat[:, index].tolist()
