"""Butcher tableaus as data that check themselves, and the stage sums of explicit Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor

from odeframe.field import Law, per_sample
from odeframe_plugins.solvers.order_conditions import ElementaryWeights, Tree

Number = Fraction | int
#: The weights of a sum of stages without its zeros, ``(index, weight)``; a weight may be a tensor ``(batch,)``.
Weights = Sequence[tuple[int, Any]]
TOLERANCE = 1e-11  # of the conditions in double precision: a wrong digit of a coefficient violates them by far more


def rationals(text: str) -> tuple[Fraction, ...]:
    """Numbers written as ``"1/5 -2 0.5"``, exactly."""
    return tuple(Fraction(item) for item in text.split())


def rational_rows(text: str) -> tuple[tuple[Fraction, ...], ...]:
    """One row of numbers a line."""
    return tuple(rationals(line) for line in text.strip().splitlines())


def triangle(text: str) -> tuple[tuple[Fraction, ...], ...]:
    """Rows of 1, 2, 3, ... numbers, whatever the line breaks."""
    numbers, start = rationals(text), 0
    rows: list[tuple[Fraction, ...]] = []
    while start < len(numbers):
        rows.append(numbers[start : start + len(rows) + 1])
        start += len(rows)
    return tuple(rows)


def rectangle(text: str, width: int) -> tuple[tuple[Fraction, ...], ...]:
    """Rows of ``width`` numbers, whatever the line breaks."""
    numbers = rationals(text)
    return tuple(numbers[i : i + width] for i in range(0, len(numbers), width))


def difference(b: Sequence[Number], b_hat: Sequence[Number]) -> tuple[Fraction, ...]:
    """``b - b_hat``."""
    return tuple(Fraction(v) - Fraction(w) for v, w in zip(b, b_hat, strict=True))


@dataclass(frozen=True)
class Tableau:
    """``k_i = f(t + c_i h, x + h sum_{j<i} a_ij k_j)``, ``x_new = x + h sum_i b_i k_i``.

    All order conditions up to the claimed orders are checked when the tableau is made.

    Attributes:
        a: rows of the strictly lower triangle, the i-th with i numbers, from the second stage on.
        b: weights.
        order: claimed order.
        b_error: ``b - b_hat``, the weights of the error estimate.
        b_error_order: claimed order of ``b_hat``.

    Source: Hairer, Norsett, Wanner 1993, II.2 (order conditions), II.4 (embedded pairs).
    """

    a: tuple[tuple[Number, ...], ...]
    b: tuple[Number, ...]
    order: int
    b_error: tuple[Number, ...] | None = None
    b_error_order: int = 0

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError(
                f"a tableau of {len(self.b)} stages has rows of 1 to {len(self.b) - 1} numbers, got {self.a}"
            )
        weights = ElementaryWeights(self.matrix)
        self._check("b", weights, [float(v) for v in self.b], self.order)
        if self.b_error is None:
            return
        if len(self.b_error) != len(self.b) or not self.b_error_order:
            raise ValueError("error weights are as many as the stages, and the order of b - b_error is stated")
        embedded = [float(v) - float(e) for v, e in zip(self.b, self.b_error, strict=True)]
        self._check("b - b_error", weights, embedded, self.b_error_order)

    def _check(self, name: str, weights: ElementaryWeights, b: list[float], order: int) -> None:
        for tree, defect in weights.defects(b, order):
            if abs(defect) > TOLERANCE:
                raise ValueError(
                    f"{name}: order {order} is claimed, the condition of the tree {tree} fails by {defect}"
                )

    @property
    def matrix(self) -> list[list[float]]:
        """The rows of ``a`` with the empty first one, as numbers."""
        return [[], *([float(v) for v in row] for row in self.a)]

    @property
    def c(self) -> tuple[Number, ...]:
        """Nodes, the row sums of ``a``."""
        return (0, *(sum(row) for row in self.a))

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is evaluated at the new state, and so is the first of the next step."""
        return bool(self.a) and (*self.a[-1], 0) == self.b

    @property
    def stages(self) -> int:
        """How many stages the new state needs: those without the last one where that is evaluated at it."""
        return len(self.b) - self.first_same_as_last

    @property
    def stability_limit(self) -> float:
        """The end of the stability interval on the negative real axis: ``|R(z)| <= 1`` for ``-limit <= z <= 0``.

        ``R(z) = 1 + sum_k z^k b^T a^{k-1} 1`` (Hairer, Wanner 1996, IV.2).
        """
        weights, tall = ElementaryWeights(self.matrix), cast(Tree, ())
        moments: list[float] = []
        for _ in self.b:
            moments.append(sum(float(v) * w for v, w in zip(self.b, weights.stage(tall), strict=True)))
            tall = (tall,)
        step, z = 1e-3, 0.0
        while z > -100 and abs(1 + sum(m * (z - step) ** (k + 1) for k, m in enumerate(moments))) <= 1 + 1e-9:
            z -= step
        return -z


class Stages:
    """The numbers of a tableau for the inner loop, without zeros."""

    def __init__(self, tableau: Tableau) -> None:
        count = tableau.stages
        self.rows = [sparse(row) for row in tableau.a[: count - 1]]
        self.nodes = [float(v) for v in tableau.c[1:count]]
        self.weights = sparse(tableau.b)

    def __call__(self, field: Law, t: Tensor, dt: Any, x: Tensor, first: Tensor | None = None) -> list[Tensor]:
        """The stages ``k_i``, the first one given where it is known.

        Args:
            field: the law.
            t: 0-d, or ``(batch,)``.
            dt: a number, 0-d, or ``(batch,)``.
            x: ``(batch, *state)``.
            first: ``k_1``, like ``x``.
        """
        stages = [field(t, x) if first is None else first]
        known, time = 0.0, t
        for row, node in zip(self.rows, self.nodes, strict=True):
            if node != known:  # several stages at one time share it
                known, time = node, t + node * dt
            stages.append(field(time, combine(x, dt, row, stages)))
        return stages


def sparse(weights: Iterable[Any]) -> Weights:
    """``(index, weight)`` of the weights that are not zero."""
    return tuple((i, float(v)) for i, v in enumerate(weights) if v)


def combine(x: Tensor, dt: Any, weights: Weights, stages: Sequence[Tensor]) -> Tensor:
    """``x + dt sum_i w_i k_i``."""
    if isinstance(dt, Tensor):
        return x + per_sample(dt, x) * total(weights, stages)
    for i, weight in weights:
        x = torch.add(x, stages[i], alpha=dt * weight)
    return x


def scaled(x: Tensor, dt: Any) -> Tensor:
    """``dt x``, with a length for each sample where there is one."""
    return x * per_sample(dt, x)


def total(weights: Weights, stages: Sequence[Tensor]) -> Tensor:
    """``sum_i w_i k_i``; a weight ``(batch,)`` has its own value for each sample."""
    result = None
    for i, weight in weights:
        if isinstance(weight, Tensor):
            term = per_sample(weight, stages[i]) * stages[i]
            result = term if result is None else result + term
        else:
            result = weight * stages[i] if result is None else torch.add(result, stages[i], alpha=weight)
    return torch.zeros_like(stages[0]) if result is None else result
