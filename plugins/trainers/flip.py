"""Flip rules: how a tensor of two or three values moves along an averaged gradient of the Hamiltonian."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = ("binary", "ternary")


def binary_flip(w: Tensor, M: Tensor, rho: float) -> Tensor:
    """``w_ij <- sign(M_ij)`` where ``|M_ij| > rho max { |M| over entries with the wrong sign }``, else ``w_ij``.

    The threshold is relative to the largest disagreement of the tensor, so that the rule does not see the scale of M.
    An entry with ``M_ij = 0`` stays.

    Args:
        w: values -1 and 1, any shape.
        M: averaged ``dH/dw``, that is minus the gradient of ``J``, same shape.
        rho: from 0 (every wrong sign flips) up to, not including, 1.

    Returns:
        the new values, -1 and 1.

    Source: Li, Hao 2018, An Optimal Control Approach to Deep Learning and Applications to Discrete-Weight Neural
    Networks, section 4; the relative threshold is that of its experiments.
    """
    size = M.abs() * (M * w < 0)
    return torch.where(size > rho * size.max(), -w, w)


def ternary_flip(w: Tensor, M: Tensor, rho: float, sparsity: float) -> Tensor:
    """The ``v`` in {-1, 0, 1} that maximises ``M v - l |v| - r (v - w)^2`` entry by entry.

    ``1`` where ``M > r (1 - 2 w) + l``, ``-1`` where ``M < -r (1 + 2 w) - l``, else 0, with
    ``r = rho max { |M| over entries whose w is not sign(M) }`` and ``l = sparsity mean |M|``.

    Args:
        w: values -1, 0 and 1, any shape.
        M: averaged ``dH/dw``, same shape.
        rho: from 0 up to, not including, 1.
        sparsity: at least 0; larger is sparser.

    Returns:
        the new values, -1, 0 and 1.

    Source: Li, Hao 2018, section 4, with the cost ``l`` of an entry relative to ``|M|`` rather than absolute.
    """
    size = M.abs()
    r = rho * (size * (w != M.sign())).max()
    cost = sparsity * size.mean()
    up, down = r * (1 - 2 * w) + cost < M, -r * (1 + 2 * w) - cost > M
    return up.to(w.dtype) - down.to(w.dtype)


def collapses(M: Tensor, rho: float, sparsity: float) -> bool:
    """Whether no entry of a ternary tensor that is all zero would ever leave zero under this M.

    From ``w = 0`` the largest entry leaves where ``max |M| > rho max |M| + sparsity mean |M|``.
    """
    largest = float(M.abs().max())
    return largest > 0 and sparsity * float(M.abs().mean()) >= (1 - rho) * largest


def nearest(value: Tensor, levels: str) -> Tensor:
    """Real values to signs; for ternary levels the smaller third in size to 0.

    A tensor whose entries already are ``-s, s`` (or ``-s, 0, s``) keeps its pattern, so that it may be applied again.
    ``sign(0) = 1`` for binary levels.
    """
    if levels == "binary":
        return torch.where(value >= 0, 1.0, -1.0).to(value.dtype)
    size = value.abs()
    if bool(((size == 0) | (size == size.max())).all()):
        return value.sign()
    rank = size.flatten().argsort(stable=True).argsort()
    return value.sign() * (rank >= value.numel() // 3).reshape(value.shape)
