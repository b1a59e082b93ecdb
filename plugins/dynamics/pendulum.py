"""The swing-up of a pendulum."""

from __future__ import annotations

import torch
from torch import Tensor

from odeframe.options import check_not_negative
from odeframe.system import ControlSystem


class PendulumSwingUp(ControlSystem):
    """``angle'' = gravity sin(angle) - damping angle' + u``: from hanging, ``angle = pi``, to rest upright, 0.

    ``L = effort u^2 / 2``, ``Phi = weight (1 - cos(angle) + speed^2 / 2)``; ``x = (angle, speed)``.  There is no closed
    form; the residual of Pontryagin's principle tells how far a control is from a stationary one.

    Args:
        gravity: ``g / l`` in units of time^-2.
        damping: of the joint.
        effort: weight of the input's square.
        weight: of the terminal cost.
        horizon: ``T``.

    Source: Astrom, Furuta 2000, Swinging Up a Pendulum by Energy Control (the system).
    """

    state_names = ("angle", "speed")
    state_shape = (2,)

    def __init__(
        self,
        gravity: float = 1.0,
        damping: float = 0.1,
        effort: float = 0.1,
        weight: float = 10.0,
        horizon: float = 5.0,
    ) -> None:
        super().__init__(1, horizon)
        check_not_negative(
            "dynamics 'pendulum_swing_up'", gravity=gravity, damping=damping, effort=effort, weight=weight
        )
        self.gravity, self.damping, self.effort, self.weight = gravity, damping, effort, weight

    def velocity(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``(speed, gravity sin(angle) - damping speed + u)``."""
        angle, speed = x[:, :1], x[:, 1:]
        return torch.cat([speed, self.gravity * torch.sin(angle) - self.damping * speed + u], dim=1)

    def lagrangian(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``effort u^2 / 2``."""
        return 0.5 * self.effort * u.square().sum(1)

    def terminal_cost(self, x: Tensor) -> Tensor:
        """``weight (1 - cos(angle) + speed^2 / 2)``."""
        return self.weight * (1 - torch.cos(x[:, 0]) + 0.5 * x[:, 1].square())
