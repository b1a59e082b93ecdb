"""The matrix Riccati equation of the linear-quadratic problem, solved in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def riccati(A: Tensor, B: Tensor, Q: Tensor, R: Tensor, S: Tensor, left: Tensor) -> Tensor:
    """``P(T - left)`` of ``-P' = A^T P + P A - P B R^{-1} B^T P + Q``, ``P(T) = S``.

    ``P = Y X^{-1}`` with ``(X, Y)' = M (X, Y)``, ``M = [[A, -B R^{-1} B^T], [-Q, -A^T]]``, ``X(T) = I``, ``Y(T) = S``,
    by the exponential of ``-left M``; differentiable in ``left``.

    Args:
        A: ``(n, n)``.
        B: ``(n, m)``.
        Q: ``(n, n)``, symmetric positive semi-definite; so is ``S``.
        R: ``(m, m)``, symmetric positive definite.
        S: ``(n, n)``.
        left: the time that is left, ``(...)``.

    Returns:
        ``(..., n, n)`` in float64.

    Source: Anderson, Moore 1990, Optimal Control: Linear Quadratic Methods, 2.3; Reid 1972 (the linear system).
    """
    A, B, Q, R, S = (each.double() for each in (A, B, Q, R, S))
    n = len(A)
    generator = torch.cat([torch.cat([A, -B @ torch.linalg.solve(R, B.mT)], 1), torch.cat([-Q, -A.mT], 1)])
    flow = torch.linalg.matrix_exp(-generator * left.double().to(A.device)[..., None, None])
    final = torch.cat([torch.eye(n, dtype=torch.float64, device=A.device), S])
    x, y = (flow @ final).split(n, dim=-2)
    return torch.linalg.solve(x, y, left=False)


def quadratic(M: Tensor, x: Tensor) -> Tensor:
    """``x^T M x / 2``, ``(batch,)``, for ``x`` ``(batch, n)`` and ``M`` ``(n, n)`` or ``(batch, n, n)``."""
    return 0.5 * (x * (M @ x[..., None])[..., 0]).sum(1)
