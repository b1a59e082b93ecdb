"""Which parts go together: needs held against traits, before anything is built."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from odeframe.component import Component, components, resolve, spelling
from odeframe.errors import Incompatible, InvalidOption, UnknownComponent
from odeframe.hookspecs import Need, check_kind
from odeframe.options import options_of
from odeframe.registry import Word, registered, word
from odeframe.stated import UNKNOWN, stated_default

__all__ = ["Facts", "between", "check", "compatible", "facts_of", "state_conflict", "traits_of", "why"]

_UNSET = object()
WRAPPED = "of"
"""The option by which a part says which one of its own kind it wraps: that one's traits and needs are its own too."""
STATES = ("image", "vector")
"""What the states of a flow may be. Dynamics declare which they take, and data what they give; an architecture whose
states are its own, whatever the data are, declares ``image_states`` or ``vector_states``."""
STATE_KINDS = ("architecture", "data", "dynamics")


@dataclass(frozen=True)
class Facts:
    """What counts about one choice: its traits, and its needs with the option value that brings each."""

    text: str
    kind: str
    component: Component | None
    traits: frozenset[str]
    needs: tuple[tuple[Need, str], ...]

    def is_one_of(self, names: tuple[str, ...], asked_by: Component | None) -> bool:
        """Whether one of the names means this choice, as the package that asks would spell it."""
        if self.component is None:
            return False
        mine = {self.component.qualified, spelling(self.component)}
        if asked_by is not None and asked_by.package == self.component.package:
            mine.add(self.component.name)
        return not mine.isdisjoint(names)


def why(kind_a: str, a: Any, kind_b: str, b: Any) -> list[str]:
    """The reasons why two parts do not go together; empty where they do.

    Args:
        kind_a: kind of the first.
        a: a name, a mapping with "name" and options, a pair (name, options), a ``Word`` or an object.
        kind_b: kind of the second.
        b: likewise.

    Raises:
        InvalidOption: a kind or a choice is none.
        UnknownComponent, PluginConflict: a name is unknown, or has several providers.
    """
    return between(facts_of(kind_a, a), facts_of(kind_b, b))


def check(chosen: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> None:
    """Hold every choice against every other.

    Args:
        chosen: kind to choice, each as for ``why``; None, as a kind that is not there, is not checked.
        beside: choices of other kinds, not checked, that the suggested names are to fit too.

    Raises:
        Incompatible: some do not go together; names each two, the trait, and the registered names that would fit.
        InvalidOption, UnknownComponent, PluginConflict: as ``why``.
    """
    words = {kind: _word(kind, value) for kind, value in chosen.items() if value is not None}
    conflicts = _conflicts({kind: _facts(each) for kind, each in words.items()})
    if conflicts:
        reasons = [reason for found in conflicts.values() for reason in found]
        others = {kind: _word(kind, value) for kind, value in (beside or {}).items() if value is not None}
        raise Incompatible(" ".join([*reasons, *_remedies(list(conflicts), {**others, **words})]))


def compatible(kind: str, /, **chosen: Any) -> list[str]:
    """The registered names of a kind that go with what is chosen of the others.

    Args:
        kind: the kind that is asked for.
        **chosen: kind=choice, each as for ``why``; None is not checked.

    Returns:
        the names, sorted, each as it can be used. One whose class does not import is left out, with a
        warning; one whose optional dependency is missing is not left out.

    Raises:
        InvalidOption: there is no such kind, or the kind itself is among the chosen.
        UnknownComponent, PluginConflict: a name is unknown, or has several providers.
    """
    check_kind(kind)
    for other in chosen:
        check_kind(other)
    if kind in chosen:
        raise InvalidOption(f"got {kind}={chosen[kind]!r} among the choices that a {kind} is to fit: leave it out")
    others = {other: facts_of(other, value) for other, value in chosen.items() if value is not None}
    return sorted(name for name, facts in _fitting(kind, others).items() if not _state({**others, kind: facts}))


def _fitting(kind: str, others: Mapping[str, Facts]) -> dict[str, Facts]:
    """The registered parts of a kind, by name, that go with each of the others."""
    found = {}
    for component in components(kind):
        try:
            facts = _facts(Word(kind, component))
        except UnknownComponent as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
            continue
        if not any(between(facts, other) for other in others.values()):
            found[spelling(component)] = facts
    return found


def _completes(chosen: Mapping[str, Facts], others: Mapping[str, Sequence[Facts]]) -> bool:
    """Whether one of each other kind makes a legal whole of these, which each of them goes with."""
    if _state(chosen):
        return False
    if not others:
        return True
    kind = min(others, key=lambda each: len(others[each]))
    for facts in others[kind]:
        left = {k: [each for each in v if not between(facts, each)] for k, v in others.items() if k != kind}
        if all(left.values()) and _completes({**chosen, kind: facts}, left):
            return True
    return False


def _word(kind: str, value: Any) -> Word:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        return Word(check_kind(kind), resolve(kind, value[0]), dict(value[1]))
    return word(kind, value)


def _facts(chosen: Word) -> Facts:
    component = chosen.component or registered(chosen.kind, chosen.object)
    traits: list[str] = []
    needs: list[tuple[str, str]] = []
    if component is not None:
        part = component.part
        traits += part.traits
        needs += [(need, "") for need in part.needs]
        for condition, added in part.when.items():
            option, _, value = condition.partition("=")
            if str(_value(chosen, component, option)) == value:
                traits += added.get("traits", ())
                needs += [(need, f" with {condition}") for need in added.get("needs", ())]
    if chosen.component is None:
        traits += _declared(chosen.object, "traits")
        needs += [(need, "") for need in _declared(chosen.object, "needs")]
    parsed = tuple((Need.parse(need), condition) for need, condition in dict.fromkeys(needs))
    inner = chosen.options.get(WRAPPED)
    if isinstance(inner, str | Mapping):
        wrapped = _facts(word(chosen.kind, inner))
        traits, parsed = [*traits, *wrapped.traits], (*parsed, *wrapped.needs)
    return Facts(str(chosen), chosen.kind, component, frozenset(traits), parsed)


def facts_of(kind: str, choice: Any) -> Facts:
    """What counts about a choice, as :func:`between` takes it; the choice as for ``why``."""
    return _facts(_word(kind, choice))


def traits_of(kind: str, choice: Any) -> frozenset[str]:
    """What a choice is, as other parts may need or refuse it; the choice as for ``why``."""
    return facts_of(kind, choice).traits


def _value(chosen: Word, component: Component, option: str) -> Any:
    """The value of an option: as given, as the object has it, or the default that the class states."""
    if chosen.component is None and not isinstance(chosen.object, type):
        return getattr(chosen.object, option, _UNSET)
    if option in chosen.options:
        return chosen.options[option]
    if component.missing:  # no class to ask; building it will say what to install
        return _UNSET
    target = component.part.target
    stated = stated_default(target, option) if isinstance(target, str) else UNKNOWN
    if stated is not UNKNOWN:
        return stated
    known, _ = options_of(component.load())
    return next((each.default for each in known if each.name == option), _UNSET)


def _declared(value: Any, name: str) -> tuple[str, ...]:
    """The traits or needs that an object or a class states itself, in an attribute of that name."""
    words = getattr(value, name, ())
    collection = isinstance(words, tuple | list | set | frozenset)
    return tuple(words) if collection and all(isinstance(each, str) for each in words) else ()


def between(first: Facts, second: Facts) -> list[str]:
    """The reasons why two choices do not go together; empty where they do."""
    return [*_unmet(first, second), *_unmet(second, first)]


def _unmet(asking: Facts, other: Facts) -> list[str]:
    reasons = []
    for need, condition in asking.needs:
        if need.kind != other.kind:
            continue
        who = f"{asking.text}{condition}"
        if need.names:
            if not other.is_one_of(need.names, asking.component):
                choices = " or ".join(map(repr, need.names))
                reasons.append(f"{who} needs the {need.kind} {choices}, got {other.text}.")
        elif need.refused and need.trait in other.traits:
            reasons.append(f"{who} refuses {_an(need.kind)} with the trait {need.trait!r}, which {other.text} has.")
        elif not need.refused and need.trait not in other.traits:
            hint = "" if other.component else f" (its class may declare it: traits = ({need.trait!r},))"
            reasons.append(
                f"{who} needs {_an(need.kind)} with the trait {need.trait!r}, which {other.text} lacks{hint}."
            )
    return reasons


def state_conflict(architecture: Facts, data: Facts, dynamics: Facts) -> str:
    """Why dynamics do not take the states that an architecture makes of the data; empty where nothing speaks against.

    No two of the three decide it alone: a network for images has images as its states, or vectors of its own.
    """
    own = {state for state in STATES if f"{state}_states" in architecture.traits}
    states, takes = own or data.traits.intersection(STATES), dynamics.traits.intersection(STATES)
    if not states or not takes or states & takes:
        return ""
    return (
        f"{dynamics.text} takes {' or '.join(sorted(takes))} states, and the states of {architecture.text} on "
        f"{data.text} are {' or '.join(sorted(states))}s."
    )


def _state(facts: Mapping[str, Facts]) -> str:
    three = [facts.get(kind) for kind in STATE_KINDS]
    known = [each for each in three if each is not None]
    return state_conflict(*known) if len(known) == len(STATE_KINDS) else ""


def _conflicts(facts: Mapping[str, Facts]) -> dict[tuple[str, ...], list[str]]:
    """The kinds whose choices do not go together, with the reasons."""
    found: dict[tuple[str, ...], list[str]] = {
        pair: between(*map(facts.__getitem__, pair)) for pair in combinations(facts, 2)
    }
    found[STATE_KINDS] = [reason for reason in (_state(facts),) if reason]
    return {kinds: reasons for kinds, reasons in found.items() if reasons}


def _remedies(conflicts: Sequence[tuple[str, ...]], words: Mapping[str, Word]) -> list[str]:
    """The registered names that settle all conflicts in place of one choice, or else each one for itself.

    Of the latter those alone, where there are any, that are part of a legal whole with other words for the rest of the
    kinds in conflict.
    """
    texts = []
    for kind in dict.fromkeys(kind for kinds in conflicts for kind in kinds):
        if not all(kind in kinds for kinds in conflicts):
            continue
        names = compatible(kind, **{other: value for other, value in words.items() if other != kind})
        if names:
            texts.append(f"{_an(kind).capitalize()} that fits the other choices: {', '.join(names)}.")
    if texts:
        return texts
    facts, affected = {kind: _facts(each) for kind, each in words.items()}, {k for kinds in conflicts for k in kinds}
    for whole in (True, False):
        for kinds in conflicts:
            for kind in kinds:
                partners = [other for other in kinds if other != kind]
                fixed = {k: facts[k] for k in words if k in partners or (whole and k not in affected)}
                open_kinds = affected.difference(kinds) if whole else ()
                names = _names(kind, fixed, open_kinds)
                if names or not whole:
                    fits = f"{_an(kind).capitalize()} that fits {' and '.join(str(words[k]) for k in partners)}"
                    texts.append(f"{fits}: {', '.join(names) or 'none is registered'}.")
        if texts:
            break
    return list(dict.fromkeys(texts))


def _names(kind: str, fixed: Mapping[str, Facts], open_kinds: Collection[str]) -> list[str]:
    """The registered names of a kind that go with what is fixed, in a whole that some of the open kinds make legal."""
    others = {each: _fitting(each, fixed) for each in open_kinds}
    names = []
    for name, facts in _fitting(kind, fixed).items():
        left = {k: [each for each in v.values() if not between(facts, each)] for k, v in others.items()}
        if all(left.values()) and _completes({**fixed, kind: facts}, left):
            names.append(name)
    return sorted(names)


def _an(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
