"""Five classical stiff (or, the last, long and not stiff) problems, for torch and for numpy alike.

Source: Hairer, Wanner 1996, IV.1 and IV.10; Mazzia, Magherini 2008, Test Set for Initial Value Problem Solvers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor


@dataclass(frozen=True)
class StiffProblem:
    """``dx_i/dt = rates(t, x)_i``, autonomous.

    Attributes:
        name: as in the tables.
        rates: from the components to their derivatives.
        start: ``x(0)``.
        end: last time.
        share: absolute over relative tolerance, for components that are small by nature.
    """

    name: str
    rates: Callable[..., Sequence[Any]]
    start: tuple[float, ...]
    end: float
    share: float = 1.0

    def field(self, t: Tensor, x: Tensor) -> Tensor:
        """For ``x`` ``(batch, D)``."""
        return torch.stack(list(self.rates(*x.unbind(1))), dim=1)

    def numpy(self, t: float, x: np.ndarray) -> np.ndarray:
        """For ``x`` ``(D,)``."""
        return np.array(self.rates(*x))

    @property
    def x0(self) -> Tensor:
        """``(1, D)`` in float64."""
        return torch.tensor([self.start], dtype=torch.float64)

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """``x(end)``, by another code at a tolerance far below those that are compared."""
        method = "DOP853" if self.name == "Pleiades" else "Radau"
        span = (0.0, self.end)
        return solve_ivp(self.numpy, span, self.start, method=method, rtol=1e-12, atol=1e-13 * self.share).y[:, -1]

    def error(self, x: np.ndarray, rtol: float) -> float:
        """Root mean square of the end error over ``atol + rtol |x|``, times ``rtol``: about the relative error."""
        scale = self.share + np.abs(self.reference)
        return float(np.sqrt(np.mean(((x - self.reference) / scale) ** 2)))


def robertson(x: Any, y: Any, z: Any) -> Sequence[Any]:
    """Three reactions with rates 0.04, 3e7 and 1e4."""
    first, third = 0.04 * x, 3e7 * y * y
    second = 1e4 * y * z
    return -first + second, first - second - third, third


def van_der_pol(x: Any, v: Any) -> Sequence[Any]:
    """The relaxation oscillator with mu = 1000."""
    return v, 1000.0 * (1 - x * x) * v - x


def oregonator(x: Any, y: Any, z: Any) -> Sequence[Any]:
    """The Belousov-Zhabotinskii reaction."""
    return 77.27 * (y + x * (1 - 8.375e-6 * x - y)), (z - (1 + x) * y) / 77.27, 0.161 * (x - z)


def hires(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Sequence[Any]:
    """High irradiance responses of photomorphogenesis, eight reactants."""
    bound = 280 * f * h - 1.81 * g
    return (
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * f + 0.43 * g,
        -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        bound,
        -bound,
    )


def pleiades(*state: Any) -> Sequence[Any]:
    """Seven stars in the plane with masses 1 to 7: positions x, y, velocities."""
    x, y, speeds = state[:7], state[7:14], state[14:]
    pull_x, pull_y = [], []
    for i in range(7):
        fx: Any = 0.0
        fy: Any = 0.0
        for j in range(7):
            if j != i:
                dx, dy = x[j] - x[i], y[j] - y[i]
                weight = (j + 1) * (dx * dx + dy * dy) ** -1.5
                fx, fy = fx + weight * dx, fy + weight * dy
        pull_x.append(fx)
        pull_y.append(fy)
    return (*speeds, *pull_x, *pull_y)


STARS = (3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4, 0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0)

PROBLEMS = (
    StiffProblem("Robertson", robertson, (1.0, 0.0, 0.0), 1e5, share=1e-4),
    StiffProblem("HIRES", hires, (1.0, 0, 0, 0, 0, 0, 0, 0.0057), 321.8122, share=1e-2),
    StiffProblem("van der Pol", van_der_pol, (2.0, 0.0), 2000.0),
    StiffProblem("Oregonator", oregonator, (1.0, 2.0, 3.0), 360.0),
    StiffProblem("Pleiades", pleiades, tuple(float(v) for v in STARS), 3.0),
)
