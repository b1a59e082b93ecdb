"""Pontryagin's conditions watched while a network is trained, by whatever rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from odeframe import plots_pontryagin
from odeframe.errors import Incompatible, InvalidOption
from odeframe.module import FlowModule
from odeframe.plots import save
from odeframe.pontryagin import (
    Sweep,
    check_repeatable,
    costate_norms,
    hamiltonians,
    of_batch,
    residuals,
    sweep,
)
from odeframe.reduction import average

__all__ = ["PontryaginMonitor"]


class PontryaginMonitor(Callback):
    """Logs how far a training batch is from Pontryagin's conditions, and draws them along depth at the end of a fit.

    Every ``every`` batches, of the batch that has just been trained on:

    - ``pmp_residual``: ``|dH/du|`` over the whole control, costs of the control included; 0 at a stationary point;
    - ``pmp_jump``: the largest jump of the Hamiltonian between two steps of one flow, which an optimal control that is
      free to jump at any time does not have;
    - ``pmp_costate_first``, ``pmp_costate_last``: root mean square of the costates at the input and the output: their
      ratio says whether gradients vanish or explode.

    From the command line: ``--trainer.callbacks=odeframe.monitor.PontryaginMonitor``.

    Args:
        every: batches between two measurements.
        picture: whether ``figures/pontryagin.png`` is written into the run's folder.

    Raises:
        InvalidOption: ``every`` is less than 1, or the model is no ``FlowModule`` (before a fit).
        Incompatible: the solver has no step maps, or a layer is not repeatable (before a fit).
    """

    def __init__(self, every: int = 10, picture: bool = True) -> None:
        if every < 1:
            raise InvalidOption(f"PontryaginMonitor: option every: got {every}, expected at least 1")
        self.every, self.picture = every, picture
        self.last: Sweep | None = None
        self._residuals: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what has no step maps, before a fit."""
        if stage != "fit":
            return
        if not isinstance(pl_module, FlowModule):
            raise InvalidOption(f"PontryaginMonitor: got a {type(pl_module).__name__}, expected an odeframe.FlowModule")
        try:
            check_repeatable([pl_module.network])
            for flow in pl_module.network.flows:
                flow.steps()
        except Incompatible as error:
            raise Incompatible(f"PontryaginMonitor: {error}") from error

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures."""
        module: Any = pl_module
        if (module.batches + 1) % self.every:
            return
        swept = sweep(*of_batch(module.network, module.task, batch))
        self.last, slopes = swept, _cost_slopes(module)
        self._residuals = [float(value) for value in residuals(swept, slopes)]
        ascent = [slope - slopes[p] if p in slopes else slope for p, slope in swept.ascent().items()]
        norm = math.sqrt(sum(float(slope.abs().square().sum()) for slope in average(ascent)))
        norms = costate_norms(swept)
        found = {
            "pmp_residual": norm,
            "pmp_jump": largest_jump(hamiltonians(swept)),
            "pmp_costate_first": float(norms[0]),
            "pmp_costate_last": float(norms[-1]),
        }
        size = swept.states[0][0].shape[0]
        module.log_dict(found, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the last measurement, on rank 0."""
        if self.picture and self.last is not None and trainer.is_global_zero:
            values = {k: float(H) for k, H in hamiltonians(self.last).items()}
            norms = [float(value) for value in costate_norms(self.last)]
            folder = Path(trainer.default_root_dir) / "figures"
            save(plots_pontryagin.along_depth(values, self._residuals, norms), folder / "pontryagin.png")
        self.last = None


def largest_jump(found: dict[int, Tensor]) -> float:
    """The largest difference between neighbouring steps, 0 where there are no two."""
    return max((abs(float(found[k + 1] - found[k])) for k in found if k + 1 in found), default=0.0)


def _cost_slopes(module: Any) -> dict[Any, Tensor]:
    """``dR/du`` by parameter, where the control has a cost."""
    with torch.enable_grad():
        cost = module.control_cost()
    parameters = [p for p in module.network.parameters() if p.requires_grad]
    if not cost.requires_grad:
        return {}
    found = torch.autograd.grad(cost, parameters, allow_unused=True)
    return {p: slope for p, slope in zip(parameters, found, strict=True) if slope is not None}
