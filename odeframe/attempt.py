"""One step that an adaptive solver tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeframe.field import Law
from odeframe.solver import Memory


@dataclass
class Attempt:
    """One step that was tried.

    Attributes:
        x: the new state.
        error: the estimate of its error.
        memory: what the next step reuses.
        stages: what interpolation needs.
        second_error: another estimate, for schemes whose norm combines two.
        law: the right-hand side, for interpolation that evaluates it.
        t: where the step began.
    """

    x: Tensor
    error: Tensor
    memory: Memory
    stages: Any
    second_error: Tensor | None = None
    law: Law | None = None
    t: Tensor | None = None


def tried(
    stepper: Any,
    law: Law,
    norm: Callable[[Tensor], Tensor],
    t: Tensor,
    dt: Any,
    x: Tensor,
    memory: Memory,
    tolerances: tuple[float, float],
) -> tuple[Tensor, Tensor, Memory, Any, Tensor | None, Tensor, Tensor]:
    """A step, the scale of its error and the ratio of the two: what ``compile`` compiles."""
    attempt = stepper.attempt(law, t, dt, x, memory)
    with torch.no_grad():
        scale = torch.maximum(x.abs(), attempt.x.abs()) * tolerances[0] + tolerances[1]
        ratio = stepper.ratio(norm, attempt, scale)
    return attempt.x, attempt.error, attempt.memory, attempt.stages, attempt.second_error, scale, ratio
