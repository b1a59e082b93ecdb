"""Radau IIA of order 5."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe.adaptive import Attempt
from odeframe.field import per_sample
from odeframe_plugins.solvers.newton import per_sample_mask
from odeframe_plugins.solvers.stages import Coupling, constant, mixture, stage_columns
from odeframe_plugins.solvers.stiff import ImplicitAdaptive, Step, Trial, divided, lagrange, weighted

ROOT = math.sqrt(6)
NODES = ((4 - ROOT) / 10, (4 + ROOT) / 10, 1.0)
MATRIX = (
    ((88 - 7 * ROOT) / 360, (296 - 169 * ROOT) / 1800, (-2 + 3 * ROOT) / 225),
    ((296 + 169 * ROOT) / 1800, (88 + 7 * ROOT) / 360, (-2 - 3 * ROOT) / 225),
    ((16 - ROOT) / 36, (16 + ROOT) / 36, 1 / 9),
)
#: Rows that make the coefficients of theta, theta^2, theta^3 of the collocation polynomial from the increments.
COEFFICIENTS = tuple(map(tuple, torch.linalg.inv(torch.tensor([[c, c**2, c**3] for c in NODES]).double()).tolist()))
#: The error estimate is ``gamma (dt f(t, x) + sum_i e_i z_i)``, filtered.
ERROR = ((-13 - 7 * ROOT) / 3, (-13 + 7 * ROOT) / 3, -1 / 3)


class Radau(ImplicitAdaptive):
    """Radau IIA, three stages, order 5, with an error estimate of order 3 and the collocation polynomial between steps.

    ``y_i = x + dt sum_j a_ij f(t + c_j dt, y_j)``, ``x_{n+1} = y_3``.  L-stable and stiffly accurate, ``R(inf) = 0``;
    stage order 3, so on very stiff problems it keeps order 3 to 5.  One real and one complex system of size ``D`` a
    correction.  The error, ``(I - dt gamma J)^-1 gamma (dt f + e . z)``, is filtered again through the field where it
    is above tolerance.

    Source: Hairer, Wanner 1996, Solving Ordinary Differential Equations II, IV.5, IV.8.
    """

    traits: ClassVar[tuple[str, ...]] = ("adaptive", "implicit")
    order, error_order, coupling = 5, 4, Coupling(MATRIX, NODES)
    dense_order: ClassVar[int] = 3  # the collocation polynomial's
    _gamma = next(value.real for value, _, _ in coupling.modes if not isinstance(value, complex))
    #: rows that make ``dt f(t + dt, y_3)`` and ``e . z`` of the increments
    _ends = (tuple(torch.linalg.inv(coupling.matrix)[2].tolist()), ERROR)

    def past(self, x: Tensor) -> tuple[Tensor, ...]:
        """The increments of the last step and its length, 0 where there is none."""
        zeros = torch.zeros(x.shape[0], 3, *x.shape[1:], dtype=x.dtype, device=x.device)
        return zeros, torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)

    def run(self, trial: Trial) -> Step:
        """The three stages together."""
        x, dt = trial.x, trial.dt
        z = trial.solve(x[:, None], self.coupling, extrapolated(trial))
        stages = list(z.unbind(1))
        velocity, known = mixture(self._ends, z).unbind(1)
        slope = divided(velocity, dt)
        with torch.no_grad():
            known = self._gamma * known
            error = self.estimate(trial, trial.slope, known)
            size = trial.size(error[:, None], error[:, None])
            if bool((size > 1).any()):
                again = self.estimate(trial, trial.law(trial.t, x + error), known)
                error = torch.where(per_sample_mask(size > 1, error), again, error)
            length = torch.as_tensor(dt, dtype=torch.float64, device=x.device).expand(x.shape[0])
        return Step(x + stages[2], error, slope, (z.detach(), length), stages)

    def estimate(self, trial: Trial, slope: Tensor, known: Tensor) -> Tensor:
        """``(I - dt gamma J)^-1 (gamma dt f + known)``."""
        return trial.smooth(self._gamma * per_sample(trial.dt, slope) * slope + known, self.coupling)

    def interpolate(self, theta: Any, dt: Any, x: Tensor, attempt: Attempt) -> Tensor:
        """The collocation polynomial, of degree 3."""
        if x.numel() == 0:
            return x
        return x + weighted(lagrange((0.0, *NODES), theta)[1:], attempt.stages)


def extrapolated(trial: Trial) -> Tensor:
    """The last step's polynomial at this step's nodes, as increments ``(batch, 3, *state)``; zero before any step."""
    old, length = trial.past
    share = torch.as_tensor(trial.dt, device=length.device).detach() / torch.where(length == 0, 1.0, length)
    share = torch.where(length == 0, torch.zeros_like(share), share)
    nodes, coefficients = (constant(rows, length.dtype, length.device) for rows in ((NODES,), COEFFICIENTS))
    theta = 1 + nodes * share[:, None]
    weights = torch.stack([theta, theta**2, theta**3], dim=2) @ coefficients
    weights[..., 2] -= 1
    return (weights.to(old.dtype) @ stage_columns(old)).reshape(old.shape)
