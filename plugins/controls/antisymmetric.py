"""Weights whose linear map turns states without growing them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeframe.options import check_not_negative
from odeframe_plugins.controls.constrained import Constrained


class Antisymmetric(Constrained):
    """``W = V - V^T - gamma I`` for square matrices: every eigenvalue has the real part ``-gamma``.

    A kernel ``V`` ``(channels, channels, k, ...)`` of odd size becomes ``V - V*`` with ``V*[i, j, a] = V[j, i, -a]``:
    with zero padding that keeps the resolution the convolution is antisymmetric, and ``gamma`` is taken off its centre.
    Of complex weights it is the conjugate transpose.  Other matrices and kernels are left as they are; a block without
    a square one is refused.

    Args:
        of: a word for the control underneath.
        damping: ``gamma >= 0``.
        pieces: passed on to ``of``, where it takes it.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, 3.1; Chang et al. 2019,
        AntisymmetricRNN.
    """

    word = "antisymmetric"

    def __init__(self, of: Any = "constant", damping: float = 0.0, pieces: int | None = None) -> None:
        super().__init__(of, pieces)
        check_not_negative("control 'antisymmetric'", damping=damping)
        self.damping = damping

    def applies_to(self, value: Tensor) -> bool:
        """Square matrices, and kernels of odd size from as many channels as to."""
        return value.dim() >= 2 and value.shape[0] == value.shape[1] and all(n % 2 for n in value.shape[2:])

    def constrain(self, value: Tensor) -> Tensor:
        """``V - V* - gamma I``."""
        places = tuple(range(2, value.dim()))
        result = value - value.transpose(0, 1).flip(places).conj()
        if not self.damping:
            return result
        centre: Any = (..., *(n // 2 for n in value.shape[2:]))
        identity = torch.zeros_like(value)
        identity[centre] = torch.eye(len(value), dtype=value.dtype, device=value.device)
        return result - self.damping * identity
