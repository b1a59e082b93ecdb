"""Attacks on an input within a ball around it, for any callable loss; and the share of samples that stand them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from odeframe.errors import DataError, Incompatible, InvalidOption
from odeframe.inference import without_graph
from odeframe.noise import Noise, StepNoise
from odeframe.specification import DataSpec
from odeframe.task import Task

Loss = Callable[[Tensor], Tensor]
"""A loss of an input ``(batch, *input)``, 0-d or ``(batch,)``, in which no sample depends on another."""
Clip = tuple[float, float] | str | None
"""``(low, high)`` of an attacked input, ``"data"`` for the range that the data states, ``None`` for no limits."""
STEPS_ACROSS = 2.5
"""How often the steps of a measuring attack add up to the radius (Madry et al. 2018): the border is in reach."""


@dataclass(frozen=True)
class Ball:
    """Where an attacked input ``x'`` may be: ``max |x' - x| <= radius``, and ``low <= x' <= high`` where limited.

    Attributes:
        radius: in the units of the input as the network gets it, 0 or more.
        limits: ``(low, high)``, the same units.

    Raises:
        InvalidOption: the radius is negative or not finite, or the limits are not in order.
    """

    radius: float
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise InvalidOption(
                f"option eps, the radius of an attack: got {self.radius}, expected a finite number >= 0"
            )
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise InvalidOption(f"option clip, limits of an attacked input: got {self.limits}, expected [low, high]")

    def project(self, x: Tensor, moved: Tensor) -> Tensor:
        """The point of the ball around ``x`` that is nearest to ``moved``, both ``(batch, *input)``."""
        low, high = x - self.radius, x + self.radius
        if self.limits is not None:
            # x itself stays in, where its own rounding has put it beside a limit.
            low, high = low.clamp(min=self.limits[0]).minimum(x), high.clamp(max=self.limits[1]).maximum(x)
        return moved.maximum(low).minimum(high)

    def draw(self, x: Tensor, noise: StepNoise) -> Tensor:
        """A uniform draw from the cube ``max |x' - x| <= radius``, projected to the limits."""
        uniform = noise.uniform(x, tuple(x.shape[1:]))
        return self.project(x, x + self.radius * (2 * uniform - 1))

    def check(self, x: object) -> Tensor:
        """The input itself, where an attack on it makes sense.

        Raises:
            DataError: it is no tensor of real numbers, or lies outside the limits.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DataError(f"an attack moves an input of real numbers, got {got}; give a floating tensor (batch, ...)")
        if self.limits is not None and x.numel():
            low, high = self.limits
            rounding = max(1e-5, 2 * torch.finfo(x.dtype).eps)  # of the data to the precision of the network
            margin = rounding * max(high - low, abs(low), abs(high))
            least, most = float(x.min()), float(x.max())
            if least < low - margin or most > high + margin:
                raise DataError(
                    f"inputs go from {least:.4g} to {most:.4g}, outside the limits clip: [{low:.4g}, {high:.4g}] of an "
                    "attack; write the range that inputs have as the network gets them, or clip: null for none"
                )
        return x


def ball(eps: float, clip: Clip, spec: DataSpec | None = None) -> Ball:
    """The ball of an option ``eps`` and an option ``clip``, with the range that the data states for ``"data"``.

    Without a specification it only checks the options, and ``"data"`` sets no limits.

    Raises:
        InvalidOption: an option is outside its range.
    """
    if isinstance(clip, str):
        if clip != "data":
            raise InvalidOption(f'option clip: got {clip!r}, expected [low, high], "data" or null')
        return Ball(eps, None if spec is None else spec.input_range)
    return Ball(eps, None if clip is None else (clip[0], clip[1]))


def slope(loss: Loss, x: Tensor) -> Tensor:
    """``d loss / dx``, ``(batch, *input)``, of the sum over the samples; no gradient goes anywhere else."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return gradient


def pgd(loss: Loss, x: Tensor, within: Ball, steps: int, step_size: float, start: Tensor | None = None) -> Tensor:
    """Projected ascent by signs, ``x' <- P(x' + s sign(dloss/dx'))``: the input where it ends, ``(batch, *input)``.

    Args:
        loss: what is to grow.
        x: the centre of the ball, ``(batch, *input)``.
        within: the ball that ``P`` projects to.
        steps: how many; one gradient each.
        step_size: ``s``, in the units of the input.
        start: the first ``x'``; ``x`` by default, where a loss with a minimum at ``x`` has no slope.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu 2018, Towards Deep Learning Models Resistant to Adversarial
    Attacks, section 2.1.
    """
    moved = (x if start is None else start).detach()
    for _ in range(steps):
        moved = within.project(x, moved + step_size * slope(loss, moved).sign())
    return moved


def fgsm(loss: Loss, x: Tensor, within: Ball) -> Tensor:
    """One step by signs from ``x`` to the border, ``P(x + radius sign(dloss/dx))``.

    Source: Goodfellow, Shlens, Szegedy 2015, Explaining and Harnessing Adversarial Examples, section 4.
    """
    return pgd(loss, x, within, 1, within.radius)


def check_attacks(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of attacks as a tuple.

    Raises:
        InvalidOption: one is neither ``fgsm`` nor ``pgd`` with its number of steps.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if re.fullmatch(r"fgsm|pgd[1-9]\d*", str(name)) is None:
            raise InvalidOption(
                f"attack: got {name!r}, expected 'fgsm', or 'pgd' and its number of steps as in 'pgd20'"
            )
    return given


def attack(name: str, loss: Loss, x: Tensor, within: Ball, noise: StepNoise) -> Tensor:
    """The attacked input of a named attack: ``fgsm``, or ``pgdK`` in ``K`` steps of ``2.5 radius / K``.

    ``pgdK`` starts at a uniform draw from the ball.
    """
    if check_attacks(name) == ("fgsm",):
        return fgsm(loss, x, within)
    steps = int(name.removeprefix("pgd"))
    return pgd(loss, x, within, steps, STEPS_ACROSS * within.radius / steps, within.draw(x, noise))


def check_classes(who: str, task: Task, spec: DataSpec) -> None:
    """Refuses a task whose output is not one score a class.

    Raises:
        Incompatible: names what asked, the task and the data.
    """
    if spec.target != "class" or task.output_shape(spec) != (spec.num_classes,):
        raise Incompatible(
            f"{who} needs the scores of classes, and task {type(task).__name__} on data {spec.name!r} (target "
            f"{spec.target!r}) has none; write task: classification with data of classes, or leave it out"
        )


def robust_accuracy(
    network: nn.Module,
    task: Task,
    x: Tensor,
    target: Tensor,
    within: Ball,
    attacks: Sequence[str],
    noise: StepNoise | None = None,
) -> dict[str, Tensor]:
    """The share of samples that keep their label under each attack on the task's cost, by its name, 0-d.

    Works in Lightning's inference mode, and leaves no gradient.  The network should be in evaluation mode.

    Args:
        network: from ``(batch, *input)`` to scores ``(batch, classes)``.
        task: its cost is what the attacks raise.
        x: ``(batch, *input)``.
        target: labels ``(batch,)``.
        within: the ball.
        attacks: names, ``"fgsm"`` or ``"pgd20"``.
        noise: where ``pgd`` starts; the same draw for every batch by default.
    """
    noise = Noise(0).on(0) if noise is None else noise
    found = {}
    with without_graph((within.check(x), target)) as (clean, label):
        for name in attacks:
            moved = attack(name, lambda v: task.cost(network(v), label), clean, within, noise)
            found[name] = (network(moved).argmax(1) == label).to(clean.dtype).mean()
    return found
