"""The whole contract between odeframe and a plugin, on one page.

A plugin is a package with one entry point in the group ``odeframe``, whose value is a light module (it
imports neither torch nor Lightning). The module defines some of the hooks below, each marked
``@odeframe.hookimpl``; a hook takes no argument and returns a table from names to parts::

    import odeframe

    ODEFRAME_API = 1

    @odeframe.hookimpl
    def odeframe_solvers():
        return {"my_solver": odeframe.Part("my_package.solvers:MySolver", traits=("step",))}

A name matches ``[a-z][a-z0-9_]*``. A value is a ``Part``, or only its target: a string
"package.module:Class", which is imported when the part is first used, or a class or another callable. Hooks
only return tables, so no result depends on the order of plugins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pluggy

from odeframe.errors import InvalidOption, suggestion

__all__ = ["API", "HOOKS", "KINDS", "Need", "Part", "check_kind", "hookimpl", "hookspec"]

API = 1
"""The version of this contract; a module that says ``ODEFRAME_API = 2`` waits for a newer odeframe."""

HOOKS = {
    "dynamics": "odeframe_dynamics",
    "control": "odeframe_controls",
    "solver": "odeframe_solvers",
    "gradient": "odeframe_gradients",
    "architecture": "odeframe_architectures",
    "trainer": "odeframe_trainers",
    "task": "odeframe_tasks",
    "data": "odeframe_data",
}
"""The hook of each kind."""

KINDS = tuple(HOOKS)
"""The kinds of component, in the singular."""

hookspec = pluggy.HookspecMarker("odeframe")
hookimpl = pluggy.HookimplMarker("odeframe")

COMPONENT = re.compile(r"[a-z][a-z0-9_]*")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_TRAIT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_REQUIRED = re.compile(r"[A-Za-z0-9][\w.-]*(:[A-Za-z0-9][\w.-]*)?")
_NEED = re.compile(r"(?P<kind>\w+)(:(?P<refused>!?)(?P<trait>[A-Za-z]\w*)|=(?P<names>[\w./-]+(\|[\w./-]+)*))")
_CONDITION = re.compile(r"[^\W\d]\w*=.+", re.DOTALL)


def check_kind(kind: str) -> str:
    """The kind itself, where it is one of ``KINDS``.

    Raises:
        InvalidOption: it is not.
    """
    if kind not in KINDS:
        near = suggestion(kind, KINDS)
        raise InvalidOption(f"unknown kind {kind!r}.{near} The kinds are {', '.join(KINDS)}.")
    return kind


@dataclass(frozen=True)
class Need:
    """What a part asks of another kind's part: a trait, the absence of a trait, or one of several names."""

    kind: str
    trait: str = ""
    refused: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Need:
        """A need from "kind:trait", "kind:!trait" or "kind=name|name".

        Raises:
            InvalidOption: the text has none of these forms, or no such kind exists.
        """
        match = _NEED.fullmatch(text)
        if match is None:
            forms = "'kind:trait', 'kind:!trait' or 'kind=name|name'"
            raise InvalidOption(f"got need {text!r}, expected {forms}")
        names = tuple(match["names"].split("|")) if match["names"] else ()
        return cls(check_kind(match["kind"]), match["trait"] or "", bool(match["refused"]), names)


@dataclass(frozen=True)
class Part:
    """A component as a plugin's table declares it: what must be known without importing its class.

    Args:
        target: "package.module:Class", imported on first use, or a class or another callable.
        traits: what it is, as other parts may need or refuse it, as ("step", "reversible").
        needs: what it asks of the other kinds' parts: "solver:step" (has the trait), "solver:!stochastic"
            (has it not), "gradient=backprop|checkpoint" (is one of these). A kind that is not chosen is not
            checked.
        requires: optional modules (or, spelt with a hyphen, distributions) without which it cannot be built.
            Each is also the name of the extra of your package that installs it; where they differ:
            "module:extra".
        source: paper and section.
        summary: one line; the first line of the class's docstring where it is empty.
        when: further traits and needs by option value: {"method=euler": {"traits": ("step",)}}. The value is
            compared as text; an option that is left out counts with its default.
        example: options with which it can be built where it has required ones, for small data and short runs: the
            legal matrix builds it with them.
        facts: further lines for ``describe``, name to text, as {"scheme": "forward Euler", "order": "1"}.

    Raises:
        InvalidOption: a field is malformed.
    """

    target: str | Callable[..., Any]
    traits: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    source: str = ""
    summary: str = ""
    when: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict, hash=False)
    example: Mapping[str, Any] = field(default_factory=dict, hash=False)
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.target, str):
            if not _TARGET.fullmatch(self.target):
                raise InvalidOption(f"got target {self.target!r}, expected 'package.module:Class'")
        elif not callable(self.target):
            raise InvalidOption(f"got target {self.target!r}, expected 'package.module:Class' or a class")
        for name in ("source", "summary"):
            if not isinstance(getattr(self, name), str):
                raise InvalidOption(f"got {name} {getattr(self, name)!r}, expected a string")
        object.__setattr__(self, "traits", _words("traits", self.traits, _TRAIT))
        object.__setattr__(self, "needs", _needs("needs", self.needs))
        object.__setattr__(self, "requires", _words("requires", self.requires, _REQUIRED))
        object.__setattr__(self, "when", _conditions(self.when))
        if not isinstance(self.example, Mapping) or not all(isinstance(key, str) for key in self.example):
            raise InvalidOption(f"got example {self.example!r}, expected a mapping from options to values")
        if not isinstance(self.facts, Mapping) or not all(isinstance(s, str) for p in self.facts.items() for s in p):
            raise InvalidOption(f"got facts {self.facts!r}, expected a mapping from names to texts")


def _words(where: str, values: Any, form: re.Pattern[str] | None = None) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, tuple | list | set | frozenset):
        raise InvalidOption(f"got {where} {values!r}, expected a tuple of strings, as ({str(values)!r},)")
    for value in values:
        if not isinstance(value, str) or (form is not None and not form.fullmatch(value)):
            raise InvalidOption(f"got {value!r} in {where}, expected {form.pattern if form else 'a string'}")
    return tuple(sorted(values)) if isinstance(values, set | frozenset) else tuple(values)


def _needs(where: str, values: Any) -> tuple[str, ...]:
    words = _words(where, values)
    for word in words:
        Need.parse(word)
    return words


def _conditions(when: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    if not isinstance(when, Mapping):
        raise InvalidOption(f"got when {when!r}, expected a mapping, {{'option=value': {{'traits': ('step',)}}}}")
    checked: dict[str, dict[str, tuple[str, ...]]] = {}
    for condition, added in when.items():
        if not isinstance(condition, str) or not _CONDITION.fullmatch(condition):
            raise InvalidOption(f"got condition {condition!r} in when, expected 'option=value'")
        if not isinstance(added, Mapping) or not set(added) <= {"traits", "needs"}:
            raise InvalidOption(f"got when {condition!r}: {added!r}, expected a mapping of 'traits' and 'needs'")
        where = f"when {condition!r}"
        checked[condition] = {
            "traits": _words(f"traits of {where}", added.get("traits", ()), _TRAIT),
            "needs": _needs(f"needs of {where}", added.get("needs", ())),
        }
    return checked


@hookspec
def odeframe_dynamics() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Right-hand sides f of dx/dt = f(t, x, u): the blocks. Targets build an ``odeframe.Dynamics``."""


@hookspec
def odeframe_controls() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Laws u of the weights over depth. Targets build an ``odeframe.Control``."""


@hookspec
def odeframe_solvers() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Schemes that cross an interval of depth. Targets build an ``odeframe.Solver``."""


@hookspec
def odeframe_gradients() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Ways to have the gradient of a loss from a solve. Targets build an ``odeframe.Gradient``."""


@hookspec
def odeframe_architectures() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Recipes of networks: stem, flows, transitions, head. Targets build an ``odeframe.Architecture``."""


@hookspec
def odeframe_trainers() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Rules by which a batch improves the control. Targets build an ``odeframe.ControlTrainer``."""


@hookspec
def odeframe_tasks() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Questions: start and target, terminal cost, metrics, picture. Targets build an ``odeframe.Task``."""


@hookspec
def odeframe_data() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Data, with fixed splits and seeds. Targets build an ``odeframe.DataModule``."""
