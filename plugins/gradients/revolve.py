"""Where to keep states on the way forward, so that going back takes the fewest steps again."""

from __future__ import annotations

import math


def capacity(slots: int, repeats: int) -> int:
    """How many steps can be reversed from ``slots`` kept states with each step run at most ``repeats`` times again."""
    return math.comb(slots + repeats, slots) if repeats >= 0 else 0


def least_steps(length: int, slots: int) -> int:
    """The least number of steps without a graph that reverse ``length`` steps, the first sweep among them.

    ``r length - C(slots + r, slots + 1)`` with the least ``r`` for which ``length <= C(slots + r, slots)``.

    Source: Griewank, Walther 2000, Algorithm 799: Revolve, proposition 1.
    """
    repeats = 0
    while capacity(slots, repeats) < length:
        repeats += 1
    return repeats * length - math.comb(slots + repeats, slots + 1)


def split(length: int, slots: int) -> int:
    """How many of ``length >= 2`` steps to advance before the next state is kept, ``slots >= 2`` with the first.

    With the least ``r`` for which ``length <= C(slots + r, slots)``, the steps that follow may number at most
    ``C(slots - 1 + r, slots - 1)``, and those before at most ``C(slots + r - 1, slots)``; within these bounds every
    choice is optimal that leaves neither part with a repetition to spare.

    Source: Griewank, Walther 2000, section 2.
    """
    repeats = 0
    while capacity(slots, repeats) < length:
        repeats += 1
    low = max(capacity(slots, repeats - 2), length - capacity(slots - 1, repeats), 1)
    high = min(capacity(slots, repeats - 1), length - capacity(slots - 1, repeats - 1), length - 1)
    return max(low, min(high, length - 1))


def chain(length: int, slots: int) -> list[int]:
    """The steps before which the first sweep keeps the state, from 0 upwards, at most ``slots`` of them."""
    kept, start = [0], 0
    while slots > 1 and length - start > 1:
        start += split(length - start, slots)
        slots -= 1
        kept.append(start)
    return kept
