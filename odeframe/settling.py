"""How a fit's ranks agree: on failures, before any weight changes, and on the loss of the batch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor
from torchmetrics import Metric

from odeframe.agreement import BACKWARD, Deferred, Message, Share, at_least_one, check_finite_loss, together
from odeframe.errors import InvalidOption

__all__ = ["SettlesFailures", "SharedMean", "replicated"]


class SharedMean(Metric):
    """The mean by weight of numbers that are the same on every rank, in their own precision and without a message."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, number: Tensor, weight: float) -> None:
        """Takes a number."""
        self.total = self.total + weight * number
        self.weight = self.weight + weight

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.weight


def replicated(trainer: pl.Trainer) -> bool:
    """Whether every rank holds the whole model and torch averages its gradients (DDP)."""
    strategy = trainer.strategy
    return isinstance(strategy, DDPStrategy) and not isinstance(strategy, DeepSpeedStrategy)


class SettlesFailures(pl.LightningModule):
    """A Lightning module whose ranks agree on failures before any of them changes a weight.

    Where Lightning makes the backward pass and ranks hold copies, they agree once a batch and learn of it behind that
    pass: a rank that has failed brings a gradient of zeros, for which the others wait.  The message travels while
    gradients are computed, but where a gradient is a solve that can fail too: there it is sent last.  A rule with
    automatic optimisation must therefore send no message of its own.  Elsewhere they agree behind the rule's step.

    Attributes:
        unsettled: the failures of an epoch of evaluation.
        train_loss: the loss over the epoch's samples of all ranks.
    """

    rule: Any
    task: Any
    network: Any

    def __init__(self) -> None:
        super().__init__()
        self.unsettled, self.train_loss = Deferred(), SharedMean()
        self._share = Share()
        self._message: Message | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch, by the trainer's rule; a failed solve, or a loss that is no number, stops all ranks at once."""
        self.network.count()
        self._share = Share()
        if self._settles_behind():
            loss = BACKWARD.run(self._loss, batch)
            self._message = None if self._solves_backward() else BACKWARD.sent(self._share)
            return self._no_loss() if loss is None else loss
        with together(self._share):
            loss = self._loss(batch)
        if not self.automatic_optimization:
            self._log_loss()
        return loss

    def on_after_backward(self) -> None:
        """Stops all ranks where one has failed, before the optimiser sees the gradient."""
        if self._settles_behind():
            message, self._message = self._message or BACKWARD.sent(self._share), None
            message.settle()
        elif self._solves_backward():
            BACKWARD.settle()
        if self.automatic_optimization:
            self._log_loss()

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Stops all ranks behind the last batch where one has failed in any."""
        trainer = self.trainer
        sizes = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        if batch_idx + 1 == sizes[dataloader_idx]:
            self.unsettled.settle()

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Likewise."""
        if batch_idx + 1 == self.trainer.num_test_batches[dataloader_idx]:
            self.unsettled.settle()

    def _loss(self, batch: Any) -> Tensor:
        size = at_least_one(len(self.task.split(batch)[0]))
        loss: Tensor = self.rule.training_step(self, batch)
        if not isinstance(loss, Tensor) or loss.dim():
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InvalidOption(
                f"trainer {type(self.rule).__name__}: training_step gave {got}, expected the loss of the batch, 0-d"
            )
        check_finite_loss(loss)
        self._share.put(loss, size)
        return loss

    def _no_loss(self) -> Tensor:
        """Zero, with a gradient of zeros for every parameter."""
        return torch.stack([0.0 * p.sum() for p in self.parameters() if p.requires_grad]).sum()

    def _settles_behind(self) -> bool:
        alone = self._trainer is None  # in a loop of one's own
        return not alone and self.automatic_optimization and replicated(self.trainer)

    def _solves_backward(self) -> bool:
        return any("continuous" in flow.gradient.traits for flow in self.network.flows)

    def _log_loss(self) -> None:
        self.train_loss(self._share.number, self._share.weight)
        self.log("train_loss", self.train_loss, on_step=True, on_epoch=True, prog_bar=True)
