"""The adjoint equation on one piece of control: what is integrated backwards, and how parameter integrals are had."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odeframe import Field, Law
from odeframe.field import State
from odeframe.pace import Pace
from odeframe.solution import Stats
from odeframe_plugins.gradients.dependence import check_dependence

#: The state at a time, where it is known and need not be integrated again.
Trajectory = Callable[[Tensor], Tensor]
Gradients = list[Tensor | None]


class CostateLaw(Law):
    """``(x, a)' = (f, -f_x^T a)`` with ``g' = -f_theta^T a``; ``a' = -f_x^T a`` alone where ``x(t)`` is known.

    Args:
        law: the forward law of the piece.
        shape: of the state, ``(batch, *state)``.
        tensors: ``theta``.
        trajectory: ``x(t)``, or ``None`` where it is integrated.
    """

    def __init__(self, law: Law, shape: torch.Size, tensors: Sequence[Tensor], trajectory: Trajectory | None) -> None:
        self.law, self.shape, self.theta, self.trajectory = law, shape, list(tensors), trajectory
        self.rows = 1 if trajectory is not None else 2
        self.unchecked: str | None = None

    def pull(self, t: Tensor, x: Tensor, a: Tensor, theta: Sequence[Tensor]) -> tuple[Tensor, Gradients]:
        """``f`` and ``(f_x^T a, *f_theta^T a)`` by one evaluation and its derivative."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            f = self.law(t, x)
            if self.unchecked is not None:
                check_dependence([f], [x, *self.law.tensors], self.unchecked)
                self.unchecked = None
            if not f.requires_grad:  # a field that depends on nothing
                return f, [None] * (1 + len(theta))
            return f, list(torch.autograd.grad(f, (x, *theta), a.to(f.dtype), allow_unused=True))

    def now(self, t: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``x`` and ``a`` from what is integrated, each ``(batch, *state)``."""
        return (parts[0] if self.trajectory is None else self.trajectory(t)), parts[-1]

    @abstractmethod
    def pack(self, x: Tensor, a: Tensor) -> Tensor:
        """The state of the backward solve, with zero integrals."""

    @abstractmethod
    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """``(x, a)``, or ``(a,)``, each ``(batch, *state)``."""

    @abstractmethod
    def integrals(self, z: Tensor) -> Gradients:
        """``int f_theta^T a dt`` over the piece, from its final state."""

    def begin(self) -> None:
        """Told before every attempt of a step."""
        return

    def take(self, dt: float) -> None:
        """Told of every accepted step."""
        return


class VectorLaw(CostateLaw):
    """Everything as one vector ``(1, rows D + P)``, for any solver."""

    def pack(self, x: Tensor, a: Tensor) -> Tensor:
        """The vector."""
        front = (a,) if self.rows == 1 else (x, a)
        return torch.cat([v.reshape(1, -1) for v in (*front, *(x.new_zeros(v.numel()) for v in self.theta))], dim=1)

    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Its first ``rows D`` components."""
        size = self.shape.numel()
        return tuple(z[:, i * size : (i + 1) * size].reshape(self.shape) for i in range(self.rows))

    def integrals(self, z: Tensor) -> Gradients:
        """The rest of it."""
        sizes = [self.rows * self.shape.numel(), *(v.numel() for v in self.theta)]
        return [v.reshape(theta.shape) for v, theta in zip(z.split(sizes, dim=1)[1:], self.theta, strict=True)]

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """The rates of all of them."""
        x, a = self.now(t, self.parts(z))
        f, pulled = self.pull(t, x, a, self.theta)
        rates = [torch.zeros_like(v) if p is None else -p for v, p in zip((x, *self.theta), pulled, strict=True)]
        front = (f.detach(),) if self.rows == 2 else ()
        return torch.cat([v.reshape(1, -1).to(z.dtype) for v in (*front, *rates)], dim=1)


class StackedLaw(CostateLaw):
    """``x`` and ``a`` as ``(rows, batch, *state)``; parameter integrals are the step's own sum of its evaluations.

    ``g += dt sum_i w_i f_theta^T a`` at the points that a step evaluates anyway: the same numbers that integrating them
    with the state gives, but only evaluations with a weight are differentiated by ``theta``, none of a rejected step
    is added, and no vector of the size of the parameters goes through the scheme.

    Args:
        law, shape, tensors, trajectory: as for :class:`CostateLaw`.
        weights: ``w_i`` of the evaluations of one attempt, the kept slope first.
    """

    def __init__(
        self,
        law: Law,
        shape: torch.Size,
        tensors: Sequence[Tensor],
        trajectory: Trajectory | None,
        weights: Sequence[float],
    ) -> None:
        super().__init__(law, shape, tensors, trajectory)
        self.weights, self.stage = weights, 0
        self.first: Gradients | None = None
        self.last: Gradients | None = None
        self.sum: Gradients = [None] * len(self.theta)
        self.total: Gradients = [None] * len(self.theta)

    def pack(self, x: Tensor, a: Tensor) -> Tensor:
        """The stack."""
        return a[None] if self.rows == 1 else torch.stack([x, a])

    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Its rows."""
        return z.unbind()

    def integrals(self, z: Tensor) -> Gradients:
        """What the accepted steps added up."""
        return self.total

    def begin(self) -> None:
        """A new sum, with the slope that the attempt starts from."""
        assert self.first is not None
        self.stage, self.last = 1, None
        self.sum = [None] * len(self.theta)
        if self.weights[0]:
            self.sum = add(self.sum, self.first, self.weights[0])

    def take(self, dt: float) -> None:
        """The sum counts; the last evaluation is the first of the next step."""
        self.total, self.stage = add(self.total, self.sum, -dt), 0
        self.first = self.last

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """``(f, -f_x^T a)``, and notes ``f_theta^T a`` where it has a weight."""
        x, a = self.now(t, z.unbind())
        starts, ends = self.first is None, self.stage == len(self.weights) - 1
        weight = self.weights[self.stage] if self.stage else 0.0
        wanted = weight or starts or (ends and self.weights[0])
        f, (by_x, *by_theta) = self.pull(t, x, a, self.theta if wanted else ())
        if starts:
            self.first = by_theta
        elif self.stage:
            if weight:
                self.sum = add(self.sum, by_theta, weight)
            self.last = by_theta if ends else None
            self.stage += 1
        rates = torch.empty_like(z)
        if self.rows == 2:
            rates[0] = f.detach()
        rates[-1] = 0.0 if by_x is None else -by_x
        return rates


def add(total: Gradients, more: Gradients, weight: float) -> Gradients:
    """``total + weight more``, in place where there is a total; ``None`` is zero."""
    result: Gradients = []
    for old, new in zip(total, more, strict=True):
        if new is None:
            result.append(old)
        else:
            result.append(weight * new if old is None else old.add_(new, alpha=weight))
    return result


class CostateField(Field):
    """The laws of the pieces, one after the other, with the forward field's norm of state and costate."""

    law: CostateLaw

    def __init__(self, forward: Field) -> None:
        self.stats, self.forward = Stats(), forward

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The law of the present piece."""
        self.law.t, self.law.t_next = t, t_next
        return self.law

    def taken(self, index: int, t: Any, dt: Any, before: State, after: State) -> None:
        """Passes it on to the law."""
        self.law.take(float(dt))

    def error_norm(self, ratio: Tensor) -> Tensor:
        """The larger of the norms; parameter integrals feed nothing back."""
        norms = [self.forward.error_norm(part) for part in self.law.parts(ratio)]
        return norms[0] if len(norms) == 1 else torch.maximum(*norms)


class BackwardPace(Pace):
    """An adaptive solve that goes on with its step length after the costate has jumped."""

    field: CostateField

    def tried(self, *arguments: Any) -> Any:
        """An attempt, of which the law is told."""
        self.field.law.begin()
        return super().tried(*arguments)

    def cross(self, index: int, start: Tensor, end: Tensor, z: Tensor) -> Tensor:
        """From ``z`` at ``start`` to the end of a piece; the memory starts anew, for the costate may have jumped."""
        self.x, self.t, self.tries = z, float(start), 0
        self.segment(index, self.t, float(end), self.field.on(start, end))
        return self.x
