"""TRADES: accuracy on clean inputs against agreement with attacked ones."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from odeframe.attacks import Ball, Clip, check_classes, pgd
from odeframe.noise import StepNoise
from odeframe.options import check_not_negative
from odeframe.trainer import Trained
from odeframe_plugins.trainers.adversarial import AdversarialTrainer, Passes, evaluating


class TradesTrainer(AdversarialTrainer):
    """``min_u J(x, y) + beta mean_i max_{x'} KL(softmax f(x) || softmax f(x'))``, the maximum by ``steps`` of ascent.

    ``x'_0`` uniform in ``B(x)``; the ascent runs in evaluation mode against the output at ``x``, held fixed; the loss
    differentiates both outputs.  A batch costs ``steps + 3`` full passes: the reference output (forward alone), the
    ascent, and the loss at ``x`` and at ``x'``.

    Args:
        beta: weight of the divergence, ``1 / lambda`` of the paper.
        steps: of ascent.
        eps: radius, in the units of the input.
        step_size: of the ascent, the same units; default ``eps / 4``.
        clip: as for every adversarial rule, and so are the next ones.
        seed: of the starts.
        robust: attacks to measure.

    Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan 2019, Theoretically Principled Trade-off between Robustness and
    Accuracy, equation 5 and algorithm 1.
    """

    conformance: ClassVar[dict[str, Any]] = {"share": 0.8}  # of the loss at clean samples, not all it minimises
    traits: ClassVar[tuple[str, ...]] = ("automatic", "ddp")

    def __init__(
        self,
        beta: float = 6.0,
        steps: int = 10,
        eps: float = 0.5,
        step_size: float | None = None,
        clip: Clip = "data",
        seed: int = 0,
        robust: str | tuple[str, ...] = (),
    ) -> None:
        super().__init__("trades", eps, eps / 4 if step_size is None else step_size, clip, seed, robust)
        self.at_least_one(steps=steps)
        self.beta, self.steps = check_beta(self.word, beta), steps

    def setup(self, module: Trained) -> None:
        """Refuses a task without scores of classes."""
        check_classes(self.word, module.task, module.spec)

    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """The loss, for Lightning to differentiate."""
        start = within.draw(x, noise)
        with evaluating(module.network):
            reference = reference_output(module, x)
            moved = pgd(
                lambda v: divergence(reference, module.network(v)), x, within, self.steps, self.step_size, start=start
            )
        passes.full += self.steps + 3
        return trades_loss(module, x, target, moved, self.beta)


def check_beta(who: str, beta: float) -> float:
    """The weight itself, where it is finite and not negative."""
    check_not_negative(who, beta=beta)
    return beta


def reference_output(module: Trained, x: Tensor) -> Tensor:
    """Scores ``(batch, classes)`` of the clean inputs, without a graph."""
    with torch.no_grad():
        output: Tensor = module.network(x)
    return output


def divergence(reference: Tensor, output: Tensor) -> Tensor:
    """``KL(softmax(reference) || softmax(output))`` in nats, ``(batch,)``, of scores ``(batch, classes)``."""
    clean, attacked = F.log_softmax(reference, dim=1), F.log_softmax(output, dim=1)
    return F.kl_div(attacked, clean, reduction="none", log_target=True).sum(1)


def trades_loss(module: Trained, x: Tensor, target: Any, moved: Tensor, beta: float) -> Tensor:
    """``J(x, y) + beta mean_i KL(softmax f(x) || softmax f(x'))``, 0-d."""
    found = module.objective_at(x, target)
    return found.loss + beta * divergence(found.outcome.output, module.network(moved)).mean()
