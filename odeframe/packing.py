"""Networks with weights of two or three values as small files: one or two bits a weight, and back."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odeframe.checkpoint import CHECKPOINT_KEY, load_weights
from odeframe.errors import CheckpointError, InvalidOption, OdeframeError
from odeframe.module import FlowModule
from odeframe.registry import check_provenance

__all__ = ["export", "load", "pack", "unpack"]

FORMAT = "odeframe packed 1"
WIDTHS = {"binary": 1, "ternary": 2}
"""Bits a weight."""


def export(module: FlowModule, path: str | Path) -> Path:
    """Writes a module, its matrices of two or three values packed, and returns the path.

    Matrices and kernels whose entries are ``-s, s`` take one bit an entry, those with ``-s, 0, s`` two, and the number
    ``s``; every other tensor (biases, norms, matrices of other values) is kept as it is.  The file holds tensors and
    plain data alone.

    Raises:
        InvalidOption: no matrix has two or three values, or the path is a folder.
    """
    file = Path(path)
    if not isinstance(module, FlowModule):
        raise InvalidOption(f"packing.export: got a {type(module).__name__}, expected an odeframe.FlowModule")
    if file.is_dir():
        raise InvalidOption(f"packing.export: {path} is a folder; write the name of a file, e.g. {file / 'model.pt'}")
    state = module.state_dict()
    weights = [name for name, _ in module.named_parameters(remove_duplicate=False)]  # a buffer of signs is no weight
    levels = {name: _levels(state[name]) for name in weights}
    packed = {name: found for name, found in levels.items() if found is not None}
    if not any(bool(state[name].any()) for name in packed):
        raise InvalidOption(
            f"packing.export: no matrix of this {type(module).__name__} has entries -s, s or -s, 0, s for one s; train "
            "it with trainer: discrete_msa (the controls binary and ternary keep real weights underneath)"
        )
    rest = {name: value for name, value in state.items() if name not in packed}
    recorded: dict[str, Any] = {}
    module.on_save_checkpoint(recorded)
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(module.hparams),
        "components": recorded[CHECKPOINT_KEY]["components"],
        "packed": [
            [name, kind, _dtype(state[name]), float(state[name].abs().max()), list(state[name].shape)]
            for name, kind in packed.items()
        ],
        "bits": torch.cat([pack(state[name], kind) for name, kind in packed.items()]),
        "rest": [[name, _dtype(value), list(value.shape)] for name, value in rest.items()],
        "values": {},
    }
    for dtype in dict.fromkeys(_dtype(value) for value in rest.values()):  # one record a type: each costs 200 bytes
        content["values"][dtype] = torch.cat([v.cpu().flatten() for v in rest.values() if _dtype(v) == dtype])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def load(path: str | Path, **objects: Any) -> FlowModule:
    """The module of a file that :func:`export` wrote, in evaluation mode; it predicts what the exported one did.

    Args:
        path: the file.
        **objects: parts that had been given as objects, by kind.

    Raises:
        CheckpointError: the file is not there, is damaged, or is none of ours.
        UnknownComponent: a part's plugin is missing.
    """
    content = _read(path)
    wrong = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StopIteration)
    try:
        state = _unpacked(content)
        dtype = next(value.dtype for value in state.values() if value.is_floating_point())
        components, options = content["components"], content["hyper_parameters"]
    except wrong as error:
        raise CheckpointError(
            f"packed network {path}: is damaged, what it lists is not in it ({type(error).__name__}: {error})"
        ) from error
    try:
        check_provenance(components)
        module = FlowModule(**{**options, **objects}).to(dtype)
    except OdeframeError:
        raise
    except wrong as error:
        raise CheckpointError(
            f"packed network {path}: its words make no network ({type(error).__name__}: {error})"
        ) from error
    load_weights(module, state, path)
    return module.eval()


def _unpacked(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of the module, by name."""
    state: dict[str, Tensor] = {}
    start = 0
    for name, kind, dtype, scale, shape in content["packed"]:
        end = start + _num_bytes(math.prod(shape), kind)
        if not math.isfinite(scale):
            raise ValueError(f"{name} has the size {scale}")
        state[name] = unpack(content["bits"][start:end], kind, shape).to(getattr(torch, dtype)) * scale
        start = end
    if start != len(content["bits"]):
        raise ValueError(f"{len(content['bits'])} bytes of weights, {start} are listed")
    starts = dict.fromkeys(content["values"], 0)
    for name, dtype, shape in content["rest"]:
        start, starts[dtype] = starts[dtype], starts[dtype] + math.prod(shape)
        state[name] = content["values"][dtype][start : starts[dtype]].reshape(shape)
    for dtype, values in content["values"].items():
        if len(values) != starts[dtype]:
            raise ValueError(f"{len(values)} values of {dtype}, {starts[dtype]} are listed")
    return state


def pack(value: Tensor, levels: str) -> Tensor:
    """The signs of a tensor as bytes, first entry in the lowest bits.

    Args:
        value: any shape; ``s`` and ``-s``, for ternary levels 0 too.
        levels: ``"binary"``, one bit an entry, 1 for ``s``; ``"ternary"``, two bits, ``sign + 1``.

    Returns:
        uint8, one for 8 or 4 entries, the last one filled up.
    """
    width = WIDTHS[levels]
    sign = value.detach().cpu().flatten().sign().to(torch.int64)
    code = (sign > 0).to(torch.int64) if levels == "binary" else sign + 1
    count = _num_bytes(code.numel(), levels)
    padded = torch.zeros(count * 8 // width, dtype=torch.int64)
    padded[: code.numel()] = code
    return (padded.reshape(count, -1) << torch.arange(0, 8, width)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, levels: str, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`pack`: int8 signs -1, 0 and 1 of that shape."""
    width = WIDTHS[levels]
    code = (packed.to(torch.int64).reshape(-1, 1) >> torch.arange(0, 8, width)) & (2**width - 1)
    code = code.flatten()[: math.prod(shape)].to(torch.int8)
    return (2 * code - 1 if levels == "binary" else code - 1).reshape(tuple(shape))


def _num_bytes(count: int, levels: str) -> int:
    return math.ceil(count * WIDTHS[levels] / 8)


def _levels(value: Tensor) -> str | None:
    """What a matrix or kernel takes: ``"binary"``, ``"ternary"``, or ``None`` for more values than these."""
    if value.dim() < 2 or not value.is_floating_point() or not value.numel():
        return None
    size = value.abs()
    if not bool(size.max().isfinite()):
        return None
    at_level = size == size.max()
    if bool(at_level.all()) and bool(size.max() > 0):
        return "binary"
    return "ternary" if bool((at_level | (size == 0)).all()) else None


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _read(path: str | Path) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"packed network {path}: no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # checksums of its parts, which torch does not look at
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on foreign bytes; all mean the same to the user
        raise CheckpointError(
            f"packed network {path}: is damaged or no file of torch ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"packed network {path}: was not written by odeframe.packing.export of this version")
    return content
