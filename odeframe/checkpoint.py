"""Checkpoints as plain data: read, and held against the parts, the data and the weights that are to use them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from odeframe.errors import CheckpointError
from odeframe.registry import check_provenance
from odeframe.specification import DataSpec

__all__ = ["CHECKPOINT_KEY", "check_data", "load_weights", "read_checkpoint"]

CHECKPOINT_KEY = "odeframe"
"""Where a checkpoint keeps ``components`` (provenance), ``data_spec``, ``optimisation`` and ``trainer`` (its state)."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint as plain data, its parts held against what is installed.

    Raises:
        CheckpointError: the file is not there, is damaged, or is no checkpoint of odeframe.
        UnknownComponent: a part's plugin is missing.
    """
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise CheckpointError(f"checkpoint {path}: {what}; a run's lie in its folder checkpoints/, e.g. best.ckpt")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on foreign bytes; all mean the same to the user
        raise CheckpointError(
            f"checkpoint {path}: is no checkpoint, is truncated, or holds more than weights and plain data "
            f"({type(error).__name__})"
        ) from error
    known = isinstance(checkpoint, dict) and {"state_dict", "hyper_parameters"} <= checkpoint.keys()
    if not known or not isinstance(checkpoint.get(CHECKPOINT_KEY), dict):
        raise CheckpointError(f"checkpoint {path}: was not written by odeframe; expected one of its fit")
    check_provenance(checkpoint[CHECKPOINT_KEY].get("components", []))
    return checkpoint


def check_data(checkpoint: Mapping[str, Any], spec: DataSpec, path: str | Path) -> None:
    """Holds the data that a checkpoint is to see against the data that it was trained on.

    Raises:
        CheckpointError: shapes, classes or the unit of the target differ, so that the weights, or what the numbers
            mean, would not fit.
    """
    trained = DataSpec.from_dict(checkpoint[CHECKPOINT_KEY]["data_spec"])
    for name in ("input_shape", "target", "num_classes", "target_shape", "class_names", "target_mean", "target_scale"):
        before, now = getattr(trained, name), getattr(spec, name)
        if before != now and not (isinstance(now, float) and math.isclose(before, now, rel_tol=1e-6)):
            raise CheckpointError(
                f"checkpoint {path}: was trained on data {trained.name!r} with {name} {before}, and data {spec.name!r} "
                f"has {now}; give it the data it was trained on"
            )


def load_weights(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Loads the weights of a checkpoint into a module.

    Raises:
        CheckpointError: names or shapes differ; the message has the first of them.
    """
    wanted = module.state_dict()
    faults = [f"{name} is missing from it" for name in wanted if name not in state]
    faults += [f"{name} is in it alone" for name in state if name not in wanted]
    for name in (name for name in wanted if name in state):
        has, needs = state[name], wanted[name]
        if isinstance(has, Tensor) and isinstance(needs, Tensor) and has.shape != needs.shape:
            faults.append(f"{name} has the shape {tuple(has.shape)} in it, {tuple(needs.shape)} in the model")
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise CheckpointError(f"checkpoint {path}: its weights do not fit the parts asked for: {faults[0]}{more}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path}: its weights do not fit the parts it names: {error}") from error
