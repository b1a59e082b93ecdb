"""Replicas that drift apart are stopped: plugins and parameters of all ranks are compared while a fit runs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from odeframe import plugins
from odeframe.agreement import missing_ranks, several
from odeframe.errors import InvalidOption, OdeframeError
from odeframe.settling import replicated

__all__ = ["ReplicaGuard", "checksum"]

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element, the integers in which its bits are read."""

SPREAD = -7046029254386353131
"""An odd factor with bits all over, ``2^64`` over the golden ratio: it moves a number's low bits into its high ones."""


class ReplicaGuard(Callback):
    """Stops every rank of a fit where their plugins or their parameters differ.

    Plugins, and the names and shapes of parameters, are compared before the model is distributed; values at the start,
    at the end of every epoch, and every few batches where asked. On one process it does nothing. Values are compared
    where ranks hold whole copies (DDP), not where they hold shards. It stands before callbacks that reduce metrics on
    rank 0 alone, a progress bar for one, since all ranks must come to a comparison in the same order.  Where a message
    between ranks never comes, it adds to the error which of them do not answer.

    Args:
        every_n_batches: compare after so many batches too; by default at the end of epochs alone.

    Raises:
        InvalidOption: ``every_n_batches`` is no positive number.
        OdeframeError: on all ranks, with both lists of plugins, or the first parameter that differs.
    """

    def __init__(self, every_n_batches: int | None = None) -> None:
        if every_n_batches is not None and every_n_batches < 1:
            raise InvalidOption(f"ReplicaGuard: option every_n_batches: got {every_n_batches}, expected at least 1")
        self.every_n_batches = every_n_batches

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compares what is installed, and what the model is, before ranks are joined."""
        if stage == "fit" and several():
            compare_plugins()
            compare_shapes(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the first values, once the strategy has made them equal."""
        self._compare(trainer, pl_module, "before the first batch")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compares after every few batches where asked."""
        if self.every_n_batches is not None and (batch_idx + 1) % self.every_n_batches == 0:
            self._compare(trainer, pl_module, f"after batch {batch_idx + 1} of epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares at the end of every epoch."""
        self._compare(trainer, pl_module, f"after epoch {trainer.current_epoch + 1}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Has the error of a message that never came say which ranks do not answer."""
        missing = missing_ranks(exception)
        if missing:
            names = ", ".join(map(str, missing))
            exception.add_note(
                f"rank {names} of {dist.get_world_size()} does not answer: it was killed, its machine is gone, or it "
                "hangs; go on from the last checkpoint by odeframe fit --resume auto"
            )

    @staticmethod
    def _compare(trainer: pl.Trainer, module: nn.Module, when: str) -> None:
        if several() and replicated(trainer):
            compare_values(module, when)


def compare_plugins() -> None:
    """Raises ``OdeframeError`` on all ranks where one has other plugins than rank 0."""
    mine = sorted(f"{each.package} {each.version} {each.status}" for each in plugins.loaded())
    for rank, theirs in enumerate(lists := _gathered(mine)):
        if theirs != lists[0]:
            raise OdeframeError(
                f"the plugins of rank 0 and rank {rank} differ. Rank 0: {', '.join(lists[0])}. Rank {rank}: "
                f"{', '.join(theirs)}. Install the same versions on all machines, and set ODEFRAME_PLUGINS and "
                "ODEFRAME_BLOCK_PLUGINS alike"
            )


def compare_shapes(module: nn.Module) -> None:
    """Raises ``OdeframeError`` on all ranks where one has parameters of other names or shapes than rank 0."""
    mine = [f"{name} {tuple(parameter.shape)}" for name, parameter in module.named_parameters()]
    for rank, theirs in enumerate(lists := _gathered(mine)):
        if theirs == lists[0]:
            continue
        length = min(len(theirs), len(lists[0]))
        at = next((index for index in range(length) if theirs[index] != lists[0][index]), length)
        first, other = (each[at] if at < len(each) else "none" for each in (lists[0], theirs))
        raise OdeframeError(
            f"the models of rank 0 and rank {rank} differ: parameter {at} is {first} on rank 0, {other} on rank "
            f"{rank}; give all ranks the same configuration"
        )


def compare_values(module: nn.Module, when: str) -> None:
    """Raises ``OdeframeError`` on all ranks where a parameter's bits differ from those on rank 0."""
    named = list(module.named_parameters())
    if not named:
        return
    mine = torch.stack([checksum(parameter) for _, parameter in named])
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    for rank, theirs in enumerate(every):
        bad = (theirs != every[0]).nonzero().flatten().tolist()
        if bad:
            raise OdeframeError(
                f"{when} the parameter {named[bad[0]][0]} differs between rank 0 and rank {rank}, with {len(bad)} of "
                f"{len(named)} in all: a gradient was not averaged over the ranks. What sets gradients or weights by "
                "itself goes through odeframe.reduction; in manual optimisation it is self.manual_backward(loss), not "
                "loss.backward()"
            )


def checksum(parameter: Tensor) -> Tensor:
    """A number made of all bits of a tensor and of their places, 0-d int64; exact, on the tensor's device.

    ``sum_i (2 i + 1) m(b_i)`` modulo ``2^64`` with the bits ``b_i`` of each element as a whole number, and a one-to-one
    ``m`` that spreads them: so a change of one element always shows, and flipped signs do not cancel in pairs.
    """
    values = parameter.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    bits = values.contiguous().view(INTEGERS[values.element_size()]).reshape(-1).to(torch.int64, copy=True)
    for _ in range(2):
        bits *= SPREAD
        bits ^= (bits >> 32).bitwise_and_(0xFFFFFFFF)
    odd_places = torch.arange(1, 2 * bits.numel() + 1, 2, device=bits.device, dtype=torch.int64)
    return bits.mul_(odd_places).sum() * SPREAD


def _gathered(mine: list[str]) -> list[list[str]]:
    """Everyone's list, by rank."""
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    return every
