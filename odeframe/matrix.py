"""The legal matrix: which registered parts go together, in pairs and in whole combinations of one part a kind."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from odeframe.compatibility import STATE_KINDS, Facts, between, facts_of, state_conflict
from odeframe.component import Component, components, spelling
from odeframe.errors import UnknownComponent
from odeframe.hookspecs import KINDS, check_kind
from odeframe.registry import Word, word

__all__ = ["Choice", "Matrix", "reasons"]

ORDER = ("architecture", "data", "dynamics", "task", "trainer", "gradient", "control", "solver")
"""In which kinds are chosen: the first two decide the states, and with the third all that three parts decide."""

GIVEN = ("width", "inputs")
"""Options that an architecture gives to the parts of its flows."""


@dataclass(frozen=True)
class Choice:
    """One part in the matrix.

    Attributes:
        name: how it is written.
        word: the part with its options.
        facts: its traits and needs.
    """

    name: str
    word: Word
    facts: Facts


def reasons(chosen: Mapping[str, Any]) -> list[str]:
    """Why these parts do not go together, whatever the others are; empty where they do.

    Args:
        chosen: kind to a name, a mapping with "name" and options, or an object.

    Raises:
        InvalidOption, UnknownComponent, PluginConflict: as ``odeframe.compatible``.
    """
    facts = {kind: facts_of(kind, value) for kind, value in chosen.items()}
    found = [reason for a, b in combinations(facts, 2) for reason in between(facts[a], facts[b])]
    if facts.keys() >= set(STATE_KINDS):
        found += [reason for reason in (state_conflict(*(facts[kind] for kind in STATE_KINDS)),) if reason]
    return found


class Matrix:
    """The registered parts of all kinds, with the table of the pairs that go together.

    Sets of parts of a kind are bits of an integer, so that what still fits a partial choice is a few ``&``.

    Args:
        chosen: kinds that are settled already, each a word; of the others every registered part stands in the matrix,
            with its default options, or its example's where it has required ones.
        without: parts to leave out, each its kind and name.

    Attributes:
        parts: kind to its parts.
        absent: parts whose class does not import, with the reason.

    Raises:
        InvalidOption, UnknownComponent, PluginConflict: as ``odeframe.compatible``.
    """

    def __init__(
        self, chosen: Mapping[str, Any] | None = None, without: Container[tuple[str, str]] = frozenset()
    ) -> None:
        settled = {check_kind(kind): word(kind, value) for kind, value in (chosen or {}).items()}
        self.parts: dict[str, tuple[Choice, ...]] = {}
        self.absent: dict[str, str] = {}
        for kind in ORDER:
            if kind in settled:
                one = settled[kind]
                self.parts[kind] = (Choice(_name(one), one, facts_of(kind, one)),)
            else:
                self.parts[kind] = tuple(each for each in self._registered(kind) if (kind, each.name) not in without)
        self._count: dict[tuple[int, ...], int] = {}

    def _registered(self, kind: str) -> Iterator[Choice]:
        for component in components(kind):
            one = Word(kind, component, dict(component.part.example))
            try:
                facts = facts_of(kind, one)
            except UnknownComponent as error:
                self.absent[f"{kind} {spelling(component)!r}"] = str(error)
                continue
            yield Choice(spelling(component), one, facts)

    @cached_property
    def table(self) -> dict[tuple[str, str], list[int]]:
        """For an ordered pair of kinds: for each part of the first, the set of those of the second that go with it."""
        found = {}
        for a, b in combinations(ORDER, 2):
            fits = [[not between(x.facts, y.facts) for y in self.parts[b]] for x in self.parts[a]]
            found[a, b] = [_bits(row) for row in fits]
            found[b, a] = [_bits(row[j] for row in fits) for j in range(len(self.parts[b]))]
        return found

    @cached_property
    def _states(self) -> list[list[int]]:
        """By architecture and data: the set of dynamics that take the states."""
        architectures, data, dynamics = (self.parts[kind] for kind in STATE_KINDS)
        return [
            [_bits(not state_conflict(a.facts, d.facts, f.facts) for f in dynamics) for d in data]
            for a in architectures
        ]

    def all(self) -> tuple[int, ...]:
        """Every part of every kind, as what :meth:`count` and :meth:`narrow` take: a set a kind, by ``ORDER``."""
        return tuple((1 << len(self.parts[kind])) - 1 for kind in ORDER)

    def narrow(self, open_sets: tuple[int, ...], kind: str, index: int) -> tuple[int, ...]:
        """The sets that are left where a part is chosen."""
        return tuple(
            (1 << index) & left if other == kind else left & self.table[kind, other][index]
            for other, left in zip(ORDER, open_sets, strict=True)
        )

    def count(self, open_sets: tuple[int, ...] | None = None) -> int:
        """How many whole legal combinations there are, one part of each kind.

        Args:
            open_sets: the parts to count, a set a kind; all by default.
        """
        sets = self.all() if open_sets is None else open_sets
        return sum(self._rest(2, left) for left in self._heads(sets))

    def feasible(self, open_sets: tuple[int, ...]) -> bool:
        """Whether there is any whole combination within these sets."""
        return all(open_sets) and any(self._rest(2, left) for left in self._heads(open_sets))

    def _heads(self, sets: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """What is left of the sets behind each legal architecture and data."""
        for architecture in _members(sets[0]):
            behind = self.narrow(sets, "architecture", architecture)
            for data in _members(behind[1]):
                left = self.narrow(behind, "data", data)
                yield left[2] & self._states[architecture][data], *left[3:]

    def _rest(self, depth: int, sets: tuple[int, ...]) -> int:
        """Combinations of the kinds from a depth on; equal remains are counted once, whatever led to them."""
        if not all(sets):
            return 0
        if len(sets) == 1:
            return sets[0].bit_count()
        if sets not in self._count:
            kind, total = ORDER[depth], 0
            rows = [self.table[kind, other] for other in ORDER[depth + 1 :]]
            for index in _members(sets[0]):
                total += self._rest(depth + 1, tuple(s & row[index] for s, row in zip(sets[1:], rows, strict=True)))
            self._count[sets] = total
        return self._count[sets]

    def chosen(self, indices: Mapping[str, int]) -> tuple[int, ...]:
        """The sets in which these parts, kind to index, are the only ones of their kinds; what contradicts is empty."""
        sets = self.all()
        for kind, index in indices.items():
            sets = self.narrow(sets, kind, index)
        return sets

    @cached_property
    def pairs(self) -> dict[tuple[str, str], list[int]]:
        """As :attr:`table`, but with the pairs alone that occur in a whole legal combination."""
        found: dict[tuple[str, str], list[int]] = {}
        for a, b in combinations(ORDER, 2):
            rows, columns = [0] * len(self.parts[a]), [0] * len(self.parts[b])
            for i, row in enumerate(self.table[a, b]):
                start = self.narrow(self.all(), a, i)
                for j in _members(row):
                    if self.feasible(self.narrow(start, b, j)):
                        rows[i] |= 1 << j
                        columns[j] |= 1 << i
            found[a, b], found[b, a] = rows, columns
        return found

    def words(self, indices: Mapping[str, int]) -> dict[str, Any]:
        """The words of a combination, kind to a name or a mapping with options."""
        return {kind: _plain(self.parts[kind][indices[kind]]) for kind in KINDS}

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


def unbuildable(component: Component) -> str:
    """Why a part cannot be built here: an optional dependency, or a required option without an example; else empty."""
    from odeframe.options import options_of

    if component.missing:
        return component.missing
    needed = [each.name for each in options_of(component.load())[0] if each.required]
    given = GIVEN if component.kind in ("dynamics", "control", "solver") else ()
    lacking = [name for name in needed if name not in component.part.example and name not in given]
    return f"has the required option {', '.join(lacking)} and no example (Part.example) for it" if lacking else ""


def _name(one: Word) -> str:
    return spelling(one.component) if one.component is not None else str(one)


def _plain(choice: Choice) -> Any:
    return {"name": choice.name, **choice.word.options} if choice.word.component is not None else choice.word.object


def _bits(flags: Any) -> int:
    return sum(1 << index for index, flag in enumerate(flags) if flag)


def _members(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low
