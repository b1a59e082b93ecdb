"""A run: a module and its data with Lightning's trainer, and the folder its results go to."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import move_data_to_device, rank_zero_only

from odeframe.callbacks import best_and_last
from odeframe.checkpoint import check_data, load_weights, read_checkpoint
from odeframe.checkpoint_files import with_whole_files
from odeframe.data import DataModule, in_dtype_of, specification
from odeframe.errors import CheckpointError, InvalidOption, OdeframeError
from odeframe.module import FlowModule
from odeframe.replica_guard import ReplicaGuard
from odeframe.task import Task

EPOCHS = 10
"""How long a fit is where nothing says so; Lightning's own default is a thousand epochs."""


class NothingLeft(InvalidOption):
    """A checkpoint has been trained as long as the options of the trainer say."""


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
    def folder(self) -> Path:
        """Where results go; not made yet."""
        if self._output is None:
            architecture = self.module.hparams["architecture"]
            name = architecture["name"] if isinstance(architecture, dict) else "network"
            self._output = default_output(name.rpartition("/")[2])
        return self._output

    @property
    def output(self) -> Path:
        """The folder, made when it is first asked for."""
        return output_folder(self.folder)

    def fit(self, ckpt_path: str | Path | None = None, **options: Any) -> pl.Trainer:
        """Trains, and returns Lightning's trainer.

        Args:
            ckpt_path: a checkpoint to go on from: its weights, optimiser, epoch and step.
            **options: those of ``pytorch_lightning.Trainer``; 10 epochs where they say nothing of the length.

        Raises:
            CheckpointError: the checkpoint cannot be read, or belongs to other parts or data.
            NothingLeft: the checkpoint has been trained as long as the options say already.
        """
        return self.fit_with(pl.Trainer(**trainer_options(self.module, self.data, self.output, options)), ckpt_path)

    def fit_with(self, trainer: pl.Trainer, ckpt_path: str | Path | None = None) -> pl.Trainer:
        """Trains by a trainer that is there already; raises what :meth:`fit` raises."""
        self.trainer, start = trainer, 0
        if ckpt_path is not None:
            checkpoint = self.restore(ckpt_path)
            start = checkpoint["global_step"]
            keep_metrics(trainer, start)
        weights_only = None if ckpt_path is None else True
        trainer.fit(self.module, datamodule=self.data, ckpt_path=ckpt_path, weights_only=weights_only)
        if ckpt_path is not None and trainer.global_step == start:
            raise NothingLeft(
                f"checkpoint {ckpt_path}: has had {start} steps, and max_epochs={trainer.max_epochs}, "
                f"max_steps={trainer.max_steps} leave nothing to do; give the trainer more of them"
            )
        return trainer

    def restore(self, path: str | Path) -> dict[str, Any]:
        """Loads the weights of a checkpoint and returns it; a control that is coarser than it is refined first.

        Raises:
            CheckpointError: it cannot be read, or belongs to other parts or data.
            UnknownComponent: a part's plugin is missing.
        """
        checkpoint = read_checkpoint(path)
        check_data(checkpoint, specification(self.data), path)
        wanted, has = (said.get("refined") or 1 for said in (checkpoint["hyper_parameters"], self.module.hparams))
        if wanted % has:
            raise CheckpointError(f"checkpoint {path}: was refined {wanted} times, and the model {has} times already")
        if wanted != has:
            self.module.refine(wanted // has)
        load_weights(self.module, checkpoint["state_dict"], path)
        return checkpoint

    def validate(self, **options: Any) -> dict[str, float]:
        """The validation metrics of the weights as they are."""
        (found,) = self._trainer(options).validate(self.module, datamodule=self.data, verbose=False)
        return dict(found)

    def test(self, **options: Any) -> dict[str, float]:
        """The test metrics of the weights as they are."""
        (found,) = self._trainer(options).test(self.module, datamodule=self.data, verbose=False)
        return dict(found)

    def predict(self, **options: Any) -> Path:
        """Predicts the data's predict set and writes ``predictions.csv``, or what the task writes; returns its path.

        Raises:
            InvalidOption: the trainer has several processes, each of which would see a share of the data.
        """
        trainer = self._trainer(options)
        if trainer.world_size > 1:
            raise InvalidOption(
                f"predict: got {trainer.world_size} processes, expected one, so that the rows of predictions.csv are "
                "those of the data; write devices: 1"
            )
        batches: list[Any] = list(trainer.predict(self.module, datamodule=self.data) or [])
        names = self.data.predict_names if isinstance(self.data, DataModule) else ()
        written = self.module.task.write(batches, self.output, names)
        return write_predictions(self.output / "predictions.csv", batches) if written is None else written

    def draw(self) -> list[Path]:
        """Writes the pictures that the task makes of a test batch to ``figures/``; their paths, none where it has none.

        Called on one process alone.
        """
        task, module = self.module.task, self.module
        if type(task).draw is Task.draw:
            return []
        self.data.setup("test")
        batch = move_data_to_device(in_dtype_of(module, next(iter(self.data.test_dataloader()))), module.device)
        training = module.training
        try:
            return task.draw(module.eval().network, batch, output_folder(self.output / "figures"))
        finally:
            module.train(training)

    def _trainer(self, options: dict[str, Any]) -> pl.Trainer:
        """The trainer of the fit, or a new one where there is none or options are given."""
        if self.trainer is not None and not options:
            return self.trainer
        return pl.Trainer(**trainer_options(self.module, self.data, self.folder, options, fitting=False))


def trainer_options(
    module: FlowModule,
    data: pl.LightningDataModule,
    folder: Path,
    given: Mapping[str, Any],
    extra: Sequence[Callback] = (),
    *,
    fitting: bool = True,
) -> dict[str, Any]:
    """Trainer options: those that are given, and a run's own where they say nothing.

    A fit logs to ``metrics.csv``, keeps ``checkpoints/best.ckpt`` and ``last.ckpt``, and compares its ranks where there
    are several; whatever is given replaces the one it corresponds to.

    Args:
        module: whose metric says which checkpoint is best.
        data: its data.
        folder: where results go.
        given: options by name; ``None`` says nothing.
        extra: callbacks on top of the given ones; a progress bar only where none is given and bars are wanted.
        fitting: whether it is a fit, or one pass over a set.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    wanted = chosen.pop("callbacks", [])
    callbacks: list[Callback] = [*wanted] if isinstance(wanted, list | tuple) else [wanted]
    bare = bool(chosen.get("barebones"))  # where Lightning refuses bars, loggers and checkpoints
    no_bar = bare or chosen.get("enable_progress_bar") is False or _has(callbacks, ProgressBar)
    callbacks += [callback for callback in extra if not (no_bar and isinstance(callback, ProgressBar))]
    if fitting and not _has(callbacks, ReplicaGuard):
        callbacks.insert(0, ReplicaGuard())  # before what reduces metrics on rank 0 alone, a progress bar
    if bare:
        return {"default_root_dir": str(folder), **chosen, "callbacks": callbacks}
    own: dict[str, Any] = {"default_root_dir": str(folder), "enable_model_summary": False, "logger": False}
    if not fitting:
        return {**own, "enable_checkpointing": _has(callbacks, Checkpoint), **chosen, "callbacks": callbacks}
    if endless(chosen):
        own["max_epochs"] = EPOCHS
    if chosen.get("enable_checkpointing") is not False and not _has(callbacks, Checkpoint):
        validated = type(data).val_dataloader is not pl.LightningDataModule.val_dataloader
        validated &= chosen.get("limit_val_batches") != 0
        callbacks += best_and_last(folder / "checkpoints", *module.monitor if validated else (None, "min"))
    chosen["plugins"] = with_whole_files(chosen.get("plugins"))
    logger = CSVLogger(str(folder), name="", version="")
    return {**own, "log_every_n_steps": 10, "logger": logger, **chosen, "callbacks": callbacks}


def endless(options: Mapping[str, Any]) -> bool:
    """Whether trainer options say nothing of how long a fit is."""
    bounded = options.get("max_epochs") is not None or options.get("max_steps", -1) != -1
    return not (bounded or options.get("max_time") or options.get("fast_dev_run"))


def _has(callbacks: Sequence[Callback], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


@rank_zero_only
def keep_metrics(trainer: pl.Trainer, step: int) -> None:
    """Keeps the rows of ``metrics.csv`` up to a step where a fit goes on in the same folder.

    A CSVLogger deletes the file of its folder when it opens it.

    Args:
        trainer: of the fit that is about to go on.
        step: how many optimiser steps lie behind its checkpoint.
    """
    for logger in trainer.loggers:
        path = Path(logger.log_dir or "", "metrics.csv")
        if not isinstance(logger, CSVLogger) or not path.is_file():
            continue
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < step]
            names = list(reader.fieldnames or [])
        writer = logger.experiment
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(rows)
        writer.metrics_keys = names


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
