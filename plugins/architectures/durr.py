"""DURR: images restored by one shared residual step, as often as a policy says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odeframe import Architecture, CheckpointError, InvalidOption, Network, build
from odeframe.flow import Choice
from odeframe.network import Outcome, Parts
from odeframe.specification import NetworkSpec
from odeframe.stopping import StoppingNetwork

WEIGHTS = Path(__file__).with_name("durr_noise.pt")
"""Trained weights with the options of their network; ``benchmarks/restoration.py --train`` makes them."""


class DURR(Architecture):
    """``X_{n+1} = X_n + h f(X_n; w)``: Euler's steps under one constant control, their number chosen by a policy.

    The state holds the image, folded into ``fold^2`` channels a pixel block, and memory channels that the stem makes of
    it.  The restoration unit ``f`` moves both; the image channels of any state are a restored image.  The policy unit
    looks at a state and says what going on is worth: the end time is part of the control (moving endpoint).

    Images have any size: those that ``fold`` does not divide are continued by reflection and cut again.

    Args:
        width: channels of the state, at least ``fold^2`` for each channel of an image.
        hidden: channels within the restoration unit.
        loops: the most loops, each an interval of length 1, after any of which the policy may stop.
        substeps: Euler's steps a loop.
        fold: side of the pixel blocks; 2 makes a step four times cheaper than 1.
        pretrained: takes the weights that come with the package: gray images, Gaussian noise of a level from 25 to 55
            of 255 that it is not told.

    Raises:
        CheckpointError: ``pretrained`` with shapes, words or options that the shipped weights do not have.

    Source: Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer: A Moving Endpoint Control Method for
    Image Restoration (arXiv 1805.07709).  The fold is Zhang, Zuo, Zhang 2018, FFDNet's; memory channels in place of
    convolutional recurrent units.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "input_shapes": ((1, 8, 8),),
        "output_shape": (1, 8, 8),
        "solvers": ("rk4",),
    }
    defaults: ClassVar[dict[str, Choice]] = {
        "dynamics": "conv_stack",
        "control": "constant",
        "solver": "euler",
        "trainer": "moving_endpoint",
    }

    def __init__(
        self,
        width: int = 48,
        hidden: int = 96,
        loops: int = 14,
        substeps: int = 1,
        fold: int = 2,
        pretrained: bool = False,
    ) -> None:
        for option, value in (("hidden", hidden), ("loops", loops), ("substeps", substeps), ("fold", fold)):
            if value < 1:
                raise InvalidOption(f"architecture 'durr': option {option}: got {value}, expected at least 1")
        if width < fold**2:
            raise InvalidOption(
                f"architecture 'durr': option width: got {width}, expected at least fold^2 = {fold**2} channels"
            )
        self.width, self.hidden, self.loops, self.substeps = width, hidden, loops, substeps
        self.fold, self.pretrained = fold, pretrained
        if pretrained:
            self._check_sizes(_shipped_weights()["options"])

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Stem, flow, head, and the policy beside them."""
        if len(spec.input_shape) != 3 or spec.output_shape != spec.input_shape:
            raise InvalidOption(
                f"architecture 'durr' maps images (channels, height, width) to images of that shape: got samples of "
                f"shape {spec.input_shape} and outputs {spec.output_shape}; use task: restoration"
            )
        channels = spec.input_shape[0] * self.fold**2
        if self.width < channels:
            raise InvalidOption(
                f"architecture 'durr': option width: got {self.width}, expected at least {channels}, fold^2 for each "
                f"of {spec.input_shape[0]} channels"
            )
        flow = parts.flow(
            (0.0, float(self.loops)), steps=self.loops * self.substeps, width=self.width, hidden=self.hidden
        )
        stem, head = Fold(self.fold, channels, self.width - channels), Unfold(self.fold, channels)
        network = RestorationNetwork({"stem": stem, "flow": flow, "head": head}, Worth(self.width), self.loops)
        network.fold = self.fold
        if self.pretrained:
            self._load(network)
        return network

    def restore(self, images: Any) -> Tensor:
        """Restored images, by the weights that come with the package.

        Args:
            images: ``(batch, 1, height, width)`` in [0, 1], of any size.

        Returns:
            the same shape, in [0, 1].

        Raises:
            InvalidOption: without ``pretrained``.
            DataError: the images have another shape, or are not finite.
        """
        if not self.pretrained:
            raise InvalidOption(
                "architecture 'durr': restore() is for the weights that come with the package: write pretrained=True; "
                "a model that you have trained restores by run.module.restore(images)"
            )
        return build("task", "restoration").restore(self._shipped, images)

    @cached_property
    def _shipped(self) -> Network:
        return self.build(NetworkSpec((1, 64, 64), (1, 64, 64))).eval()

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Refuses others than those of the shipped weights."""
        wrong = [name for name, value in sizes.items() if getattr(self, name) != value]
        if wrong:
            got = ", ".join(f"{name}={getattr(self, name)}" for name in wrong)
            has = ", ".join(f"{name}={value}" for name, value in sizes.items())
            raise CheckpointError(
                f"architecture 'durr': the pretrained weights have {has}, got {got}; leave {', '.join(wrong)} out, or "
                "train without pretrained"
            )

    def _load(self, network: Network) -> None:
        """Gives a network the shipped weights."""
        try:
            network.load_state_dict(_shipped_weights()["state_dict"])
        except RuntimeError as error:
            raise CheckpointError(
                "architecture 'durr': the pretrained weights are for gray images and the default dynamics and control; "
                f"leave those words out, or train without pretrained ({str(error).splitlines()[-1].strip()})"
            ) from error


def _shipped_weights() -> dict[str, Any]:
    """``options`` of the network and its ``state_dict``."""
    return torch.load(WEIGHTS, map_location="cpu", weights_only=True)


class RestorationNetwork(StoppingNetwork):
    """A network on images whose height and width may be any."""

    fold: int = 1

    def run(self, x: Tensor, times: Sequence[float] | None = None) -> Outcome:
        """As for any network; images are continued to a multiple of the fold, and outputs cut to their size."""
        height, width = x.shape[-2:]
        below, right = -height % self.fold, -width % self.fold
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        outcome = super().run(x, times)
        outcome.output = outcome.output[..., :height, :width]
        return outcome


class Fold(nn.Module):
    """Images to states: blocks of ``fold`` by ``fold`` pixels as channels, and memory channels made of them.

    Args:
        fold: side of a block.
        channels: of the folded image.
        memory: further channels, may be none.
    """

    def __init__(self, fold: int, channels: int, memory: int) -> None:
        super().__init__()
        self.fold = fold
        self.memory = nn.Conv2d(channels, memory, 3, padding=1) if memory else None

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels / fold^2, fold h, fold w)`` to ``(batch, channels + memory, h, w)``."""
        batch, channels, height, width = x.shape
        high, wide = height // self.fold, width // self.fold
        blocks = x.reshape(batch, channels, high, self.fold, wide, self.fold).permute(0, 1, 3, 5, 2, 4)
        folded = blocks.reshape(
            batch, channels * self.fold**2, high, wide
        )  # torch's own leaves empty batches as they are
        return folded if self.memory is None else torch.cat([folded, self.memory(folded)], dim=1)


class Unfold(nn.Module):
    """States to the images that they hold."""

    def __init__(self, fold: int, channels: int) -> None:
        super().__init__()
        self.fold, self.channels, self.images = fold, channels, channels // fold**2

    def forward(self, z: Tensor) -> Tensor:
        """``(batch, width, h, w)`` to ``(batch, channels / fold^2, fold h, fold w)``."""
        batch, _, high, wide = z.shape
        blocks = z[:, : self.channels].reshape(batch, self.images, self.fold, self.fold, high, wide)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, self.images, high * self.fold, wide * self.fold)


class Worth(nn.Module):
    """The policy unit: what going on is worth, in the units of the task's cost, from a state.

    Args:
        width: channels of the state.
        hidden: of the features that are averaged over the image.
    """

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(width, hidden // 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden // 2, hidden, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.value = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, z: Tensor) -> Tensor:
        """``(batch, width, h, w)`` to ``(batch,)``."""
        return self.value(self.features(z).mean((2, 3))).squeeze(1)
