"""How a batch improves the control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from odeframe.module import FlowModule


class ControlTrainer(ABC):
    """A rule that improves the control of a network by one batch, as a strategy inside the Lightning module.

    With ``automatic_optimization`` the rule returns a loss, and Lightning differentiates it and steps the optimiser.
    Without it the rule sets gradients or parameters itself: gradients that do not come from ``loss.backward()`` go
    through :func:`odeframe.reduction.reduce_gradients`, or the ranks drift apart in silence.
    """

    automatic_optimization: ClassVar[bool] = True
    traits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def training_step(self, module: FlowModule, batch: Any) -> Tensor:
        """Improves the control by one batch and returns the loss ``J``, 0-d."""
