"""The coupled stages of an implicit Runge-Kutta step as one equation, and its linearisation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeframe import Incompatible, Law
from odeframe.field import per_sample
from odeframe.quadrature import columns


class Coupling:
    """The matrix ``A`` and the nodes ``c`` of ``s`` stages that are solved together.

    ``A = V diag(lambda) V^-1`` turns one linear system of size ``s D`` into ``s`` of size ``D``; of a conjugate pair of
    eigenvalues one is enough.

    Args:
        a: ``s`` rows of ``s`` numbers.
        nodes: ``c``, ``s`` numbers.

    Source: Butcher 1976; Bickart 1977; Hairer, Wanner 1996, Solving Ordinary Differential Equations II, IV.8.
    """

    def __init__(self, a: Sequence[Sequence[float]], nodes: Sequence[float]) -> None:
        self.matrix, self.nodes = torch.tensor(a, dtype=torch.float64), tuple(float(c) for c in nodes)
        self.first = float(a[0][0])
        values, right = torch.linalg.eig(self.matrix)
        left = torch.linalg.inv(right)
        self.modes: list[tuple[complex, Tensor, Tensor]] = []
        for i, value in enumerate(values.tolist()):
            if abs(value.imag) < 1e-12:
                self.modes.append((value.real, left[i : i + 1].real, right[:, i : i + 1].real))
            elif value.imag > 0:
                self.modes.append((value, left[i : i + 1], 2 * right[:, i : i + 1]))

    @functools.lru_cache(maxsize=16)  # noqa: B019 - couplings are constants of a class
    @torch.inference_mode(False)  # what is kept serves a later solve with a graph too
    def on(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, list[tuple[complex, Tensor, Tensor]]]:
        """``A`` and the modes ``(lambda, row of V^-1, column of V)``, as matrices, where the state lives."""
        pair = torch.complex(torch.empty((), dtype=dtype), torch.empty((), dtype=dtype)).dtype

        def move(v: Tensor) -> Tensor:
            return v.clone().to(device, pair if v.is_complex() else dtype)  # a module may be imported in inference mode

        return move(self.matrix), [(value, move(left), move(right)) for value, left, right in self.modes]


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)
def constant(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix of numbers where the state lives."""
    return torch.tensor(rows, dtype=dtype, device=device)


def mixture(rows: tuple[tuple[float, ...], ...], vectors: Tensor) -> Tensor:
    """``sum_j rows_ij v_j`` of vectors ``(batch, s, *state)``, ``(batch, len(rows), *state)``, by one product."""
    flat = stage_columns(vectors)
    made = constant(rows, flat.dtype, flat.device) @ flat
    return made.reshape(vectors.shape[0], len(rows), *vectors.shape[2:])


@dataclass
class StageSystem:
    """``z_i = dt sum_j a_ij f(t + c_j dt, r_j + z_j)``, the increments of ``s`` stages ``y_i = r_i + z_i``.

    Attributes:
        law: ``f``.
        t: start of the step, 0-d or ``(batch,)``.
        dt: its length: a number, 0-d or ``(batch,)``.
        base: ``r`` ``(batch, s or 1, *state)``, what is known of the stages.
        coupling: ``A`` and ``c``.
        watch: whether to look for a graph of the velocities; ends with the first one found.
        seen: whether that was looked for.
    """

    law: Law
    t: Tensor
    dt: Any
    base: Tensor
    coupling: Coupling
    watch: bool = False
    seen: bool = False

    def __post_init__(self) -> None:
        # Before any iteration, which has no graph: gradients of times and step lengths go through these.
        self.times: list[Tensor] = [self.t + node * self.dt for node in self.coupling.nodes]  # t + c_i dt
        self.length = self.coupling.first * self.dt  # dt a_11, for a stage alone

    def velocities(self, z: Tensor) -> Tensor:
        """``f`` at every stage, of the shape of ``z``: one call of the law a stage."""
        y = self.base + z
        if z.shape[1] == 1:
            return self.law(self.times[0], y[:, 0])[:, None]
        return torch.stack([self.law(t, each) for t, each in zip(self.times, y.unbind(1), strict=True)], dim=1)

    def iterated(self, z: Tensor) -> Tensor:
        """``image(z)`` without its graph; under ``watch`` it is noted whether there is one."""
        if not self.watch:
            return self.image(z)
        with torch.enable_grad():
            image = self.image(z)
        self.seen, self.watch = True, not image.requires_grad
        return image.detach()

    def mixed(self, velocities: Tensor) -> Tensor:
        """``dt A f`` of velocities ``(batch, s, *state)``."""
        if velocities.shape[1] == 1:
            return per_sample(self.length, velocities) * velocities
        matrix, _ = self.coupling.on(velocities.dtype, velocities.device)
        velocities = (matrix @ stage_columns(velocities)).reshape(velocities.shape)
        return per_sample(self.dt, velocities) * velocities

    def image(self, z: Tensor) -> Tensor:
        """The right-hand side of the equation at ``z`` ``(batch, s, *state)``."""
        return self.mixed(self.velocities(z))


def stage_columns(z: Tensor) -> Tensor:
    """Stages ``(batch, s, *state)`` as ``(batch, s, D)``."""
    return z if z.dim() == 3 else z.flatten(2) if z.dim() > 3 else z[..., None]


class Factors:
    """The inverse of ``I - dt A (x) J``, with one Jacobian for all stages, by the eigenvalues of ``A``.

    Inverses, not triangular factors: a step multiplies by them ten times, and what they lose in precision the next
    correction makes good.

    Args:
        jacobian: ``J`` ``(batch, D, D)``.
        dt: a number, 0-d or ``(batch,)``.
        coupling: ``A``.
    """

    def __init__(self, jacobian: Tensor, dt: Any, coupling: Coupling) -> None:
        _, self._modes = coupling.on(jacobian.dtype, jacobian.device)
        identity = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
        scaled = per_sample(_plain(dt), jacobian) * jacobian.mT
        # Transposed, so that a residual, whose components are its last axis, is multiplied as it lies.
        self._inverses = [torch.linalg.inv_ex(identity - value * scaled)[0] for value, _, _ in self._modes]

    def solve(self, residual: Tensor) -> Tensor:
        """``(I - dt A (x) J)^-1 residual``, both ``(batch, s, D)``; not finite where the matrix is singular."""
        if residual.shape[1] == 1:
            return residual @ self._inverses[0]
        total = None
        for (_, left, right), inverse in zip(self._modes, self._inverses, strict=True):
            found = right @ ((left @ residual.to(left.dtype)) @ inverse)
            found = found.real if found.is_complex() else found
            total = found if total is None else total + found
        assert total is not None
        return total

    def filter(self, error: Tensor) -> Tensor:
        """``(I - dt lambda J)^-1 error`` for the first real eigenvalue, on an error ``(batch, *state)``."""
        real = next(i for i, (value, _, _) in enumerate(self._modes) if not isinstance(value, complex))
        return (columns(error)[:, None] @ self._inverses[real]).reshape(error.shape)


def _plain(dt: Any) -> Any:
    return dt.detach() if torch.is_tensor(dt) else dt


def velocity_and_jacobian(law: Law, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``f`` ``(batch, *state)`` and ``df/dx`` ``(batch, D, D)`` of every sample, by one call and ``D`` products.

    The samples must not depend on one another.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        f = law(t, leaf)
        return f.detach(), rows(f, leaf)


def rows(f: Tensor, leaf: Tensor) -> Tensor:
    """The Jacobian ``(batch, N, N)`` of ``f`` in ``leaf``, sample by sample, as ``N`` batched vector-Jacobian products.

    Raises:
        Incompatible: an operation of the field has no batching rule.
    """
    batch, size = f.shape[0], columns(f).shape[1]
    if not f.requires_grad or f.numel() == 0:
        return f.new_zeros(batch, size, size)
    basis = torch.eye(size).to(f)[:, None].expand(size, batch, size).reshape(size, *f.shape)
    try:
        (found,) = torch.autograd.grad(f, leaf, basis, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except RuntimeError as error:
        raise Incompatible(
            "an implicit solver takes exact Jacobians by batched products, and the field does not allow it "
            f"({str(error).splitlines()[0]}); write newton='krylov'"
        ) from error
    if found is None:  # a field that does not depend on the state
        return f.new_zeros(batch, size, size)
    return found.reshape(size, batch, size).transpose(0, 1)
