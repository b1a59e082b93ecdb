"""Particles before and after observations, with the posterior's ellipse."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from odeframe.plots import panel_grid

SHOWN = 4
"""Sets in a picture."""
MASS = 0.9
"""Probability within the ellipse."""


def picture(sets: Tensor, mean: Tensor, covariance: Tensor) -> Figure:
    """One panel a set: the starting particles in grey, the last ones in colour, the ellipse of the last posterior.

    Args:
        sets: ``(batch, M + 1, N, 2)``, the starting particles first.
        mean: ``(batch, M, 2)`` of the posterior.
        covariance: ``(batch, M, 2, 2)``.
    """
    count = min(SHOWN, len(sets))
    figure, panels = panel_grid(count, 3.2)
    for index, axes in zip(range(count), panels, strict=False):
        particles = sets[index].detach().double().cpu().numpy()
        axes.scatter(particles[0, :, 0], particles[0, :, 1], s=6, color="0.75", label="before")
        axes.scatter(particles[-1, :, 0], particles[-1, :, 1], s=6, color="C0", label="after")
        ellipse(axes, mean[index, -1].cpu().numpy(), covariance[index, -1].cpu().numpy())
        axes.set_title(f"{particles.shape[0] - 1} observation{'s' if particles.shape[0] > 2 else ''}")
        axes.set_aspect("equal", "datalim")
        if index == 0:
            axes.legend(loc="upper left", fontsize="small")
    return figure


def ellipse(axes: Axes, mean: np.ndarray, covariance: np.ndarray) -> None:
    """The ellipse that holds :data:`MASS` of a normal distribution in the plane."""
    angle = np.linspace(0, 2 * math.pi, 100)
    circle = math.sqrt(-2 * math.log(1 - MASS)) * np.stack([np.cos(angle), np.sin(angle)])
    values, vectors = np.linalg.eigh(covariance)  # an estimate of few effective draws may be singular
    axes.plot(
        *(mean[:, None] + vectors * np.sqrt(values.clip(min=0)) @ circle), color="C1", label="90 % of the posterior"
    )
