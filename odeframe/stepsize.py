"""How long the next step is: the controller and the first step, for one number and for those of samples alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odeframe.errors import InvalidOption
from odeframe.field import Law, per_sample

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
LEAST = 1e-10  # error ratios below this say nothing more, and zero would divide
#: Exponents (times the error order) of the error ratios of this step, the last and the one before it.
CONTROLLERS = {"i": (1.0, 0.0, 0.0), "pi": (0.85, -0.2, 0.0), "pid": (0.49, -0.34, 0.1)}


class StepController:
    """``dt_next = dt prod_j (ratio_{n-j} / target)^(-beta_j / order)``, between a fifth and ten times ``dt``.

    ``target = safety^order``: constant ratios settle there, whatever the controller.  A rejected step is answered by
    the elementary controller, and the step after it does not grow.

    Args:
        name: ``"i"`` (elementary), ``"pi"`` (Gustafsson's, with the gains of Hairer's DOPRI5) or ``"pid"`` (Kennedy's).
        order: the power of ``dt`` in the error estimate of one step.
        safety: of the elementary controller, below 1.

    Source: Gustafsson 1991; Hairer, Wanner 1996, IV.2; Kennedy, Carpenter, Lewis 2000, Low-storage, explicit
    Runge-Kutta schemes for the compressible Navier-Stokes equations.
    """

    def __init__(self, name: str, order: int, safety: float = SAFETY) -> None:
        if name not in CONTROLLERS:
            raise InvalidOption(f"solver option controller: got {name!r}, expected one of {', '.join(CONTROLLERS)}")
        self.order, self.safety = order, safety
        self.powers = [-beta / order for beta in CONTROLLERS[name]]
        self.factor = safety ** sum(CONTROLLERS[name])

    def after_accept(self, ratio: Any, last: Any, before: Any, may_grow: Any = True) -> Any:
        """The factor after an accepted step, from its error ratio and those of the two accepted before it."""
        now, last, before = (_clip(r, LEAST, None) for r in (ratio, last, before))
        p = self.powers
        factor = _clip(self.factor * now ** p[0] * last ** p[1] * before ** p[2], SHRINK, GROW)
        if isinstance(factor, np.ndarray):
            return np.where(may_grow, factor, np.minimum(factor, 1.0))
        return factor if may_grow else min(1.0, factor)

    def after_reject(self, ratio: Any) -> Any:
        """The factor after a rejected step with a finite error."""
        return _clip(self.safety * _clip(ratio, 1.0, None) ** (-1 / self.order), SHRINK, 1.0)


def _clip(value: Any, low: float | None, high: float | None) -> Any:
    most, least = (np.maximum, np.minimum) if isinstance(value, np.ndarray) else (max, min)
    value = value if low is None else most(value, low)
    return value if high is None else least(value, high)


def first_step(
    law: Law,
    at: tuple[Tensor, Tensor, Tensor],
    length: Tensor,
    order: int,
    scale: Tensor,
    norm: Callable[[Tensor], Tensor],
) -> Tensor:
    """Hairer's estimate of the first step, at the cost of one evaluation besides the slope at the start.

    Args:
        law: the right-hand side.
        at: time, 0-d or ``(batch,)``; state and slope there, ``(batch, *state)``.
        length: signed length of the interval, like the time.
        order: the power of ``dt`` in the error estimate.
        scale: tolerances, like the state.
        norm: of a state, like the time.

    Returns:
        a positive length, float64, shaped like the time.

    Source: Hairer, Norsett, Wanner 1993, II.4.
    """
    t, x, slope = at
    longest = length.abs()
    d0, d1 = (norm(v / scale).to(longest) for v in (x, slope))
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    h0 = torch.minimum(h0, longest)
    dt = h0 * length.sign()
    ahead = law(t + dt, x + per_sample(dt, x) * slope)
    d2 = norm((ahead - slope) / scale).to(longest) / h0
    steep = torch.maximum(d1, d2)
    h1 = torch.where(steep <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / steep) ** (1 / order))
    step = torch.minimum(torch.minimum(100 * h0, h1), longest)
    return torch.where(torch.isfinite(step) & (step > 0), step, 1e-6 * longest)
