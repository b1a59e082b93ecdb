"""The conformance kit: what every part of a kind must do, as base classes for pytest.

A plugin's tests say which part is theirs::

    from odeframe.testing import SolverConformance

    class TestMine(SolverConformance):
        solver = "my_scheme"
"""

import importlib
from typing import Any

import pytest

_HOMES = {
    "SolverConformance": "odeframe.testing.solvers",
    "ControlConformance": "odeframe.testing.controls",
    "GradientConformance": "odeframe.testing.gradients",
    "ArchitectureConformance": "odeframe.testing.architectures",
    "TrainerConformance": "odeframe.testing.trainers",
    "DynamicsConformance": "odeframe.testing.dynamics",
    "TaskConformance": "odeframe.testing.tasks",
    "DataConformance": "odeframe.testing.data",
}

# Checks are bare asserts with a message: pytest's rewriting keeps them alive under ``python -O`` and shows values.
for _name in (
    "accuracy",
    "conformance",
    "contract",
    "derivatives",
    "orders",
    "stepwise",
    "surroundings",
    *(home.rpartition(".")[2] for home in _HOMES.values()),
):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
