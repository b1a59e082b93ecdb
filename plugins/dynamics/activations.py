"""Activations and norms by word."""

from __future__ import annotations

import torch
from torch import nn

from odeframe import InvalidOption

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """The activation of that name."""
    if name not in ACTIVATIONS:
        raise InvalidOption(f"option activation: got {name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def norm_2d(name: str, channels: int) -> nn.Module:
    """Group norm (at most 8 channels a group), batch norm or none, on ``(batch, channels, height, width)``."""
    if name == "group":
        groups = max(g for g in range(1, channels // min(channels, 8) + 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "none":
        return nn.Identity()
    raise InvalidOption(f"option norm: got {name!r}, expected 'group', 'batch' or 'none'")


def with_time(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``x`` ``(batch, channels, ...)`` with the time, 0-d or ``(batch,)``, as one more channel."""
    shape = (x.shape[0], 1, *x.shape[2:])
    return torch.cat([x, t.to(x).reshape(-1, *[1] * (x.dim() - 1)).expand(shape)], dim=1)


def inner_size(hidden: int | None, default: int) -> int:
    """The size of inner layers: as given, at least 1, or the default.

    Raises:
        InvalidOption: it is below 1.
    """
    if hidden is not None and hidden < 1:
        raise InvalidOption(f"option hidden: got {hidden}, expected at least 1")
    return default if hidden is None else hidden


def odd(kernel: int) -> int:
    """The size of a kernel that keeps an image's size.

    Raises:
        InvalidOption: it is even or below 1.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise InvalidOption(f"option kernel: got {kernel}, expected an odd number")
    return kernel
