"""Legal combinations to try: drawn at random, or so few that every legal pair of parts occurs in one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations

from odeframe.matrix import ORDER, Matrix

__all__ = ["covering", "draw"]

Indices = dict[str, int]
"""A combination: kind to the index of its part in the matrix."""


def draw(matrix: Matrix, number: int, seed: int) -> Iterator[Indices]:
    """Legal combinations, each equally likely, independent of each other.

    Args:
        matrix: what goes together.
        number: how many.
        seed: of the draws.

    Yields:
        kind to index.
    """
    generator = random.Random(seed)
    if not matrix.feasible(matrix.all()):
        return
    for _ in range(number):
        sets = matrix.all()
        chosen: Indices = {}
        for kind in ORDER:
            open_set = sets[ORDER.index(kind)]
            options = [index for index in range(len(matrix.parts[kind])) if open_set >> index & 1]
            weights = [matrix.count(matrix.narrow(sets, kind, index)) for index in options]
            chosen[kind] = generator.choices(options, weights)[0]
            sets = matrix.narrow(sets, kind, chosen[kind])
        yield chosen


def covering(matrix: Matrix, seed: int) -> list[Indices]:
    """A set of legal combinations in which every pair of parts occurs that occurs in any: a pairwise covering array.

    Greedily: a combination starts from a pair that is still to come and takes, kind by kind in random order, the part
    that brings most such pairs with what is chosen; equal ones, and all that brings none, are drawn.

    Args:
        matrix: what goes together.
        seed: of the draws; another seed fills the same pairs up otherwise.

    Returns:
        kind to index, in the order found. At least as many as the two kinds with most pairs have.

    Source: Cohen, Dalal, Fredman, Patton 1997, The AETG System: An Approach to Testing Based on Combinatorial Design.
    """
    generator = random.Random(seed)
    missing = {pair: list(rows) for pair, rows in matrix.pairs.items()}  # both orders of each pair of kinds
    found: list[Indices] = []
    pairs = [(a, b) for a, b in combinations(ORDER, 2)]
    while start := _most_missing(missing, pairs, generator):
        chosen = _filled(matrix, missing, start, generator)
        for a, b in pairs:
            missing[a, b][chosen[a]] &= ~(1 << chosen[b])
            missing[b, a][chosen[b]] &= ~(1 << chosen[a])
        found.append(chosen)
    return found


def _most_missing(
    missing: dict[tuple[str, str], list[int]], pairs: list[tuple[str, str]], generator: random.Random
) -> Indices:
    """A pair that is still to come, of those two kinds of which most are; empty where none is."""
    left = {pair: sum(row.bit_count() for row in missing[pair]) for pair in pairs}
    a, b = max(pairs, key=left.__getitem__)
    if not left[a, b]:
        return {}
    rows = missing[a, b]
    most = max(row.bit_count() for row in rows)
    first = generator.choice([index for index, row in enumerate(rows) if row.bit_count() == most])
    second = generator.choice([index for index in range(rows[first].bit_length()) if rows[first] >> index & 1])
    return {a: first, b: second}


def _filled(
    matrix: Matrix, missing: dict[tuple[str, str], list[int]], start: Indices, generator: random.Random
) -> Indices:
    """A whole legal combination around a pair."""
    chosen, sets = dict(start), matrix.chosen(start)
    kinds = [kind for kind in ORDER if kind not in start]
    generator.shuffle(kinds)
    for kind in kinds:
        left = sets[ORDER.index(kind)]
        options = [index for index in range(len(matrix.parts[kind])) if left >> index & 1]
        generator.shuffle(options)
        options.sort(key=lambda i: -sum(missing[kind, other][i] >> at & 1 for other, at in chosen.items()))
        for index in options:
            narrowed = matrix.narrow(sets, kind, index)
            if matrix.feasible(narrowed):
                chosen[kind], sets = index, narrowed
                break
    return chosen
