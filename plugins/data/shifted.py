"""Images moved by whole pixels, as handwriting may stand a little aside."""

from __future__ import annotations

import torch
from torch import Tensor

from odeframe.noise import StepNoise

__all__ = ["drawn_shifts", "shifted"]


def drawn_shifts(x: Tensor, reach: int, noise: StepNoise) -> Tensor:
    """Whole numbers from ``-reach`` to ``reach``, each as likely, int64 ``(batch, 2)``, of the samples of ``x``."""
    uniform = noise.uniform(x[:, 0].double(), (2,))
    return (uniform * (2 * reach + 1)).floor().long() - reach


def shifted(images: Tensor, shifts: Tensor, fill: float) -> Tensor:
    """``out[i, r, c] = images[i, r - shifts[i, 0], c - shifts[i, 1]]``, and ``fill`` where that is outside.

    Args:
        images: ``(batch, height, wide)``.
        shifts: pixels down and to the right, int64 ``(batch, 2)``.
        fill: the number of a pixel beyond the border.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        source = (torch.arange(size, device=images.device) - shifts[:, axis - 1, None]).unsqueeze(3 - axis)
        inside = (source >= 0) & (source < size)
        images = torch.where(inside, images.gather(axis, source.clamp(0, size - 1).expand_as(images)), fill)
    return images
