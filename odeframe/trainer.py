"""How a batch improves the control."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from odeframe.errors import CheckpointError
from odeframe.network import Network, Outcome
from odeframe.specification import DataSpec
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
    spec: DataSpec

    @property
    def batches(self) -> int:
        """Batches of the fit before this one, whether or not the optimiser has stepped; a resumed fit counts on."""

    def objective(self, batch: Any) -> Objective:
        """Loss, outputs and target of a batch."""

    def objective_at(self, x: Any, target: Any) -> Objective:
        """The same of an input and a target apart."""

    def control_cost(self) -> Tensor:
        """The part of the objective that the control alone makes, 0-d."""

    @property
    def current_epoch(self) -> int:
        """How many epochs of the fit are over."""

    def optimizers(self) -> Any:
        """Lightning's optimiser, whose steps it counts."""

    @property
    def log_dict(self) -> Callable[..., None]:
        """Lightning's log of named numbers."""


class ControlTrainer(ABC):
    """A rule that improves the control of a network by one batch, as a strategy inside the Lightning module.

    With ``automatic_optimization`` the rule returns a loss, and Lightning differentiates it and steps the optimiser;
    such a rule sends no message between ranks, since one that has failed is heard of behind the backward pass alone.
    Without it the rule sets gradients or parameters itself, and ends each batch with one :func:`optimizer_step`, so
    that Lightning's ``global_step`` counts batches.  Gradients that do not come from ``loss.backward()`` go through
    :func:`odeframe.reduction.reduce_gradients`, or the ranks drift apart in silence: a rule that takes this care says
    ``ddp`` among its traits, and only then may it train on several ranks.  One whose memory does not belong to single
    parameters says ``refinable``: they may be replaced in the middle of a fit (:class:`odeframe.refine.Refine`).
    """

    automatic_optimization: ClassVar[bool] = True
    traits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """Improves the control by one batch and returns the loss ``J``, 0-d."""

    def setup(self, module: Trained) -> None:  # noqa: B027  (nothing to refuse is the usual case)
        """Before a fit, on every rank: the place to refuse a network that the rule cannot train."""

    def evaluate(self, module: Trained, batch: Any) -> dict[str, Tensor]:
        """Further numbers of a validation or test batch, 0-d means over its samples, logged as ``<stage>_<name>``.

        Called in Lightning's inference mode: a rule that differentiates leaves it by ``torch.inference_mode(False)``.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the rule remembers from batch to batch, as tensors and plain data, for checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state_dict` gave.

        Raises:
            CheckpointError: the state is not one of this rule's.
        """
        if state:
            raise CheckpointError(
                f"trainer {type(self).__name__}: a checkpoint has a trainer's state ({', '.join(sorted(state))}), and "
                "this one keeps none; give the trainer that wrote it"
            )


def optimizer_step(module: Trained) -> None:
    """Lightning's one step of a batch without automatic optimisation: uses the gradients that are set, then drops them.

    A rule that sets parameters itself leaves the gradients at ``None``: nothing moves, and the batch is counted.
    """
    optimizer = module.optimizers()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
