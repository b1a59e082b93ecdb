"""What surrounds a solve: transforms of ``torch.func``, under which values cannot be looked at, autocast, devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from odeframe.errors import Incompatible

_functorch = torch._C._functorch  # torch.func has no public way to ask


def _plain(x: Tensor) -> Tensor:
    """The tensor with all entries, without the wrappers of transforms."""
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x


def on_host(x: Tensor) -> npt.NDArray[Any]:
    """The values of a tensor, for decisions of the host."""
    return np.array(x.tolist()) if transforming() else x.detach().cpu().numpy()


def batched(x: Tensor) -> bool:
    """Whether a ``vmap`` stands for many values of the tensor."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def finite(x: Tensor) -> bool:
    """Whether all entries are finite, of all calls that a ``vmap`` stands for."""
    return bool(torch.isfinite(_plain(x).detach()).all())


def refuse_batched(x: Tensor, solver: str) -> None:
    """Refuses a ``vmap`` over decisions.

    Raises:
        Incompatible: naming the solver and what to write.
    """
    if batched(x):
        raise Incompatible(
            f"solver {solver}: got torch.func.vmap, under which each call would choose steps of its own; give the "
            "states as one batch (per_sample=True for steps of their own), or use a step solver, e.g. 'rk4'"
        )


def transforming() -> bool:
    """Whether a transform of ``torch.func`` (``grad``, ``vjp``, ``jvp``, ``vmap``) is at work."""
    return bool(torch._C._are_functorch_transforms_active())


def autocast_state(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The autocast state of this moment, to be entered again."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled)


def refuse_mps(device: torch.device, what: str) -> None:
    """Refuses what keeps times of samples on a device that has no float64.

    Raises:
        Incompatible: naming what it is.
    """
    if device.type == "mps":
        raise Incompatible(
            f"{what} keeps the times of samples in float64 on the device of the state, and mps has none: write "
            "per_sample=False and no stop rule there, or move the solve to the host by x0.cpu()"
        )
