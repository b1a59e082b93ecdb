"""Bases of functions of depth on the unit interval: what the coefficients of a control multiply.

A basis works on numbers and on 0-d tensors alike, so that a time which carries a gradient keeps it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor


class Basis(ABC):
    """Functions ``phi_0 .. phi_{count-1}`` on ``[0, 1]``, smooth on each of ``pieces`` equal parts of it.

    Attributes:
        count: number of functions.
        pieces: parts between which derivatives may jump.
        nodal: whether the functions are not negative and sum to 1, so that coefficients are values of a control and
            bounds on them are bounds on it.
    """

    count: int
    pieces: int = 1
    nodal: ClassVar[bool] = False

    @abstractmethod
    def active(self, piece: int) -> tuple[int, ...]:
        """The functions that do not vanish on a piece."""

    @abstractmethod
    def weights(self, s: Any, piece: int) -> list[Any]:
        """Their values at ``s``, by the formula of the piece, in the order of :meth:`active`."""

    @abstractmethod
    def refined(self, factor: int) -> Basis:
        """A basis that spans these functions and more, with ``factor`` times as many pieces, or functions."""

    @abstractmethod
    def coarsened(self, factor: int) -> Basis | None:
        """The basis of which this is the refined one; ``None`` where there is none."""


class Modal(Basis):
    """Functions that live on the whole interval; ``phi_0 = 1``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def active(self, piece: int) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(self.count))

    def refined(self, factor: int) -> Basis:
        """``factor`` times as many functions."""
        return type(self)(self.count * factor)

    def coarsened(self, factor: int) -> Basis | None:
        """``factor`` times fewer."""
        return None if self.count % factor else type(self)(self.count // factor)


class Legendre(Modal):
    """``P_j(2 s - 1)``, orthogonal: ``(j + 1) P_{j+1} = (2 j + 1) z P_j - j P_{j-1}``."""

    def weights(self, s: Any, piece: int) -> list[Any]:
        """By the three-term recurrence."""
        z = 2 * s - 1
        values: list[Any] = [1.0, z]
        for j in range(1, self.count - 1):
            values.append(((2 * j + 1) * z * values[j] - j * values[j - 1]) / (j + 1))
        return values[: self.count]


class Chebyshev(Modal):
    """``T_j(2 s - 1)``: ``T_{j+1} = 2 z T_j - T_{j-1}``."""

    def weights(self, s: Any, piece: int) -> list[Any]:
        """By the three-term recurrence."""
        z = 2 * s - 1
        values: list[Any] = [1.0, z]
        for j in range(1, self.count - 1):
            values.append(2 * z * values[j] - values[j - 1])
        return values[: self.count]


class Fourier(Modal):
    """``1, cos 2 pi s, sin 2 pi s, cos 4 pi s, ...``: of period 1."""

    def weights(self, s: Any, piece: int) -> list[Any]:
        """A cosine and a sine of each frequency."""
        cos, sin = (torch.cos, torch.sin) if torch.is_tensor(s) else (math.cos, math.sin)
        values: list[Any] = [1.0]
        for k in range(1, self.count // 2 + 1):
            angle = 2 * math.pi * k * s
            values += [cos(angle), sin(angle)]
        return values[: self.count]

    def coarsened(self, factor: int) -> Basis | None:
        """As many frequencies, divided."""
        frequencies = self.count // 2
        return None if frequencies % factor else Fourier(2 * (frequencies // factor) + 1)

    def refined(self, factor: int) -> Basis:
        """``factor`` times as many frequencies."""
        return Fourier(2 * factor * (self.count // 2) + 1)


class BSpline(Basis):
    """B-splines of a degree on equal intervals, with clamped ends: local, not negative, of sum 1.

    ``degree + 1`` of the ``pieces + degree`` functions are active on each interval.  Degree 1 gives the hat functions.

    Source: de Boor 1978, A Practical Guide to Splines, chapter X.
    """

    nodal = True

    def __init__(self, degree: int, pieces: int) -> None:
        self.degree, self.pieces, self.count = degree, pieces, pieces + degree
        ends = [0.0] * degree, [1.0] * degree
        self.knots = [*ends[0], *(j / pieces for j in range(pieces + 1)), *ends[1]]

    def active(self, piece: int) -> tuple[int, ...]:
        """``degree + 1`` neighbours."""
        return tuple(range(piece, piece + self.degree + 1))

    def weights(self, s: Any, piece: int) -> list[Any]:
        """By Cox's and de Boor's recurrence over degrees."""
        knots, last = self.knots, piece + self.degree  # s lies in [knots[last], knots[last + 1]]
        values: list[Any] = [1.0]
        for degree in range(1, self.degree + 1):
            grown: list[Any] = [0.0] * (degree + 1)
            for i, value in enumerate(values):
                left, right = knots[last - degree + 1 + i], knots[last + 1 + i]
                share = (s - left) / (right - left)
                grown[i] = grown[i] + (1 - share) * value
                grown[i + 1] = share * value
            values = grown
        return values

    def refined(self, factor: int) -> Basis:
        """``factor`` times as many intervals."""
        return BSpline(self.degree, self.pieces * factor)

    def coarsened(self, factor: int) -> Basis | None:
        """``factor`` times fewer."""
        return None if self.pieces % factor else BSpline(self.degree, self.pieces // factor)


def transfer(old: Basis, new: Basis) -> Tensor:
    """``M`` ``(new.count, old.count)`` with ``sum_j phi_j c_j`` nearest to ``sum_i psi_i (M c)_i`` in least squares.

    Exact, to round-off, where the new functions span the old ones.
    """
    pieces = math.lcm(old.pieces, new.pieces)
    samples = 2 * (max(old.count, new.count) // pieces + 8)  # enough in each piece to tell all functions apart
    points = [(row + 0.5) / (pieces * samples) for row in range(pieces * samples)]
    return torch.linalg.lstsq(_values(new, points), _values(old, points), driver="gelsd").solution


def _values(basis: Basis, points: list[float]) -> Tensor:
    """All functions at the points, ``(len(points), count)``."""
    rows = torch.zeros(len(points), basis.count, dtype=torch.float64)
    for row, s in zip(rows, points, strict=True):
        piece = min(int(s * basis.pieces), basis.pieces - 1)
        row[list(basis.active(piece))] = torch.tensor(basis.weights(s, piece), dtype=torch.float64)
    return rows
