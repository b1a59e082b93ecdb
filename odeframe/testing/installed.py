"""Conformance classes made on the fly for registered parts: what ``odeframe plugins check`` runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

import odeframe.testing as kit
from odeframe.compatibility import compatible
from odeframe.errors import OdeframeError
from odeframe.registry import Word, word

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
    """The conformance class of a part, with the settings that its class states.

    Raises:
        OdeframeError: the part is unknown, or cannot be built from what is given.
    """
    chosen = word(kind, choice)
    given = getattr(chosen.component.load() if chosen.component else chosen.object, SETTINGS, {})
    settings: dict[str, Any] = {**_fitting(chosen), **(given if isinstance(given, Mapping) else {}), kind: choice}
    return type(f"Test{kind.title()}", (getattr(kit, CLASSES[kind]),), settings)


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
