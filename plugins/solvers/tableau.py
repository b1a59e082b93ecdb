"""Butcher tableaus as data that check themselves, and the stage sums of explicit Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from odeframe.field import Law, per_sample

Number = Fraction | int


def rationals(text: str) -> tuple[Fraction, ...]:
    """Numbers written as ``"1/5 -2 0.5"``, exactly."""
    return tuple(Fraction(item) for item in text.split())


def rational_rows(text: str) -> tuple[tuple[Fraction, ...], ...]:
    """One row of numbers a line."""
    return tuple(rationals(line) for line in text.strip().splitlines())


@dataclass(frozen=True)
class Tableau:
    """``k_i = f(t + c_i h, x + h sum_{j<i} a_ij k_j)``, ``x_new = x + h sum_i b_i k_i``.

    Attributes:
        a: rows of the strictly lower triangle, the i-th with i numbers, from the second stage on.
        b: weights.
        order: claimed order; the conditions up to order 4 are checked exactly when the tableau is made.
        b_error: ``b - b_hat``, the weights of the error estimate.
    """

    a: tuple[tuple[Number, ...], ...]
    b: tuple[Number, ...]
    order: int
    b_error: tuple[Number, ...] | None = None

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError(
                f"a tableau of {len(self.b)} stages has rows of 1 to {len(self.b) - 1} numbers, got {self.a}"
            )
        for name, defect in self._conditions():
            if defect != 0:
                raise ValueError(f"a tableau of order {self.order} violates {name} by {defect}")
        if self.b_error is not None and (len(self.b_error) != len(self.b) or sum(self.b_error) != 0):
            raise ValueError("error weights are as many as the stages and sum to zero")

    @property
    def c(self) -> tuple[Number, ...]:
        """Nodes, the row sums of ``a``."""
        return (0, *(sum(row) for row in self.a))

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is evaluated at the new state, and so is the first of the next step."""
        return bool(self.a) and (*self.a[-1], 0) == self.b

    def _conditions(self) -> list[tuple[str, Fraction]]:
        """Order conditions up to order 4 (Hairer, Norsett, Wanner 1993, table II.2.2) as defects."""
        b, c, rows = [Fraction(v) for v in self.b], [Fraction(v) for v in self.c], ((), *self.a)
        ac = [sum((a * c[j] for j, a in enumerate(row)), Fraction(0)) for row in rows]
        ac2 = [sum((a * c[j] ** 2 for j, a in enumerate(row)), Fraction(0)) for row in rows]
        aac = [sum((a * ac[j] for j, a in enumerate(row)), Fraction(0)) for row in rows]

        def dot(*columns: Sequence[Fraction]) -> Fraction:
            total = Fraction(0)
            for i in range(len(b)):
                term = b[i]
                for column in columns:
                    term *= column[i]
                total += term
            return total

        conditions = [
            (1, "sum b = 1", dot() - 1),
            (2, "sum b c = 1/2", dot(c) - Fraction(1, 2)),
            (3, "sum b c^2 = 1/3", dot(c, c) - Fraction(1, 3)),
            (3, "sum b a c = 1/6", dot(ac) - Fraction(1, 6)),
            (4, "sum b c^3 = 1/4", dot(c, c, c) - Fraction(1, 4)),
            (4, "sum b c a c = 1/8", dot(c, ac) - Fraction(1, 8)),
            (4, "sum b a c^2 = 1/12", dot(ac2) - Fraction(1, 12)),
            (4, "sum b a a c = 1/24", dot(aac) - Fraction(1, 24)),
        ]
        return [(name, defect) for order, name, defect in conditions if order <= self.order]

    def floats(self) -> tuple[list[list[float]], list[float], list[float], list[float] | None]:
        """``(a, b, c, b_error)`` as numbers for the inner loop."""
        error = None if self.b_error is None else [float(v) for v in self.b_error]
        a = [[float(v) for v in row] for row in self.a]
        return a, [float(v) for v in self.b], [float(v) for v in self.c], error


def combine(x: Tensor, dt: Any, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """``x + dt sum_i w_i k_i``; zero weights cost nothing."""
    if not torch.is_tensor(dt):
        for weight, stage in zip(weights, stages, strict=False):
            if weight:
                x = torch.add(x, stage, alpha=dt * weight)
        return x
    return x + per_sample(dt, x) * total(weights, stages)


def total(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """``sum_i w_i k_i``; zero weights cost nothing."""
    result = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight:
            result = weight * stage if result is None else torch.add(result, stage, alpha=weight)
    return torch.zeros_like(stages[0]) if result is None else result


def explicit_stages(
    field: Law, t: Tensor, dt: Any, x: Tensor, a: list[list[float]], c: list[float], first: Tensor | None = None
) -> list[Tensor]:
    """The stages ``k_i`` of an explicit method, the first one given where it is known."""
    stages = [field(t, x) if first is None else first]
    for row, node in zip(a, c[1:], strict=True):
        stages.append(field(t + node * dt, combine(x, dt, row, stages)))
    return stages
