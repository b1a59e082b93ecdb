"""Adversarial training for free: one backward pass moves the input and the weights at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from odeframe import CheckpointError
from odeframe.attacks import Ball, Clip
from odeframe.noise import StepNoise, world_and_rank
from odeframe.reduction import reduce_gradients
from odeframe.trainer import Trained, optimizer_step
from odeframe_plugins.trainers.adversarial import AdversarialTrainer, Passes


class FreeTrainer(AdversarialTrainer):
    """Each batch ``m`` times: ``u <- u - lr dJ/du`` and ``eta <- P(eta + s sign dJ/dx)`` from one backward pass.

    ``eta``, 0 at first, goes on from batch to batch: sample ``k`` of a batch starts where sample ``k`` of the last one
    ended.  It is part of checkpoints, in the order of one process, so that any number of ranks may go on from it.  A
    batch costs ``m`` full passes and moves the weights ``m`` times, so a fit wants ``m`` times fewer epochs; Lightning
    counts it as one step, and the schedule of the step length goes by batches.

    Args:
        m: replays of a batch.
        eps: radius, in the units of the input.
        step_size: ``s``, the same units; default ``eps``.
        clip: as for every adversarial rule, and so are the next ones.
        seed: of attacks that measure; training draws nothing.
        robust: attacks to measure.

    Source: Shafahi et al. 2019, Adversarial Training for Free!, algorithm 1.
    """

    automatic_optimization = False
    traits: ClassVar[tuple[str, ...]] = ("ddp", "refinable")

    def __init__(
        self,
        m: int = 8,
        eps: float = 0.5,
        step_size: float | None = None,
        clip: Clip = "data",
        seed: int = 0,
        robust: str | tuple[str, ...] = (),
    ) -> None:
        super().__init__("free", eps, eps if step_size is None else step_size, clip, seed, robust)
        self.at_least_one(m=m)
        self.m = m
        self._eta: Tensor | None = None  # of this rank's samples
        self._restored: Tensor | None = None  # of all ranks' samples, until the first batch tells the device

    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """The mean of ``J`` over the replays; moves weights and ``eta``."""
        parameters = [parameter for parameter in module.network.parameters() if parameter.requires_grad]
        moved, losses = within.project(x, x + self._carried(x)), []
        for replay in range(self.m):
            moved.requires_grad_()
            loss = module.objective_at(moved, target).loss
            *gradients, slope = torch.autograd.grad(loss, [*parameters, moved], allow_unused=True)
            reduce_gradients(parameters, gradients)
            moved = within.project(x, moved.detach() + self.step_size * slope.sign())
            losses.append(loss.detach())
            if replay == self.m - 1:
                optimizer_step(module)
            else:
                _uncounted_step(module)
        passes.full += self.m
        self._carry(moved - x)
        return torch.stack(losses).mean()

    def _carried(self, x: Tensor) -> Tensor:
        """The perturbation that the samples of a batch start from, ``(batch, *input)``."""
        if self._restored is not None:
            world, rank = world_and_rank()
            self._eta, self._restored = self._restored[rank::world].to(x), None
        if self._eta is None or self._eta.shape[1:] != x.shape[1:]:
            self._eta = torch.zeros_like(x)
        missing = x.shape[0] - self._eta.shape[0]
        if missing > 0:
            self._eta = torch.cat([self._eta, x.new_zeros(missing, *x.shape[1:])])
        return self._eta[: x.shape[0]]

    def _carry(self, eta: Tensor) -> None:
        """Keeps what a batch left; a smaller last batch leaves the rest as it was."""
        assert self._eta is not None
        self._eta = torch.cat([eta, self._eta[eta.shape[0] :]])

    def state_dict(self) -> dict[str, Any]:
        """``eta`` of all ranks, in the order of one process; a checkpoint is made by all ranks together."""
        if self._restored is not None:
            return {"eta": self._restored}
        if self._eta is None:
            return {}
        world, _ = world_and_rank()
        if world == 1:
            return {"eta": self._eta}
        shares = [torch.empty_like(self._eta) for _ in range(world)]
        dist.all_gather(shares, self._eta.contiguous())
        return {"eta": torch.stack(shares, dim=1).flatten(0, 1)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes ``eta`` of a checkpoint.

        Raises:
            CheckpointError: the state is another rule's.
        """
        if set(state) - {"eta"}:
            raise CheckpointError(
                f"{self.word}: a checkpoint has the state {', '.join(sorted(state))} of another trainer; give that one"
            )
        self._eta, self._restored = None, state.get("eta")


def _uncounted_step(module: Trained) -> None:
    """A step of the optimiser beside Lightning's count: ``global_step`` means batches."""
    optimizer = module.optimizers().optimizer
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for flow in module.network.flows:
        flow.control.project()
