"""Pictures of densities in the plane: data, density, samples, and the flow on its way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from odeframe.network import Network
from odeframe.plots import panel_grid

__all__ = ["density_on_grid", "density_picture", "image_picture"]

POINTS = 100
"""Nodes of the grid, along each axis."""
SHOWN = 2000
"""Samples drawn."""
IMAGES = 8
"""Images along each side of a square of them."""
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


def image_picture(task: Any, network: Network, x: Tensor) -> Figure:
    """A square of images of the data, and one of samples, in one scale of grey levels or colours.

    Args:
        task: a density.
        network: what it is put to.
        x: data ``(batch, channels, height, width)``, of one channel or three.
    """
    figure, panels = panel_grid(2, 4.0)
    low, high = float(x.min()), float(x.max())
    shown = {"data": x[: IMAGES**2], "samples": task.sample(network, IMAGES**2)}
    for panel, (title, images) in zip(panels, shown.items(), strict=True):
        panel.imshow(_tiled(((images - low) / (high - low)).clamp(0, 1)), cmap="gray", vmin=0, vmax=1)
        panel.set_title(title)
        panel.set_axis_off()
    return figure


def _tiled(images: Tensor) -> np.ndarray:
    """``(n, channels, height, width)`` as one image of ``IMAGES`` by ``IMAGES``, white where there are fewer."""
    images = torch.nn.functional.pad(images, (0, 1, 0, 1), value=1.0)  # a white line between neighbours
    n, channels, height, width = images.shape
    whole = images.new_ones(IMAGES**2, channels, height, width)
    whole[:n] = images
    rows = whole.reshape(IMAGES, IMAGES, channels, height, width).permute(0, 3, 1, 4, 2)
    return rows.reshape(IMAGES * height, IMAGES * width, channels).squeeze(2).cpu().numpy()
