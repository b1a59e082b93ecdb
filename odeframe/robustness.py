"""A callback that measures how many samples of a validation or test set keep their label under attack."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from odeframe.attacks import Clip, ball, check_attacks, check_classes, robust_accuracy
from odeframe.errors import InvalidOption
from odeframe.module import FlowModule
from odeframe.noise import Noise, sample_numbers

__all__ = ["RobustAccuracy"]


class RobustAccuracy(Callback):
    """Logs ``<stage>_accuracy_<attack>_<eps>``, e.g. ``test_accuracy_pgd20_0.5``, whatever rule trained the model.

    Args:
        eps: radius of the attack, in the units of the input as the network gets it.
        attacks: names, ``fgsm`` or ``pgd`` with its number of steps.
        clip: limits ``(low, high)`` of an attacked input, the same units; ``"data"``: those that the data states;
            ``None``: none.
        seed: of the starts.

    Raises:
        InvalidOption: an option is outside its range, or the model is no ``FlowModule``.
        Incompatible: the model's output is not one score a class (before a fit or a test).
    """

    def __init__(
        self,
        eps: float = 0.5,
        attacks: str | tuple[str, ...] = ("pgd20",),
        clip: Clip = "data",
        seed: int = 0,
    ) -> None:
        self.attacks = check_attacks(attacks)
        ball(eps, clip)  # refuses what is outside its range
        self.eps, self.clip, self.seed = eps, clip, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what it cannot measure."""
        if not isinstance(pl_module, FlowModule):
            raise InvalidOption(f"RobustAccuracy: got a {type(pl_module).__name__}, expected an odeframe.FlowModule")
        check_classes("callback RobustAccuracy", pl_module.task, pl_module.spec)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Measures a validation batch."""
        self._measure("val", pl_module, batch, batch_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Measures a test batch."""
        self._measure("test", pl_module, batch, batch_idx)

    def _measure(self, stage: str, module: Any, batch: Any, batch_idx: int) -> None:
        x, target = module.task.split(batch)
        within, noise = ball(self.eps, self.clip, module.spec), Noise(self.seed, sample_numbers(x)).on(batch_idx)
        found = robust_accuracy(module.network, module.task, x, target, within, self.attacks, noise)
        named = {f"{stage}_accuracy_{name}_{self.eps:g}": value for name, value in found.items()}
        module.log_dict(named, batch_size=x.shape[0], sync_dist=True)
