"""Gradient descent on the objective."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeframe import ControlTrainer
from odeframe.trainer import Trained


class GradientTrainer(ControlTrainer):
    """``u <- u - lr dJ/du`` by any torch optimiser, with the gradient that the flows have.

    Source: Robbins, Monro 1951, A Stochastic Approximation Method.
    """

    traits: ClassVar[tuple[str, ...]] = ("automatic", "ddp", "sharded")

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """The objective, for Lightning to differentiate."""
        return module.objective(batch).loss
