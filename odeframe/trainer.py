"""How a batch improves the control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from odeframe.network import Network, Outcome
from odeframe.task import Task


@dataclass
class Objective:
    """``J = mean_i [ Phi(x_i(T), y_i) + q_i(T) ]`` of a batch, and what it was computed from."""

    loss: Tensor
    outcome: Outcome
    target: Any


class Trained(Protocol):
    """What a rule sees of the Lightning module it trains; the rest of the module is there too."""

    network: Network
    task: Task

    def objective(self, batch: Any) -> Objective:
        """Loss, outputs and target of a batch."""


class ControlTrainer(ABC):
    """A rule that improves the control of a network by one batch, as a strategy inside the Lightning module.

    With ``automatic_optimization`` the rule returns a loss, and Lightning differentiates it and steps the optimiser.
    Without it the rule sets gradients or parameters itself: gradients that do not come from ``loss.backward()`` go
    through :func:`odeframe.reduction.reduce_gradients`, or the ranks drift apart in silence.
    """

    automatic_optimization: ClassVar[bool] = True
    traits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """Improves the control by one batch and returns the loss ``J``, 0-d."""
