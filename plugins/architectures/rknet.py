"""RKNet: Runge-Kutta steps as blocks, with trained or textbook coefficients."""

from __future__ import annotations

from typing import Any

from odeframe import InvalidOption
from odeframe.flow import Choice
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.staged import Staged

METHODS = {2: "heun", 3: "ssprk3", 4: "rk4"}


class RKNet(Staged):
    """``x_{k+1} = x_k + h sum_i b_i z_i``, ``z_i = f(x_k + h sum_{j<i} a_ij z_j, theta_k)``: Runge-Kutta steps.

    With textbook coefficients the order is ``order``; trained ones start there, and keep order 1 since ``sum b = 1``.
    With ``untied`` each stage has weights of its own, as in the paper, and then the order means nothing.

    Args:
        order: 2 (Heun), 3 (strong stability preserving) or 4 (the classical method); order 1 is ``resnet``.
        trainable: whether the coefficients are trained, a set for each block.
        untied: whether each stage of a step has a block of its own.
        width, blocks, stages, step: as for ``resnet``.

    A word for the solver replaces the first three.

    Source: Zhu, Chang, Fu 2018, Convolutional Neural Networks combined with Runge-Kutta Methods (1802.08831).
    """

    name = "rknet"

    def __init__(
        self,
        order: int = 2,
        trainable: bool = True,
        untied: bool = False,
        width: int = 16,
        blocks: int = 2,
        stages: int | None = None,
        step: float = 1.0,
    ) -> None:
        super().__init__(width, blocks, stages, step)
        if order not in METHODS:
            hint = "; of order 1 is architecture 'resnet'" if order == 1 else ""
            raise InvalidOption(f"{self.named}: option order: got {order}, expected 2, 3 or 4{hint}")
        self.scheme: dict[str, Any] = {"name": METHODS[order]}
        if trainable or untied:
            self.scheme = {
                "name": "trained_runge_kutta",
                "method": METHODS[order],
                "trainable": trainable,
                "untied": untied,
            }

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The Runge-Kutta method with these options."""
        return self.scheme if kind == "solver" else super().default(kind, spec)
