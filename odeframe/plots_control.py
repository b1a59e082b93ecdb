"""Pictures of controls: weights over depth, and the paths of a controlled system with its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from odeframe.drive import Drive
from odeframe.errors import DataError, Incompatible
from odeframe.flow import Flow
from odeframe.plots import MODELS, panel_grid
from odeframe.system import ControlSystem

__all__ = ["Paths", "controlled_paths", "paths_over_time", "weights", "weights_over_depth"]

POINTS = 121
"""Times at which curves are drawn."""
MOST = 8
"""Weights in a picture."""


@dataclass(frozen=True)
class Paths:
    """States and inputs of some samples under one control.

    Attributes:
        title: of the control.
        times: ``(num_times,)``.
        states: ``(num_times, batch, n)``.
        inputs: ``(num_times, batch, m)``.
        state_names: ``n`` names.
    """

    title: str
    times: np.ndarray
    states: np.ndarray
    inputs: np.ndarray
    state_names: tuple[str, ...] = ()


def controlled_paths(title: str, flow: Flow, x0: Tensor, drive: Drive | None = None, points: int = POINTS) -> Paths:
    """The paths of a flow of an ``odeframe.ControlSystem``.

    Args:
        title: what the control is called.
        flow: with the control.
        x0: initial states ``(batch, *state)``.
        drive: a disturbance of the states.
        points: times, equally spaced over the horizon.

    Raises:
        Incompatible: the dynamics are no such system.
    """
    system = flow.dynamics
    if not isinstance(system, ControlSystem):
        raise Incompatible(f"controlled paths: got {type(system).__name__}, expected an odeframe.ControlSystem")
    start, end = flow.horizon
    times = torch.linspace(start, end, points, dtype=torch.float64)
    margin = 1e-7 * (end - start)
    with torch.no_grad():
        states = flow.solve(x0, times, drive=drive).states
        field, inputs = flow.field(), []
        for t, x in zip(times, states, strict=True):
            inside = t.clamp(min(start, end) + margin, max(start, end) - margin)
            inputs.append(field.on(inside - margin, inside + margin).observe("input", inside, x))
    shown = states.reshape(points, len(x0), -1)
    names = system.state_names or tuple(f"$x_{{{i + 1}}}$" for i in range(shown.shape[2]))
    return Paths(title, times.numpy(), _array(shown), _array(torch.stack(inputs)), names)


def paths_over_time(every: Sequence[Paths]) -> Figure:
    """A row a control: a panel for each component of the state, and one for the inputs, a line a sample.

    Controls share the axis of each column, so that their spread can be compared.

    Raises:
        DataError: there is nothing to draw, the systems differ in size, or a value is not finite.
    """
    if not every:
        raise DataError("paths over time: got no paths, expected those of at least one control")
    sizes = {(paths.states.shape[2], paths.inputs.shape[2]) for paths in every}
    if len(sizes) > 1 or any(not paths.states.shape[1] for paths in every):
        raise DataError(f"paths over time: got states and inputs of sizes {sorted(sizes)}, expected one, and a sample")
    if not all(np.isfinite(paths.states).all() and np.isfinite(paths.inputs).all() for paths in every):
        raise DataError("paths over time: got values that are not finite")
    num_states, num_inputs = sizes.pop()
    figure, grid = panel_grid(num_states + 1, height=2.6, rows=len(every), share="col")
    for row, paths in enumerate(every):
        colour = MODELS[row % len(MODELS)]
        for column, name in enumerate([*paths.state_names, "input"]):
            axes = grid[row * (num_states + 1) + column]
            values = paths.states[..., column : column + 1] if column < num_states else paths.inputs
            for j, sample in itertools.product(range(values.shape[2]), range(values.shape[1])):
                axes.plot(
                    paths.times, values[:, sample, j], color=colour, alpha=0.5, linewidth=0.8, linestyle=DASHES[j % 4]
                )
            heading = f"{paths.title}: {name}" if paths.title else name
            axes.set_title(heading if column < num_states or num_inputs == 1 else f"{heading}s", fontsize=9)
            axes.set_xlabel("time", fontsize=8)
            axes.tick_params(labelsize=7)
    return figure


DASHES = ("-", "--", ":", "-.")


def weights(flow: Flow, points: int = POINTS) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The block's weights over the depth of a flow.

    Args:
        flow: whose control gives its weights at a time.
        points: times at least, spread over the pieces.

    Returns:
        times ``(num_times,)``, with both ends of every piece, and by name values ``(num_times, size)``.
    """
    control = flow.control
    start, end = control.horizon
    edges = sorted({start, end, *control.breakpoints()}, reverse=end < start)
    each = max(2, -(-points // (len(edges) - 1)))
    times: list[float] = []
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for low, high in itertools.pairwise(torch.tensor(edges, dtype=torch.float64)):
            law = control.on(low, high)
            for t in torch.linspace(float(low), float(high), 2 if law.steady else each, dtype=torch.float64):
                times.append(float(t))
                for name, value in law.parameters(t).items():
                    found.setdefault(name, []).append(value.detach().reshape(-1).clone())
    return np.array(times), {name: _array(torch.stack(values)) for name, values in found.items()}


def weights_over_depth(flows: Mapping[str, Flow], most: int = MOST) -> Figure:
    """``theta(t)``: those weights of each flow that change most over its depth, a panel a flow.

    Args:
        flows: by title.
        most: weights a panel.

    Raises:
        DataError: there is no flow, or one has no weights.
    """
    if not flows:
        raise DataError("weights over depth: got no flow")
    figure, every_axes = panel_grid(len(flows), height=3.2)
    for axes, (title, flow) in zip(every_axes, flows.items(), strict=True):
        times, values = weights(flow)
        if not values:
            raise DataError(f"weights over depth: the dynamics of {title!r} have no weights")
        table = np.concatenate(list(values.values()), axis=1)
        chosen = np.argsort(-table.std(axis=0), kind="stable")[:most]
        for rank, index in enumerate(chosen):
            axes.plot(
                times,
                table[:, index],
                color=MODELS[rank % len(MODELS)],
                linestyle=DASHES[rank // len(MODELS) % 4],
                linewidth=1.2,
            )
        axes.set_title(f"{title}\n{len(chosen)} of {table.shape[1]:,} weights", fontsize=9)
        axes.set_xlabel("depth t", fontsize=8)
        axes.set_ylabel(r"$\theta(t)$", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().double().numpy()
