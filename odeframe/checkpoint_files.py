"""Checkpoint files that are whole or not there, and which of a folder's is the one to go on from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO

from odeframe.checkpoint import read_checkpoint
from odeframe.errors import CheckpointError

__all__ = ["WholeFiles", "last_complete", "with_whole_files"]


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, has the disk confirm it, and renames it: a reader never sees a part of one.

    Lightning's own writes to the system's folder for temporary files, from which a move to another disk is a copy.

    Raises:
        CheckpointError: it cannot be written; what lay in its place is still there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint, on rank 0; a path of the cloud is Lightning's."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        aside = place.with_name(f"{place.name}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(place)
            _confirm(place.parent)
        except (OSError, RuntimeError) as error:  # torch's writer has no error of its own for a disk that is full
            aside.unlink(missing_ok=True)
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
            still = "; the one that is there is whole" if place.is_file() else ""
            raise CheckpointError(
                f"checkpoint {place}: cannot be written: {reason}{still}; make room on the disk"
            ) from error


def with_whole_files(plugins: Any) -> list[Any]:
    """A Lightning trainer's option ``plugins`` with :class:`WholeFiles`, unless another way to write is among them."""
    given = list(plugins) if isinstance(plugins, list | tuple) else [] if plugins is None else [plugins]
    return given if any(isinstance(each, CheckpointIO) for each in given) else [*given, WholeFiles()]


def last_complete(folder: str | Path) -> Path | None:
    """The checkpoint of a folder that has had most steps; ``None`` where there is none.

    Those that are truncated or were not written by odeframe are left out with a warning each.

    Raises:
        UnknownComponent: a part's plugin is missing.
    """
    best: tuple[int, int, float] | None = None
    found = None
    for path in sorted(Path(folder).glob("*.ckpt")):
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; left out", stacklevel=2)
            continue
        rank = (int(checkpoint["global_step"]), _epochs_over(checkpoint), path.stat().st_mtime)
        if best is None or rank > best:
            best, found = rank, path
    return found


def _epochs_over(checkpoint: dict[str, Any]) -> int:
    """How many epochs are over with their validation: of two checkpoints of a step the later one."""
    loops: Any = checkpoint.get("loops", {})
    return int(loops.get("fit_loop", {}).get("epoch_progress", {}).get("current", {}).get("processed", 0))


def _confirm(folder: Path) -> None:
    """Has the disk confirm a folder's names, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
