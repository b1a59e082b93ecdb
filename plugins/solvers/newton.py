"""Iterations for the stages of an implicit step: simplified Newton, Newton-Krylov, Anderson."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from odeframe.field import per_sample
from odeframe.quadrature import columns
from odeframe_plugins.solvers.krylov import gmres
from odeframe_plugins.solvers.stages import Factors, StageSystem, stage_columns, velocity_and_jacobian

Mask = npt.NDArray[np.bool_]
Kind = Literal["auto", "exact", "krylov", "anderson"]
EXACT_UP_TO = 128  # components of a sample: above, D products and a D x D factorisation cost more than GMRES


def resolve(kind: Kind, x: Tensor) -> Kind:
    """The iteration for a state ``(batch, *state)``: ``auto`` is exact for small states and matrix-free for large."""
    if kind != "auto":
        return kind
    return "exact" if x.numel() <= EXACT_UP_TO * len(x) else "krylov"


class Corrector(Protocol):
    """A rule ``z -> delta`` whose fixed point, ``delta = 0``, solves a stage system."""

    def correct(self, z: Tensor) -> Tensor:
        """The correction at ``z``, both ``(batch, s, *state)``."""

    def refresh(self, slow: Tensor) -> None:
        """Hears which samples ``(batch,)`` converge slowly."""


class SimplifiedNewton:
    """``delta = (I - dt A (x) J)^-1 (image(z) - z)`` with a Jacobian that is kept for as long as it serves.

    Args:
        system: the equation.
        factors: of a Jacobian from outside.  Without, for one stage, that of the first iterate is taken, and taken
            anew for the samples that converge slowly.
    """

    def __init__(self, system: StageSystem, factors: Factors | None = None) -> None:
        self._system, self._factors = system, factors
        self._own, self._jacobian, self._renew = factors is None, torch.empty(0), None

    _renew: Tensor | None

    def correct(self, z: Tensor) -> Tensor:
        """One law call a stage."""
        system = self._system
        if self._own and (self._factors is None or self._renew is not None):
            f, jacobian = velocity_and_jacobian(system.law, system.times[0], (system.base + z)[:, 0])
            if self._renew is not None:
                jacobian = torch.where(self._renew[:, None, None], jacobian, self._jacobian)
            self._jacobian, self._renew = jacobian, None
            self._factors = Factors(jacobian, system.dt, system.coupling)
            residual = system.mixed(f[:, None]) - z
        else:
            residual = system.iterated(z) - z
        assert self._factors is not None
        delta = self._factors.solve(stage_columns(residual))
        return delta if delta.dim() == z.dim() else delta.reshape(z.shape)

    def refresh(self, slow: Tensor) -> None:
        """Takes the Jacobian of those samples again at the next iterate."""
        self._renew = slow if self._own else None


class NewtonKrylov:
    """Newton's correction by GMRES on ``v -> v - dt A f_x v``; ``f_x v`` by differentiating ``w -> f_x^T w``.

    The field is called once a stage and an iteration, as for a simplified Newton; it must be twice differentiable
    by autograd.

    Args:
        system: the equation.
        forcing: the relative residual at which GMRES stops.

    Source: Dembo, Eisenstat, Steihaug 1982 (inexact Newton); Knoll, Keyes 2004.
    """

    def __init__(self, system: StageSystem, forcing: float) -> None:
        self._system, self._forcing = system, forcing

    def correct(self, z: Tensor) -> Tensor:
        """One law call a stage and a few products."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            image = self._system.image(leaf)
        flat = columns(image.detach() - z)
        return gmres(shifted_product(image, leaf), flat, self._forcing).reshape(z.shape)

    def refresh(self, slow: Tensor) -> None:
        """Its Jacobian is new at every iterate."""


def shifted_product(image: Tensor, leaf: Tensor) -> Callable[[Tensor], Tensor]:
    """``v -> v - (d image / d leaf) v`` on ``(batch, N)``."""
    if not image.requires_grad:
        return lambda v: v
    with torch.enable_grad():
        probe = torch.zeros_like(image, requires_grad=True)
        (pulled,) = torch.autograd.grad(image, leaf, probe, create_graph=True, allow_unused=True)
    if pulled is None or not pulled.requires_grad:
        return lambda v: v

    def product(v: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(pulled, probe, v.reshape(leaf.shape), retain_graph=True, allow_unused=True)
        return v if pushed is None else v - columns(pushed)

    return product


class Anderson:
    """The fixed-point iteration ``z <- image(z)``, accelerated over the last ``depth`` iterates of each sample.

    Needs no derivative; it converges where ``dt f`` is contracting or has few directions in which it is not.

    Source: Anderson 1965; Walker, Ni 2011, Anderson acceleration for fixed-point iterations.
    """

    def __init__(self, system: StageSystem, depth: int = 6) -> None:
        self._system, self._depth = system, depth
        self._points: list[Tensor] = []
        self._residuals: list[Tensor] = []

    def correct(self, z: Tensor) -> Tensor:
        """One law call a stage."""
        point, residual = columns(z), columns(self._system.iterated(z) - z)
        self._points = [*self._points[-self._depth :], point]
        self._residuals = [*self._residuals[-self._depth :], residual]
        if len(self._points) == 1:
            return residual.reshape(z.shape)
        moves = torch.stack([a - point for a in self._points[:-1]], dim=2)
        changes = torch.stack([a - residual for a in self._residuals[:-1]], dim=2)
        gram = changes.mT @ changes
        ridge = 1e2 * torch.finfo(z.dtype).eps * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300)
        gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1]).to(gram)
        weights = torch.linalg.solve_ex(gram, -(changes.mT @ residual[..., None]))[0]
        return (residual + ((moves + changes) @ weights)[..., 0]).reshape(z.shape)

    def refresh(self, slow: Tensor) -> None:
        """It has no Jacobian."""


@dataclass
class Outcome:
    """What an iteration found.

    Attributes:
        z: ``(batch, s, *state)``.
        converged: ``(batch,)``, on the host.
        rate: ``(batch,)``, on the host, the last contraction, 0 where one correction was enough.
        iterations: ``(batch,)``, on the host, how many corrections were made.
    """

    z: Tensor
    converged: Mask
    rate: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int_]


def iterate(
    corrector: Corrector,
    z: Tensor,
    size: Callable[[Tensor, Tensor], Tensor],
    tolerance: float,
    limit: int,
    patient: bool = False,
) -> Outcome:
    """``z <- z + delta`` until, for every sample, ``theta / (1 - theta) |delta| <= tolerance``.

    ``theta`` is the ratio of the last two corrections, so the left side estimates the error that is left.  A sample
    that has converged is not moved again, so it ends as it would alone.

    Args:
        corrector: the rule.
        z: first iterate ``(batch, s, *state)``.
        size: ``(delta, z) -> (batch,)``, the norm.
        tolerance: in that norm.
        limit: corrections at most.
        patient: whether a sample may diverge for a while (a Jacobian is taken anew), and whether corrections that no
            longer shrink but are within 100 tolerances count as round-off; otherwise divergence ends it.

    Source: Hairer, Wanner 1996, IV.8 (8.10).
    """
    done = np.zeros(z.shape[0], dtype=bool)
    lost, before, spent, k = done, None, np.zeros(z.shape[0], dtype=int), 0
    rate, united = np.zeros(z.shape[0]), True
    with np.errstate(all="ignore"):
        while k < limit and not (done | lost).all():
            delta = corrector.correct(z)
            length = size(delta, z).double().cpu().numpy()  # the one transfer of an iteration: decisions are the host's
            if united and (contractions := together(length, before, tolerance)) is not None:
                z, spent, k = z + delta, spent + 1, k + 1
                if before is not None:
                    return Outcome(z, ~done, contractions, spent)
                before = length
                continue
            moving, united, k = ~(done | lost), False, k + 1
            failing = ~np.isfinite(length)
            near = length == 0
            if before is not None:
                theta = length / np.maximum(before, 1e-300)
                rate = np.where(moving, theta, rate)
                near |= (theta < 1) & (theta * length <= tolerance * (1 - theta))
                if patient:
                    near |= (theta > 0.5) & (length <= 100 * tolerance)
                else:
                    failing |= ~near & ((theta >= 1) | (theta ** (limit - k) * length > tolerance * (1 - theta)))
            lost = lost | moving & failing
            takes, spent = moving & ~failing, spent + moving
            z = z + delta if takes.all() else torch.where(per_sample_mask(_like(takes, z), z), z + delta, z)
            done = done | takes & near
            if patient and before is not None and bool((slow := takes & ~near & (rate > 0.1)).any()):
                corrector.refresh(_like(slow, z))
            before = length
    return Outcome(z, done, rate, spent)


def together(
    length: npt.NDArray[np.float64], before: npt.NDArray[np.float64] | None, tolerance: float
) -> npt.NDArray[np.float64] | None:
    """The contractions, where the first correction moves all samples, or the second makes all converge; else ``None``.

    So nearly all iterations go: the same decisions as in general, in fewer operations.
    """
    if before is None:
        return length if length.min() > 0 and length.max() < np.inf else None
    theta: npt.NDArray[np.float64] = length / before
    return theta if ((theta < 1) & (theta * length <= tolerance * (1 - theta))).all() else None


def _like(mask: Mask, z: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(z.device)


def per_sample_mask(mask: Tensor, like: Tensor) -> Tensor:
    """A mask ``(batch,)`` with trailing axes."""
    return mask.reshape(-1, *[1] * (like.dim() - 1))


def corrector_for(kind: Kind, system: StageSystem, factors: Factors | None, forcing: float) -> Corrector:
    """The iteration of that kind."""
    if kind == "exact":
        return SimplifiedNewton(system, factors)
    return NewtonKrylov(system, forcing) if kind == "krylov" else Anderson(system)


def smoothed(system: StageSystem, value: float, x: Tensor, error: Tensor) -> Tensor:
    """``(I - dt value f_x(t, x))^-1 error`` without a matrix, ``value`` the diagonal of the scheme."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        image = per_sample(system.dt, x) * value * system.law(system.t, leaf)
    return gmres(shifted_product(image, leaf), columns(error), 1e-3).reshape(error.shape)
