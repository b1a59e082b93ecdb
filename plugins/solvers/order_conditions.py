"""Order conditions of Runge-Kutta methods from rooted trees, for any order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

#: A rooted tree is the sorted tuple of the subtrees at its root's children; the single vertex is ``()``.
Tree = tuple[Any, ...]


@functools.cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with ``order`` vertices: 1, 1, 2, 4, 9, 20, 48, 115, ... of them.

    Source: Hairer, Norsett, Wanner 1993, II.2.
    """
    return tuple(sorted(set(_forests(order - 1, order - 1))))


def _forests(size: int, largest: int) -> Iterator[Tree]:
    """Multisets of trees with ``size`` vertices together, none with more than ``largest``."""
    if size == 0:
        yield ()
    for order in range(1, min(size, largest) + 1):
        for tree, rest in itertools.product(rooted_trees(order), tuple(_forests(size - order, order))):
            yield tuple(sorted((*rest, tree)))


@functools.cache
def vertices(tree: Tree) -> int:
    """The order of a tree, its number of vertices."""
    return 1 + sum(vertices(child) for child in tree)


@functools.cache
def density(tree: Tree) -> int:
    """``gamma(tree) = vertices(tree) prod gamma(child)``: the exact solution's weight is ``1 / gamma``."""
    product = vertices(tree)
    for child in tree:
        product *= density(child)
    return product


class ElementaryWeights:
    """``Phi_i(tree) = prod_children sum_j a_ij Phi_j(child)`` of the stages of one method.

    Args:
        rows: the matrix ``a``, row ``i`` with the numbers before the diagonal (or more, where the method is implicit).
    """

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        self._rows = [[(j, v) for j, v in enumerate(row) if v] for row in rows]
        self._stage: dict[Tree, list[Any]] = {}

    def stage(self, tree: Tree) -> list[Any]:
        """``Phi_i(tree)`` for every stage ``i``."""
        result: list[Any] = [1] * len(self._rows)
        for child in tree:
            result = [r * v for r, v in zip(result, self._inner(child), strict=True)]
        return result

    def _inner(self, tree: Tree) -> list[Any]:
        """``sum_j a_ij Phi_j(tree)``, kept for the trees that grow on it."""
        if tree not in self._stage:
            weights = self.stage(tree)
            self._stage[tree] = [sum((v * weights[j] for j, v in row), 0) for row in self._rows]
        return self._stage[tree]

    def defects(self, b: Sequence[Any], order: int, theta: Any = 1) -> Iterator[tuple[Tree, Any]]:
        """``(tree, sum_i b_i Phi_i - theta^|tree| / gamma)`` for every tree up to an order.

        ``theta`` is 1 for the end of the step; a continuous extension has weights ``b(theta)`` of its own.
        """
        for tree in itertools.chain.from_iterable(rooted_trees(p) for p in range(1, order + 1)):
            found = sum((w * v for w, v in zip(b, self.stage(tree), strict=True)), 0)
            yield tree, found - theta ** vertices(tree) / density(tree)
