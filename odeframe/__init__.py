"""Deep learning as differential equations and optimal control, from parts chosen by words.

A network is a discretisation of ``dx/dt = f(t, x, u)``, its weights are the control ``u``, and training is an
optimal control problem.  Everything here is loaded on first use: ``import odeframe`` imports neither torch nor
Lightning.
"""

from __future__ import annotations

import importlib
from typing import Any

from odeframe.errors import (
    CheckpointError,
    DataError,
    Incompatible,
    InvalidOption,
    OdeframeError,
    PluginConflict,
    SolveFailed,
    UnknownComponent,
)
from odeframe.hookspecs import hookimpl
from odeframe.registry import Part

__version__ = "0.1.0"

_LAZY = {
    "available": "odeframe.registry",
    "describe": "odeframe.registry",
    "build": "odeframe.registry",
    "compatible": "odeframe.compatibility",
    "Dynamics": "odeframe.dynamics",
    "SeparableDynamics": "odeframe.dynamics",
    "BranchedDynamics": "odeframe.dynamics",
    "SemilinearDynamics": "odeframe.dynamics",
    "SecondOrderDynamics": "odeframe.dynamics",
    "ControlSystem": "odeframe.system",
    "StochasticDynamics": "odeframe.dynamics",
    "Control": "odeframe.control",
    "Field": "odeframe.field",
    "Law": "odeframe.field",
    "Solver": "odeframe.solver",
    "StepSolver": "odeframe.solver",
    "ReversibleSolver": "odeframe.solver",
    "AdaptiveSolver": "odeframe.adaptive",
    "Gradient": "odeframe.gradient",
    "Solution": "odeframe.solution",
    "Status": "odeframe.solution",
    "Quadrature": "odeframe.quadrature",
    "ControlCost": "odeframe.quadrature",
    "Drive": "odeframe.drive",
    "Noise": "odeframe.noise",
    "StopRule": "odeframe.solver",
    "Event": "odeframe.event",
    "Flow": "odeframe.flow",
    "solve": "odeframe.initial_value",
    "Architecture": "odeframe.network",
    "Network": "odeframe.network",
    "ControlTrainer": "odeframe.trainer",
    "Task": "odeframe.task",
    "DataSpec": "odeframe.specification",
    "DataModule": "odeframe.data",
    "FlowModule": "odeframe.module",
    "Run": "odeframe.run",
    "compose": "odeframe.composition",
}

__all__ = [
    "CheckpointError",
    "DataError",
    "Incompatible",
    "InvalidOption",
    "OdeframeError",
    "Part",
    "PluginConflict",
    "SolveFailed",
    "UnknownComponent",
    "__version__",
    "hookimpl",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name == "testing":
        return importlib.import_module("odeframe.testing")
    raise AttributeError(f"module 'odeframe' has no attribute {name!r}; its names are {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
