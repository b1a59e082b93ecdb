"""Linear systems known by their products alone, one system a sample: GMRES."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gmres(product: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: float, limit: int = 200) -> Tensor:
    """``x`` with ``|rhs - A x| <= tolerance |rhs|`` for every sample, or the best after ``limit`` products.

    Every sample has its own Krylov space, so none changes another; the space is restarted every 30 products.

    Args:
        product: ``v -> A v`` on ``(batch, N)``, no sample depending on another.
        rhs: ``(batch, N)``.
        tolerance: relative.
        limit: products at most.

    Source: Saad, Schultz 1986.
    """
    x, residual, spent = torch.zeros_like(rhs), rhs, 0
    goal = tolerance * rhs.norm(dim=1)
    while spent < limit and bool((residual.norm(dim=1) > goal).any()):
        correction, products = _cycle(product, residual, goal, min(30, limit - spent, rhs.shape[1]))
        x = x + correction
        residual, spent = rhs - product(x), spent + products + 1
    return x


def _cycle(product: Callable[[Tensor], Tensor], residual: Tensor, goal: Tensor, length: int) -> tuple[Tensor, int]:
    """One cycle: the correction from a Krylov space of at most ``length`` vectors, and how many it took."""
    tiny = torch.finfo(residual.dtype).tiny
    start, weights = residual.norm(dim=1), residual.new_zeros(residual.shape[0], 0)
    basis = [residual / start.clamp_min(tiny)[:, None]]
    upper = residual.new_zeros(residual.shape[0], length + 1, length)
    for j in range(length):
        v = product(basis[j])
        before = v.norm(dim=1)
        for _ in range(2):  # twice is enough (Giraud et al. 2005)
            known = torch.stack(basis, dim=1)
            share = (known @ v[..., None])[..., 0]
            v = v - (share[:, None] @ known)[:, 0]
            upper[:, : j + 1, j] += share
        left = v.norm(dim=1)
        left = torch.where(left > 1e2 * torch.finfo(v.dtype).eps * before, left, torch.zeros_like(left))
        upper[:, j + 1, j] = left
        basis.append(torch.where(left[:, None] > 0, v / left.clamp_min(tiny)[:, None], torch.zeros_like(v)))
        weights, defect = _least_squares(upper[:, : j + 2, : j + 1], start)
        if bool((defect <= 0.5 * goal).all()):
            break
    return (weights[:, None] @ torch.stack(basis[: weights.shape[1]], dim=1))[:, 0], weights.shape[1]


def _least_squares(upper: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """``w`` of least ``|start e_1 - H w|`` and that norm; samples whose space is exhausted have zero columns."""
    rhs = torch.zeros_like(upper[:, :, 0])
    rhs[:, 0] = start
    q, r = torch.linalg.qr(upper)
    diagonal = r.diagonal(dim1=1, dim2=2)
    used = diagonal.abs() > torch.finfo(r.dtype).eps * r.abs().amax((1, 2))[:, None]
    r = r + torch.diag_embed(torch.where(used, torch.zeros_like(diagonal), torch.ones_like(diagonal)))
    target = torch.where(used, (q.mT @ rhs[..., None])[..., 0], torch.zeros_like(diagonal))
    weights = torch.linalg.solve_triangular(r, target[..., None], upper=True)[..., 0]
    return weights, (rhs - (upper @ weights[..., None])[..., 0]).norm(dim=1)
