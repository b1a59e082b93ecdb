"""Conformance classes made on the fly for registered parts: what ``odeframe plugins check`` runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

import odeframe.testing as kit
from odeframe.compatibility import compatible
from odeframe.errors import InvalidOption, OdeframeError
from odeframe.registry import Word, word
from odeframe.testing.conformance import Conformance

CLASSES = {
    "dynamics": "DynamicsConformance",
    "control": "ControlConformance",
    "solver": "SolverConformance",
    "gradient": "GradientConformance",
    "architecture": "ArchitectureConformance",
    "trainer": "TrainerConformance",
    "task": "TaskConformance",
    "data": "DataConformance",
}
"""The class of each kind."""

SETTINGS = "conformance"
"""The attribute by which a part's class gives settings to its conformance class, a mapping."""

SOLVERS: tuple[dict[str, Any], ...] = (
    {"name": "rk4", "steps": 32},
    {"name": "dopri5", "rtol": 1e-10, "atol": 1e-12},
    {"name": "reversible_heun", "steps": 32},
)
"""Solvers that a gradient is tested with, as far as it goes with them."""


def classes(words: Iterable[tuple[str, Any]]) -> dict[str, type]:
    """A conformance class for each word, by the names ``Test0``, ``Test1``, ... in their order.

    Args:
        words: kind and choice, a name or a mapping with a name and options.
    """
    return {f"Test{index}": _class(kind, choice) for index, (kind, choice) in enumerate(words)}


def conformance(kind: str, choice: Any) -> type:
    """The conformance class of a part, with the settings that its class states, or the object for its options.

    Raises:
        OdeframeError: the part is unknown, or cannot be built from what is given.
    """
    chosen = word(kind, choice)
    stated = getattr(chosen.component.load() if chosen.component else chosen.object, SETTINGS, {})
    made = _made(kind, choice, chosen, stated)
    own = getattr(made.part, SETTINGS, stated)
    return made if own is stated or own == stated else _made(kind, choice, chosen, own)


def _made(kind: str, choice: Any, chosen: Word, stated: Any) -> Any:
    given = dict(stated) if isinstance(stated, Mapping) else {}
    left_out = {name: given.pop(name) for name in list(given) if name.startswith("test_") and not callable(given[name])}
    silent = [name for name, reason in left_out.items() if not isinstance(reason, str)]
    if silent:
        raise InvalidOption(
            f"{kind} {chosen}: {SETTINGS} leaves out {', '.join(silent)} without a reason: write it in place of None, "
            "as {'test_solving_back_returns': 'what is cut off does not come back'}"
        )
    dropped = dict.fromkeys(left_out)
    settings = {**_fitting(chosen), **given, **dropped, kind: choice, "left_out": left_out, "stated": given}
    return type(f"Test{kind.title()}", (getattr(kit, CLASSES[kind]),), settings)


def remarks(made: Mapping[str, type]) -> dict[str, list[str]]:
    """What must be known of how each class checks its part: the settings that the part states, what it leaves out."""
    return {name: list(_remarks(each)) for name, each in made.items()}


def _remarks(made: type) -> Iterator[str]:
    stated = getattr(made, "stated", {})
    if stated:
        told = ", ".join(f"{name} = {value!r}" for name, value in stated.items())
        yield f"checked with settings of its own: {told}"
    yield from (f"{check} is left out: {reason}" for check, reason in getattr(made, "left_out", {}).items())
    yield from made.told() if issubclass(made, Conformance) else ()


def _class(kind: str, choice: Any) -> type:
    try:
        return conformance(kind, choice)
    except Exception as error:
        text = str(error) if isinstance(error, OdeframeError) else f"{type(error).__name__}: {error}"

        def test_can_be_built(self: Any) -> None:
            """The part is built from what is given."""
            pytest.fail(text, pytrace=False)

        return type("TestNothing", (), {"test_can_be_built": test_can_be_built})


def _fitting(chosen: Word) -> dict[str, Any]:
    """Settings that follow from what the part needs."""
    if chosen.kind != "gradient":
        return {}
    names = compatible("solver", gradient=chosen)
    return {"solvers": tuple(solver for solver in SOLVERS if solver["name"] in names)}
