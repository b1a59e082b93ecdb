"""Pictures of densities in the plane: data, density, samples, and the flow on its way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from odeframe.network import Network
from odeframe.plots import panel_grid

__all__ = ["density_on_grid", "density_picture"]

POINTS = 100
"""Nodes of the grid, along each axis."""
SHOWN = 2000
"""Samples drawn."""
STAGES = 4
"""Times, from the base to the data."""


def density_on_grid(task: Any, network: Network, low: Tensor, high: Tensor, points: int = POINTS) -> Tensor:
    """``p`` on a grid, ``(points, points)``, its first dimension along the second component.

    Args:
        task: a density, with ``log_prob(network, x)``.
        network: what it is put to, on two components.
        low: least components ``(2,)``.
        high: greatest components ``(2,)``.
        points: nodes along each axis.
    """
    axes = [torch.linspace(float(a), float(b), points) for a, b in zip(low, high, strict=True)]
    like = next(network.parameters())
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1).reshape(-1, 2).to(like)
    with torch.no_grad():
        return task.log_prob(network, grid).exp().reshape(points, points)


def density_picture(task: Any, network: Network, x: Tensor) -> Figure:
    """Data, density on a grid about them, and samples at several times of the flow from base to data.

    Args:
        task: a density.
        network: what it is put to.
        x: data ``(batch, 2)``.
    """
    start, end = network.flows[0].horizon
    low, high = x.min(0).values - 0.5, x.max(0).values + 0.5
    figure, panels = panel_grid(2 + STAGES, 3.0)
    limits = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    panels[0].plot(*x[:SHOWN].cpu().numpy().T, ".", markersize=1, color="C0")
    panels[0].set_title("data")
    panels[1].imshow(
        density_on_grid(task, network, low, high).cpu(), origin="lower", extent=limits, cmap="viridis", aspect="auto"
    )
    panels[1].set_title("density")
    times = np.linspace(end, start, STAGES)
    for panel, time, states in zip(panels[2:], times, task.sample(network, SHOWN, times), strict=True):
        panel.plot(*states.cpu().numpy().T, ".", markersize=1, color="C1")
        panel.set_title(f"samples, t = {time:.2g}")
    for panel in panels[:1] + panels[2:]:
        panel.set(xlim=limits[:2], ylim=limits[2:])
    return figure
