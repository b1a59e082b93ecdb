"""The parts that come with odeframe, registered by the same entry point as anyone else's.

Each kind's folder states its table ``PARTS`` in its ``__init__``; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from odeframe import Part, hookimpl
from odeframe_plugins import architectures, controls, data, dynamics, gradients, solvers, tasks, trainers

ODEFRAME_API = 1


@hookimpl
def odeframe_dynamics() -> Mapping[str, Part]:
    """Vector fields f(t, x, u)."""
    return dynamics.PARTS


@hookimpl
def odeframe_controls() -> Mapping[str, Part]:
    """How the parameters depend on depth."""
    return controls.PARTS


@hookimpl
def odeframe_solvers() -> Mapping[str, Part]:
    """Schemes that cross an interval."""
    return solvers.PARTS


@hookimpl
def odeframe_gradients() -> Mapping[str, Part]:
    """How d loss / d control is had from a solve."""
    return gradients.PARTS


@hookimpl
def odeframe_architectures() -> Mapping[str, Part]:
    """Named recipes: stem, flows, transitions, head."""
    return architectures.PARTS


@hookimpl
def odeframe_trainers() -> Mapping[str, Part]:
    """How a batch improves the control."""
    return trainers.PARTS


@hookimpl
def odeframe_tasks() -> Mapping[str, Part]:
    """What is asked."""
    return tasks.PARTS


@hookimpl
def odeframe_data() -> Mapping[str, Part]:
    """Lightning data modules by name."""
    return data.PARTS
