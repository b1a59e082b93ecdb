"""Singly diagonally implicit Runge-Kutta pairs: one stage after the other, one matrix for all."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe.adaptive import Attempt
from odeframe.field import per_sample
from odeframe_plugins.solvers.order_conditions import ElementaryWeights
from odeframe_plugins.solvers.stages import Coupling
from odeframe_plugins.solvers.stiff import ImplicitAdaptive, Step, Trial, divided, lagrange
from odeframe_plugins.solvers.tableau import Weights, combine, scaled, sparse, total

Row = tuple[Fraction, ...]
TOLERANCE = 1e-13


def rows_of(text: str) -> tuple[Row, ...]:
    """One row of exact numbers a line."""
    return tuple(tuple(Fraction(item) for item in line.split()) for line in text.strip().splitlines())


class DiagonallyImplicit(ImplicitAdaptive):
    """``y_i = x + dt sum_{j<i} a_ij k_j + dt gamma k_i``, ``x_{n+1} = y_s``; a subclass is its tableau.

    ``k_i = (y_i - r_i) / (dt gamma)`` is taken from the solved equation, not evaluated again, which keeps errors of the
    iteration from being amplified by stiffness.  Between steps the cubic Hermite polynomial.

    Source: Hairer, Wanner 1996, IV.6; Kennedy, Carpenter 2016, Diagonally Implicit Runge-Kutta Methods (NASA TM).
    """

    traits: ClassVar[tuple[str, ...]] = ("adaptive", "implicit")
    #: rows of ``a`` up to the diagonal
    a: ClassVar[tuple[Row, ...]]
    #: ``b - b_hat``; ``b`` is the last row of ``a``
    b_error: ClassVar[Row]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        gamma = cls.a[-1][-1]
        assert cls.order is not None
        check_tableau(cls.__name__, cls.a, cls.b_error, (cls.order, cls.error_order - 1))
        nodes = [0.0, *(float(sum(row)) for row in cls.a)]
        cls._gamma = float(gamma)
        cls._rows = [
            (sparse((0, *row[:-1])), sparse(cls._gamma * v for v in guess(nodes[: i + 1], nodes[i + 1])))
            for i, row in enumerate(cls.a)
        ]
        cls._weights = sparse((0, *cls.b_error))
        cls.coupling = Coupling([[cls._gamma]], [0.0])
        cls._couplings = [Coupling([[cls._gamma]], [node]) for node in nodes[1:]]

    #: for each stage, what of the slopes, that of the start first, makes its base and its guess
    _rows: ClassVar[list[tuple[Weights, Weights]]]
    _weights: ClassVar[Weights]
    _gamma: ClassVar[float]
    _couplings: ClassVar[list[Coupling]]

    def past(self, x: Tensor) -> tuple[Tensor, ...]:
        """Nothing besides the slope."""
        return ()

    def run(self, trial: Trial) -> Step:
        """The stages one by one, each guessed by extrapolating the slopes before it."""
        x, dt, slopes, y = trial.x, trial.dt, [trial.slope], trial.x
        for (row, guess), coupling in zip(self._rows, self._couplings, strict=True):
            base = combine(x, dt, row, slopes)
            z = trial.solve(base[:, None], coupling, scaled(total(guess, slopes), dt)[:, None])[:, 0]
            slopes.append(divided(z, dt * self._gamma))
            y = base + z
        with torch.no_grad():
            error = trial.smooth(scaled(total(self._weights, slopes), dt), self.coupling)
        return Step(y, error, slopes[-1], (), (trial.slope, slopes[-1], y))

    def interpolate(self, theta: Any, dt: Any, x: Tensor, attempt: Attempt) -> Tensor:
        """The cubic with the states and slopes at both ends."""
        if x.numel() == 0:
            return x
        first, last, end = attempt.stages
        s, dt = per_sample(theta, x), per_sample(dt, x)
        change = end - x - dt * first
        return x + dt * s * first + s * s * (3 - 2 * s) * change + dt * s * s * (s - 1) * (last - first)


def guess(at: Sequence[float], node: float) -> list[float]:
    """Weights of slopes known ``at`` some nodes that extrapolate to another, by the up to three nearest."""
    near = sorted(range(len(at)), key=lambda j: abs(at[j] - node))[:3]
    found = dict(zip(near, lagrange([at[j] for j in near], node), strict=True))
    return [found.get(j, 0.0) for j in range(len(at))]


def check_tableau(name: str, a: tuple[Row, ...], b_error: Row, orders: tuple[int, int]) -> None:
    """Raises where a tableau is not singly diagonal, or its pair has not the orders that are claimed.

    Raises:
        TypeError: saying which condition fails.
    """
    size, gamma = len(a), a[-1][-1]
    implicit = [row[-1] for row in a if row[-1] != 0]
    if [len(row) for row in a] != list(range(1, size + 1)) or len(b_error) != size or set(implicit) != {gamma}:
        raise TypeError(f"{name}: a has rows of 1 to {size} numbers with one diagonal, b_error {size} numbers")
    weights = ElementaryWeights([[float(v) for v in row] for row in a])
    embedded = [float(u - v) for u, v in zip(a[-1], b_error, strict=True)]
    for b, order in (([float(v) for v in a[-1]], orders[0]), (embedded, orders[1])):
        for tree, defect in weights.defects(b, order):
            if abs(defect) > TOLERANCE:
                raise TypeError(f"{name}: violates the condition of order {order} for the tree {tree} by {defect:.1e}")


def difference(b: Row, b_hat: Row) -> Row:
    """``b - b_hat``."""
    return tuple(u - v for u, v in zip(b, b_hat, strict=True))


class SDIRK4(DiagonallyImplicit):
    """Five implicit stages, ``gamma = 1/4``, order 4(3), L-stable, stiffly accurate, stage order 1.

    Source: Hairer, Wanner 1996, IV.6 table 6.5.
    """

    order, error_order = 4, 4
    a = rows_of("""
        1/4
        1/2 1/4
        17/50 -1/25 1/4
        371/1360 -137/2720 15/544 1/4
        25/24 -49/48 125/16 -85/12 1/4
    """)
    b_error = difference(a[-1], rows_of("59/48 -17/96 225/32 -85/12 0")[0])
