"""How the step length of an optimiser goes over a fit."""

from __future__ import annotations

import math

from odeframe.errors import InvalidOption

__all__ = ["SCHEDULES", "WARM_UP", "checked_schedule", "warm_cosine"]

SCHEDULES = ("cosine", "constant")

WARM_UP = 0.1
"""The share of a fit over which the cosine schedule rises, before it falls."""


def warm_cosine(step: int, num_steps: float) -> float:
    """The factor of the step length in a fit's step, from 0: a linear rise, then half a cosine.

    ``(n + 1) / w`` for ``n < w``, then ``(1 + cos(pi (n - w) / (N - w))) / 2``, for ``N`` steps of which the first
    ``w = 0.1 N`` (at least one) rise.  A fit without a last step (``N`` infinite) has the factor 1.

    Source: Loshchilov, Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts; Goyal et al. 2017, Accurate,
    Large Minibatch SGD (the rise).
    """
    if math.isinf(num_steps):
        return 1.0
    rise = max(1, math.ceil(WARM_UP * num_steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, num_steps - rise))))


def checked_schedule(name: str) -> str:
    """The name of a schedule.

    Raises:
        InvalidOption: there is none of that name.
    """
    if name not in SCHEDULES:
        raise InvalidOption(f"schedule: got {name!r}, expected {' or '.join(map(repr, SCHEDULES))}")
    return name
