"""Weights of two or three values, trained through real ones."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from odeframe_plugins.controls.constrained import Constrained

THRESHOLD = 0.7  # of the mean size: the near-optimal one for normal and uniform weights (Li, Zhang, Liu 2016)


class Quantised(Constrained):
    """``W = q(V)`` in the forward pass and ``dW = dV`` in the backward one (straight-through)."""

    traits: ClassVar[tuple[str, ...]] = ("constrained", "discrete")
    ordered = True

    def quantise(self, value: Tensor) -> Tensor:
        """``q`` of rows ``(out, -1)``."""
        raise NotImplementedError

    def constrain(self, value: Tensor) -> Tensor:
        """The quantised values, with the gradient of the real ones."""
        with torch.no_grad():
            change = self.quantise(value.flatten(1)).reshape(value.shape) - value
        return value + change


class Binary(Quantised):
    """``W = a sign(V)``, ``a`` the mean of ``|V|`` over each output's weights; ``sign(0) = 1``.

    ``V`` are real weights underneath; training without them is a matter for a trainer.

    Args:
        of: a word for the control underneath.
        pieces: passed on to it, where it takes it.

    Source: Rastegari et al. 2016, XNOR-Net, 3.1 (scale); Bengio et al. 2013 (straight-through gradient).
    """

    word = "binary"

    def quantise(self, value: Tensor) -> Tensor:
        """The best two values ``+-a`` of each row in least squares."""
        return torch.where(value >= 0, 1.0, -1.0) * value.abs().mean(1, keepdim=True)


class Ternary(Quantised):
    """``W = a sign(V)`` where ``|V| > d``, else 0; ``d`` 0.7 times the mean of ``|V|`` over each output's weights.

    ``a`` is the mean of the ``|V|`` above ``d``.  ``V`` are real weights underneath.

    Args:
        of: a word for the control underneath.
        pieces: passed on to it, where it takes it.

    Source: Li, Zhang, Liu 2016, Ternary Weight Networks, 2.2; Bengio et al. 2013 (straight-through gradient).
    """

    word = "ternary"

    def quantise(self, value: Tensor) -> Tensor:
        """The best three values ``-a, 0, a`` of each row for that threshold in least squares."""
        size = value.abs()
        kept = size > THRESHOLD * size.mean(1, keepdim=True)
        scale = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return value.sign() * kept * scale
