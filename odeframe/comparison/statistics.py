"""Means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Mean", "mean", "student_quantile"]


@dataclass(frozen=True)
class Mean:
    """The mean of some values with the half width of its 95 % interval; ``None`` where one value gives none."""

    value: float
    half: float | None
    number: int


def mean(values: Sequence[float]) -> Mean:
    """``m +- t s / sqrt(n)``, ``s`` the standard deviation with ``n - 1``, ``t`` Student's quantile.

    Source: Student 1908, The Probable Error of a Mean.
    """
    number = len(values)
    centre = math.fsum(values) / number
    if number < 2:
        return Mean(centre, None, number)
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (number - 1))
    return Mean(centre, student_quantile(0.95, number - 1) * deviation / math.sqrt(number), number)


def student_quantile(level: float, freedom: int) -> float:
    """``t`` with ``P(|T| < t) = level`` for Student's distribution with ``freedom`` degrees, by bisection."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """``P(|T| < t)`` as a finite sum, exact for whole degrees of freedom.

    Source: Abramowitz, Stegun 1964, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
