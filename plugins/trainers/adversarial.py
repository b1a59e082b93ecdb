"""What rules that train on attacked inputs share, and the plainest of them: projected gradient descent."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from odeframe import ControlTrainer, InvalidOption
from odeframe.attacks import Ball, Clip, ball, check_attacks, check_classes, pgd, robust_accuracy
from odeframe.noise import Noise, StepNoise, sample_numbers
from odeframe.trainer import Trained

MEASURING_STEP = -1
"""The step of the noise where robust accuracy is measured: no batch of training has it."""


@dataclass
class Passes:
    """What a batch cost: forward passes of the batch through all layers, and further ones through the first alone."""

    full: int = 0
    first_layer: int = 0


class AdversarialTrainer(ControlTrainer):
    """A rule of ``min_u E max_{x' in B(x)} J(x', y)``; a subclass says how ``x'`` is found and ``u`` improved.

    ``B(x)`` is ``max |x' - x| <= eps``, cut to the limits ``clip``.  Starts are drawn by (seed, sample, batch), so that
    ranks and resumed fits draw what one uninterrupted process would.

    Logs ``train_full_passes`` (forward passes of a batch through all layers; each has its backward pass, but for a
    reference output) and ``train_first_layer_passes`` (further ones through layer one alone), means over batches.

    Args:
        eps: radius of ``B``, in the units of the input as the network gets it (digits: of a standard deviation).
        step_size: of the ascent, the same units.
        clip: limits ``(low, high)`` of ``x'``, the same units; ``"data"``: those that the data states; ``None``: none.
        seed: of the starts.
        robust: attacks under which validation and test accuracy are measured too, e.g. ``("pgd20", "fgsm")``: logged as
            ``val_accuracy_pgd20``.

    Raises:
        InvalidOption: an option is outside its range.
    """

    def __init__(
        self, word: str, eps: float, step_size: float, clip: Clip, seed: int, robust: str | tuple[str, ...]
    ) -> None:
        self.word = f"trainer {word!r}"
        ball(eps, clip)  # refuses what is outside its range
        if not 0 <= step_size < math.inf or (step_size == 0 < eps):
            raise InvalidOption(f"{self.word}, option step_size: got {step_size}, expected a finite number > 0")
        self.eps, self.step_size, self.clip, self.seed = eps, step_size, clip, seed
        self.robust = check_attacks(robust)

    def at_least_one(self, **counts: int) -> None:
        """Raises ``InvalidOption`` where a count is below 1."""
        for name, count in counts.items():
            if count < 1:
                raise InvalidOption(f"{self.word}, option {name}: got {count}, expected at least 1")

    def setup(self, module: Trained) -> None:
        """Refuses to measure robust accuracy without classes."""
        if self.robust:
            check_classes(f"{self.word}, option robust,", module.task, module.spec)

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """Improves the control by one batch, or returns the loss for Lightning to do so; logs what it cost."""
        x, target = module.task.split(batch)
        within, passes = ball(self.eps, self.clip, module.spec), Passes()
        x = within.check(x)
        noise = Noise(self.seed, sample_numbers(x)).on(module.batches)
        loss = self.improve(module, x, target, within, noise, passes)
        counts = {"train_full_passes": passes.full, "train_first_layer_passes": passes.first_layer}
        module.log_dict(
            {name: float(count) for name, count in counts.items()},
            on_step=False,
            on_epoch=True,
            batch_size=x.shape[0],
            sync_dist=True,
        )
        return loss

    @abstractmethod
    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """The loss, 0-d, after what the rule does with a batch.

        Args:
            module: what is trained.
            x: ``(batch, *input)``.
            target: of the task.
            within: the ball ``B``.
            noise: the draws of this batch.
            passes: to be counted up.
        """

    def evaluate(self, module: Trained, batch: Any) -> dict[str, Tensor]:
        """Accuracy under the attacks ``robust``, by the names ``accuracy_<attack>``."""
        if not self.robust:
            return {}
        check_classes(f"{self.word}, option robust,", module.task, module.spec)
        x, target = module.task.split(batch)
        within, noise = ball(self.eps, self.clip, module.spec), Noise(self.seed, sample_numbers(x)).on(MEASURING_STEP)
        found = robust_accuracy(module.network, module.task, x, target, within, self.robust, noise)
        return {f"accuracy_{name}": value for name, value in found.items()}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: an attack draws no dropout masks and moves no running statistics."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class PGDTrainer(AdversarialTrainer):
    """``min_u J(x', y)`` at ``x'`` from ``steps`` projected steps of ascent by signs, the network in evaluation mode.

    ``x'_0`` uniform in ``B(x)``, ``x'_{j+1} = P_B(x'_j + s sign dJ/dx')``.  A batch costs ``steps + 1`` full passes.

    Args:
        steps: of ascent.
        eps: radius, in the units of the input.
        step_size: ``s``, the same units; default ``eps / 4``.
        clip: as for every adversarial rule, and so are the next ones.
        seed: of the starts.
        robust: attacks to measure.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, Towards Deep Learning Models Resistant to Adversarial
    Attacks, section 2.1.
    """

    traits: ClassVar[tuple[str, ...]] = ("automatic", "ddp")

    def __init__(
        self,
        steps: int = 10,
        eps: float = 0.5,
        step_size: float | None = None,
        clip: Clip = "data",
        seed: int = 0,
        robust: str | tuple[str, ...] = (),
    ) -> None:
        super().__init__("pgd", eps, eps / 4 if step_size is None else step_size, clip, seed, robust)
        self.at_least_one(steps=steps)
        self.steps = steps

    def improve(
        self, module: Trained, x: Tensor, target: Any, within: Ball, noise: StepNoise, passes: Passes
    ) -> Tensor:
        """``J`` at the attacked inputs, for Lightning to differentiate."""
        start = within.draw(x, noise)
        with evaluating(module.network):
            moved = pgd(
                lambda v: module.objective_at(v, target).loss, x, within, self.steps, self.step_size, start=start
            )
        passes.full += self.steps + 1
        return module.objective_at(moved, target).loss
