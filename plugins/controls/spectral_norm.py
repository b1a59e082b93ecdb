"""Weights whose linear maps have a bounded norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from odeframe.options import check_positive
from odeframe_plugins.controls.constrained import Constrained


class SpectralNorm(Constrained):
    """``W = V min(1, bound / sigma(V))``, ``sigma`` the largest singular value: ``|W x| <= bound |x|``.

    For a kernel ``(out, in, k, ...)`` ``sigma`` is ``sqrt(k ...)`` times that of the matrix ``(out, in k ...)``, a
    bound of the norm of the convolution with zero padding.  ``sigma`` is computed exactly, once a step where the
    weights are constant in it: a power iteration would keep a state that differs between the evaluations which a
    gradient repeats, and its estimate lies below ``sigma``.

    Args:
        of: a word for the control underneath.
        bound: of the norm of each matrix.
        pieces: passed on to ``of``, where it takes it.

    Source: Miyato et al. 2018, Spectral Normalization for GANs; Singla, Feizi 2021, Fantastic Four (the bound of a
        convolution).
    """

    word = "spectral_norm"

    def __init__(self, of: Any = "constant", bound: float = 1.0, pieces: int | None = None) -> None:
        super().__init__(of, pieces)
        check_positive("control 'spectral_norm'", bound=bound)
        self.bound = bound

    def constrain(self, value: Tensor) -> Tensor:
        """``V``, shrunk where it is too large."""
        places = math.prod(value.shape[2:])
        sigma = torch.linalg.matrix_norm(value.flatten(1), 2) * math.sqrt(places)
        return value / (sigma / self.bound).clamp(min=1)
