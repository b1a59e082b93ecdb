"""The curvature ``Q_uu`` that a torch optimiser stands for: its step length, and the diagonal that it divides by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from odeframe import InvalidOption

Group = Mapping[str, Any]


def inverse_curvature(optimizer: Optimizer) -> Callable[[Tensor, Tensor], Tensor]:
    """``(u, g) -> Q_uu^{-1} g``: how far the optimiser's next step would move ``u`` against a gradient ``g``.

    ``SGD``: ``lr g``.  ``RMSprop``, ``Adam``, ``AdamW``: ``lr g / (sqrt(v) + eps)`` with the average ``v`` of squared
    gradients that the step is going to have.  Momentum and weight decay are no curvature and are left out.

    Args:
        optimizer: its state is read and not changed.

    Raises:
        InvalidOption: an optimiser of another kind.
    """
    kinds: dict[type, Callable[[Group, Group, Tensor], Tensor]] = {
        torch.optim.SGD: _identity,
        torch.optim.RMSprop: _rmsprop,
        torch.optim.Adam: _adam,
        torch.optim.AdamW: _adam,
    }
    if type(optimizer) not in kinds:
        raise InvalidOption(
            f"trainer 'ddp_feedback' reads the curvature off the optimiser, and knows that of "
            f"{', '.join(kind.__name__ for kind in kinds)}; got {type(optimizer).__name__}; write optimizer: SGD"
        )
    solve = kinds[type(optimizer)]
    groups = {id(u): group for group in optimizer.param_groups for u in group["params"]}
    return lambda u, g: solve(groups[id(u)], optimizer.state.get(u, {}), g)


def _identity(group: Group, state: Group, g: Tensor) -> Tensor:
    return group["lr"] * g


def _rmsprop(group: Group, state: Group, g: Tensor) -> Tensor:
    alpha = group["alpha"]
    v = alpha * state.get("square_avg", torch.zeros_like(g)) + (1 - alpha) * g.square()
    return group["lr"] * g / (v.sqrt() + group["eps"])


def _adam(group: Group, state: Group, g: Tensor) -> Tensor:
    beta = group["betas"][1]
    v = beta * state.get("exp_avg_sq", torch.zeros_like(g)) + (1 - beta) * g.square()
    unbiased = v / (1 - beta ** (float(state.get("step", 0)) + 1))
    return group["lr"] * g / (unbiased.sqrt() + group["eps"])
