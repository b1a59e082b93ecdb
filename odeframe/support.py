"""What a rule of training supports of Lightning's options, held against them before a fit starts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

from odeframe.errors import Incompatible
from odeframe.gradient import Gradient

SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")
"""Strategies that cut parameters into shards: a rule that reads them outside the forward pass would see pieces."""


def check_support(
    name: str, automatic: bool, traits: Collection[str], trainer: Any, gradients: Iterable[Gradient] = ()
) -> None:
    """Refuses options of a Lightning ``Trainer`` that a control trainer does not support.

    Args:
        name: the control trainer, for the message.
        automatic: whether Lightning differentiates and steps; it then accumulates, clips and scales by itself.
        traits: what the control trainer says of itself; ``ddp``, ``mixed_precision`` and ``sharded`` count.
        trainer: the Lightning trainer.
        gradients: of the flows; those that evaluate the field again in the backward pass bind parameters themselves.

    Raises:
        Incompatible: names the option, and what to write instead.
    """
    started = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if started > 1 and trainer.world_size == 1:  # each would train all of it, and write over what the others write
        raise Incompatible(
            f"torchrun has started {started} processes, and each would train alone: write trainer.devices: {started} "
            "(that of one node) and trainer.strategy: ddp, or start one process"
        )
    if type(trainer.strategy).__name__ in SHARDED:
        whole = [type(each).__name__ for each in gradients if "sharded" not in each.traits]
        if "sharded" not in traits or whole:
            what = name if "sharded" not in traits else f"gradient {whole[0]}"
            raise Incompatible(f"{what} does not train shards of parameters: write trainer.strategy: ddp")
    if automatic:
        return
    if trainer.world_size > 1 and "ddp" not in traits:
        raise Incompatible(
            f"{name} trains on one process, got {trainer.world_size}: write trainer.devices: 1; a rule that reduces "
            "its gradients by odeframe.reduction says so by the trait 'ddp'"
        )
    if trainer.accumulate_grad_batches != 1:
        raise Incompatible(
            f"{name} makes one step of every batch and accumulates none: got trainer.accumulate_grad_batches: "
            f"{trainer.accumulate_grad_batches}; write 1, and a larger data.batch_size"
        )
    if trainer.gradient_clip_val:
        raise Incompatible(
            f"{name} steps without Lightning's clipping: got trainer.gradient_clip_val: {trainer.gradient_clip_val}; "
            "leave it out"
        )
    if "mixed" in str(trainer.precision) and "mixed_precision" not in traits:
        raise Incompatible(
            f"{name} differentiates by itself, outside Lightning's scaling of gradients: got trainer.precision: "
            f"{trainer.precision}; write 32-true, 64-true or bf16-true"
        )
