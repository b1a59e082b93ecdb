"""Time grids: where the steps of a solve begin and end."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeframe.errors import InvalidOption

DEFAULT_STEPS = 10
TOLERANCE = 1e-9  # of the whole interval: round-off in times that a user computed

Mark = tuple[float, int | None]
"""A node: its fraction of the interval, and the index of the output time that it is, if any."""


@dataclass(frozen=True)
class Grid:
    """The nodes of a solve.

    Attributes:
        nodes: 0-d times in float64 on the host, ``len(spacing) + 1`` of them.
        spacing: signed step lengths, numbers, or 0-d tensors where the times carry a gradient.
        outputs: for each output time the index of its node.
        jumps: indices of nodes where the control or the drive jumps.
        restarts: indices of nodes where the solver forgets its memory.
    """

    nodes: tuple[Tensor, ...]
    spacing: tuple[Any, ...]
    outputs: tuple[int, ...]
    jumps: frozenset[int]
    restarts: frozenset[int] = frozenset()


def check_times(times: Any) -> Tensor:
    """Times as a float64 tensor ``(num_times,)`` on the host, strictly monotone and finite, gradient kept."""
    try:
        values = times if torch.is_tensor(times) else torch.as_tensor(times, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidOption(f"times: got {times!r}, expected a sequence of numbers, e.g. (0.0, 1.0)") from error
    if values.dim() != 1 or values.numel() == 0 or values.is_complex() or values.dtype == torch.bool:
        raise InvalidOption(
            f"times: got shape {tuple(values.shape)} of {values.dtype}, expected real numbers of shape (num_times,)"
        )
    values = values.to(torch.float64).cpu()
    plain = values.detach().tolist()
    if not all(map(math.isfinite, plain)):
        raise InvalidOption(f"times: got non-finite values {plain}")
    pairs = list(itertools.pairwise(plain))
    if not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
        raise InvalidOption(
            f"times: got {_short(plain)}, expected strictly increasing or strictly decreasing times without "
            "repetition; sort them and drop the duplicates"
        )
    return values


def inside(points: Sequence[float], times: Tensor) -> list[float]:
    """The points strictly between the first and the last time, in the order in which the solve meets them."""
    return between(points, float(times[0].detach()), float(times[-1].detach()))


def between(points: Sequence[float], first: float, last: float) -> list[float]:
    """The same of two numbers."""
    low, high = min(first, last), max(first, last)
    margin = TOLERANCE * (high - low)
    return sorted((p for p in points if low + margin < p < high - margin), reverse=last < first)


def make_grid(times: Tensor, breakpoints: Sequence[float], steps: int | None, dt: float | None) -> Grid:
    """Equal steps from the first to the last time, ended early by output times that lie off the grid.

    Raises:
        InvalidOption: a step would straddle a breakpoint; the message names the nearest legal counts.
    """
    plain = tuple(times.detach().tolist())
    if len(plain) == 1:
        return Grid((times[0],), (), (0,), frozenset())
    marks, outputs, restart = marked(plain, tuple(breakpoints), steps, dt)
    if times.requires_grad:
        ends = times[0], times[-1] - times[0]
        nodes = tuple(times[o] if o is not None else ends[0] + ends[1] * f for f, o in marks)
        spacing: tuple[Any, ...] = tuple(b - a for a, b in itertools.pairwise(nodes))
    else:
        start, span = plain[0], plain[-1] - plain[0]
        values = [plain[o] if o is not None else start + span * f for f, o in marks]
        nodes = torch.tensor(values, dtype=torch.float64).unbind()
        spacing = tuple(b - a for a, b in itertools.pairwise(values))
    return Grid(nodes, spacing, outputs, restart)


@functools.lru_cache(maxsize=32)  # a network solves on the same grid in every batch
def marked(
    plain: tuple[float, ...], breakpoints: tuple[float, ...], steps: int | None, dt: float | None
) -> tuple[tuple[Mark, ...], tuple[int, ...], frozenset[int]]:
    """The nodes of a grid as fractions of the interval, those of the output times, and those at breakpoints."""
    start, span = plain[0], plain[-1] - plain[0]
    jumps = between(breakpoints, start, plain[-1])
    if dt is None:
        count = steps if steps is not None else default_count(jumps, start, span)
        fractions = [k / count for k in range(count + 1)]
    else:
        count = max(1, math.ceil(abs(span) / dt - TOLERANCE))
        fractions = [min(1.0, k * dt / abs(span)) for k in range(count)] + [1.0]
    check_jumps(jumps, fractions, start, span)
    marks = merged_marks(fractions, [(p - start) / span for p in plain])
    where = {o: i for i, (_, o) in enumerate(marks) if o is not None}
    places = [(j - start) / span for j in jumps]
    exact = set(places)
    restart = frozenset(i for i, (f, _) in enumerate(marks) if f in exact or (exact and _gap(places, f) <= TOLERANCE))
    return tuple(marks), tuple(where[o] for o in range(len(plain))), restart


def default_count(jumps: Sequence[float], start: float, span: float) -> int:
    """The default number of steps: 10, or the least legal number above it where a control has equal pieces."""
    fractions = [(j - start) / span for j in jumps]
    for count in range(DEFAULT_STEPS, 100 * DEFAULT_STEPS * (len(jumps) + 1)):
        if all(abs(f * count - round(f * count)) <= TOLERANCE * count for f in fractions):
            return count
    return DEFAULT_STEPS


def check_jumps(jumps: Sequence[float], fractions: Sequence[float], start: float, span: float) -> None:
    """Raises where a breakpoint is not a node."""
    exact = set(fractions)  # what most of them are: no look at their neighbours is needed
    for jump in jumps:
        place = (jump - start) / span
        if place not in exact and _gap(fractions, place) > TOLERANCE * 10:
            count = len(fractions) - 1
            legal = _nearest_legal([(j - start) / span for j in jumps], count)
            advice = f"use steps={' or steps='.join(map(str, legal))}" if legal else "choose another horizon"
            raise InvalidOption(
                f"a step would straddle the breakpoint of the control or drive at t = {jump:g}: got {count} steps from "
                f"{start:g} to {start + span:g} across {len(jumps) + 1} pieces; {advice}"
            )


def _gap(ascending: Sequence[float], place: float) -> float:
    """The distance to the nearest of some numbers: many pieces meet many nodes, so each is looked for by bisection."""
    index = bisect.bisect_left(ascending, place)
    above = ascending[index] - place if index < len(ascending) else math.inf
    return above if index == 0 else min(above, place - ascending[index - 1])


def _nearest_legal(places: Sequence[float], count: int) -> list[int]:
    def legal(n: int) -> bool:
        return n > 0 and all(abs(p * n - round(p * n)) <= TOLERANCE * 10 * n for p in places)

    below = next((n for n in range(count - 1, 0, -1) if legal(n)), None)
    above = next((n for n in range(count + 1, 100 * count + 100 * len(places)) if legal(n)), None)
    return [n for n in (below, above) if n is not None]


def merged_marks(fractions: Sequence[float], outputs: Sequence[float]) -> list[Mark]:
    """Grid fractions and output fractions in one order; equal ones are one node, with the output's index."""
    marks: list[Mark] = []
    rest = list(enumerate(outputs))
    for fraction in fractions:
        while rest and rest[0][1] < fraction - TOLERANCE:
            index, place = rest.pop(0)
            marks.append((place, index))
        if rest and abs(rest[0][1] - fraction) <= TOLERANCE:
            marks.append((fraction, rest.pop(0)[0]))
        else:
            marks.append((fraction, None))
    return marks


def _short(values: Sequence[float]) -> str:
    shown = ", ".join(f"{v:g}" for v in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"
