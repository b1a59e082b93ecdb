"""Multi-level training: a shallow network first, then the same control on ever finer steps."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from odeframe.errors import CheckpointError, Incompatible, InvalidOption
from odeframe.module import FlowModule
from odeframe.solver import StepSolver

__all__ = ["Refine"]


class Refine(Callback):
    """Splits every piece of the control and every step into ``factor`` equal ones, before the epochs that are named.

    Each new block is a copy of the one it was a part of, buffers included, and the step ``h / factor``: the control is
    the same function of depth, so that the loss changes by ``O(h)`` alone.  The optimiser is built anew, its step
    length starts its schedule anew (``schedule: cosine`` runs once over each cycle), and training goes on.  With the
    same number of epochs at a quarter of the depth, half of it and all of it, a fit takes
    ``(1/4 + 1/2 + 1) / 3 = 58 %`` of the layer evaluations of one that is deep from the start; they are counted in
    :attr:`evaluations` and logged as ``layer_evaluations``.

    Checkpoints of a refined fit say how often it was refined: they load, and a fit goes on from them with the same
    callback.

    Args:
        after: numbers of epochs, increasing, after each of which the control is refined; or one number.
        factor: into how many parts.

    Example:
        >>> from odeframe.refine import Refine
        >>> callbacks = [Refine(after=[5, 10])]  # run.fit(max_epochs=15, callbacks=callbacks)

    On the command line ``--trainer.callbacks=odeframe.refine.Refine --trainer.callbacks.after=[5,10]``.

    Raises:
        InvalidOption: an option is wrong, a control has no pieces, a solver has a fixed ``dt``, or the fit ends before
            its last refinement.
        Incompatible: the fit has several processes, or its rule remembers the parameters one by one.

    Source: Chang, Meng, Haber, Tung, Begert 2018, Multi-level Residual Networks from Dynamical Systems View, section 4;
    Haber, Ruthotto, Holtham, Jun 2018, Learning Across Scales.
    """

    def __init__(self, after: int | Sequence[int], factor: int = 2) -> None:
        epochs = tuple(after) if isinstance(after, Sequence) else (after,)
        whole = all(isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0 for epoch in epochs)
        if not (epochs and whole and list(epochs) == sorted(set(epochs))):
            raise InvalidOption(f"Refine: option after: got {after!r}, expected increasing numbers of epochs from 1 on")
        if not isinstance(factor, int) or factor < 2:
            raise InvalidOption(f"Refine: option factor: got {factor!r}, expected a whole number of at least 2")
        self.after, self.factor = epochs, factor
        self.done = 0
        #: layer evaluations of the fit so far: calls of a block, over all batches
        self.evaluations = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses, before the fit, what could not be refined in the middle of it."""
        if stage != "fit":
            return
        self.done = self.evaluations = 0  # a checkpoint's follow
        if not isinstance(pl_module, FlowModule):
            raise InvalidOption(f"Refine: got a {type(pl_module).__name__}, expected an odeframe.FlowModule")
        if trainer.world_size > 1:
            raise Incompatible(
                "Refine: parameters that are new in the middle of a fit are not known to the other processes: got "
                f"{trainer.world_size} of them; write trainer.devices: 1"
            )
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= self.after[-1]:
            raise InvalidOption(
                f"Refine: the fit ends after {trainer.max_epochs} epochs, and the last refinement is after "
                f"{self.after[-1]}; write a larger trainer.max_epochs"
            )
        for flow in pl_module.network.flows:
            if isinstance(flow.solver, StepSolver) and flow.solver.dt is not None:
                raise InvalidOption(
                    f"Refine: the solver has steps of the fixed length dt={flow.solver.dt}; write steps in its place"
                )
            copy.deepcopy(flow.control).refine(1)  # raises where there are no pieces

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses a rule whose memory is of parameters that are to be replaced."""
        assert isinstance(pl_module, FlowModule)
        if pl_module.rule.state_dict() and "refinable" not in pl_module.rule.traits:
            raise Incompatible(
                f"Refine: the trainer {type(pl_module.rule).__name__} remembers the parameters one by one, and they "
                "are replaced; write trainer: gradient"
            )
        last = self.after[-1] * self._an_epoch(trainer)
        if trainer.estimated_stepping_batches <= last:  # no error: a fit may be stopped, and gone on with later
            warnings.warn(
                f"Refine: the fit ends after {trainer.estimated_stepping_batches} steps, and the last refinement is "
                f"after {last}: the network stays coarser than asked for; write a larger trainer.max_steps",
                stacklevel=2,
            )
        self._start_cycle(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refines where it is due."""
        assert isinstance(pl_module, FlowModule)
        due = sum(end <= trainer.current_epoch for end in self.after)
        if due == self.done:
            return
        pl_module.refine(self.factor ** (due - self.done))
        pl_module.setup("fit")  # the rule may have looked at the parameters
        self.done = due
        trainer.strategy.setup_optimizers(trainer)
        self._start_cycle(trainer, pl_module)

    def _start_cycle(self, trainer: pl.Trainer, pl_module: FlowModule) -> None:
        """Tells the schedule the steps between which it runs."""
        ends = [0, *(end * self._an_epoch(trainer) for end in self.after), trainer.estimated_stepping_batches]
        pl_module.cycle = (int(ends[self.done]), float(ends[self.done + 1]))

    @staticmethod
    def _an_epoch(trainer: pl.Trainer) -> int:
        return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the layers that were evaluated."""
        assert isinstance(pl_module, FlowModule)
        self.evaluations += pl_module.network.counted().nfe

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the count."""
        pl_module.log("layer_evaluations", float(self.evaluations))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A later fit of the same module runs its schedule over all of it."""
        assert isinstance(pl_module, FlowModule)
        pl_module.cycle = None

    def state_dict(self) -> dict[str, Any]:
        """What was done, for checkpoints."""
        return {"after": list(self.after), "factor": self.factor, "done": self.done, "evaluations": self.evaluations}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from there.

        Raises:
            CheckpointError: the checkpoint was refined at other epochs or by another factor.
        """
        done, before = state_dict["done"], (state_dict["factor"], tuple(state_dict["after"]))
        if (done and before[0] != self.factor) or before[1][:done] != self.after[:done]:
            raise CheckpointError(
                f"Refine: the checkpoint was refined by {before[0]} after the epochs {list(before[1][:done])}, got "
                f"factor={self.factor}, after={list(self.after)}; write what it had"
            )
        self.done, self.evaluations = done, state_dict["evaluations"]
