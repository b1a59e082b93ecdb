"""The continuous normalising flow of images, on several scales."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from odeframe import Architecture, Dynamics, InvalidOption, Network
from odeframe.compatibility import traits_of
from odeframe.flow import Choice
from odeframe.jacobian_costs import LogDensity
from odeframe.network import Parts, offer
from odeframe.options import check_positive
from odeframe.registry import Word
from odeframe.specification import NetworkSpec


class Squeeze(nn.Module):
    """``(batch, c, h, w)`` to ``(batch, 4 c, h / 2, w / 2)``: the pixels of each two by two become channels.

    A permutation: no change of density.  The channels of the first image channels come first.

    Args:
        factor: side of the squares.
        undo: the inverse as the map, as at the end of a network whose latent image has the data's shape.

    Source: Dinh et al. 2017, Density Estimation using Real NVP, 3.6.
    """

    def __init__(self, factor: int = 2, undo: bool = False) -> None:
        super().__init__()
        self.factor, self.undo = factor, undo

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        return self._other(x) if self.undo else self._to_channels(x)

    def inverse(self, z: Tensor) -> Tensor:
        """Its inverse."""
        return self._to_channels(z) if self.undo else self._other(z)

    # Not torch's pixel_unshuffle, which gives an empty batch back as it came.
    def _to_channels(self, x: Tensor) -> Tensor:
        batch, channels, height, width, r = *x.shape, self.factor
        parts = x.reshape(batch, channels, height // r, r, width // r, r).permute(0, 1, 3, 5, 2, 4)
        return parts.reshape(batch, channels * r * r, height // r, width // r)

    def _other(self, x: Tensor) -> Tensor:
        batch, channels, height, width, r = *x.shape, self.factor
        parts = x.reshape(batch, channels // (r * r), r, r, height, width).permute(0, 1, 4, 2, 5, 3)
        return parts.reshape(batch, channels // (r * r), height * r, width * r)


class Leading(Dynamics):
    """``f`` on the first channels, 0 on the others, which earlier scales have factored out.

    Args:
        inner: ``f(t, x)`` on ``(batch, channels, height, width)``.
        channels: how many move.
        traits: those of ``inner``.
    """

    traits: tuple[str, ...]  # of each object: what is wrapped says them

    def __init__(self, inner: nn.Module, channels: int, traits: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.channels, self.traits = inner, channels, traits

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, of the state's shape."""
        kept = x[:, : self.channels]
        moved = self.inner(t, kept) if u is None else self.inner(t, kept, u)
        return torch.cat([moved, torch.zeros_like(x[:, self.channels :])], dim=1)


class CNFImage(Architecture):
    """A flow, a squeeze, half of the channels factored out, the next flow on the rest, and so on.

    Scale ``i`` moves ``c 2^i`` channels of ``(height / 2^i, width / 2^i)``; the components that a scale leaves behind
    rest from then on, and are part of the latent ``z``, which has the shape of an image.  ``log p(x) = log N(z; 0, I) +
    sum_i int tr(df_i/dx) dt``; squeezes are permutations.  One scale is one flow on the image, which the trainer
    ``flow_matching`` takes too.

    Args:
        scales: how many flows; height and width must be divisible by ``2^(scales - 1)``.
        horizon: length of each flow's interval.
        hidden: channels of the hidden layers of the default field.
        depth: how many.
        trace: in training, ``"hutchinson"``, one random probe a sample and solve, or ``"exact"``, a vector-Jacobian
            product a pixel.  ``log_prob`` is exact always.

    Source: Grathwohl et al. 2019, FFJORD, section 4.2; Dinh et al. 2017, Real NVP, 3.6.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "input_shapes": ((1, 4, 4),),
        "output_shape": (1, 4, 4),
        "solvers": ("rk4",),
    }
    defaults: ClassVar[dict[str, Choice]] = {
        "dynamics": "concat_squash_conv",
        "control": "constant",
        "solver": {"name": "dopri5", "rtol": 1e-4, "atol": 1e-4},
    }

    def __init__(
        self,
        scales: int = 2,
        horizon: float = 1.0,
        hidden: int = 32,
        depth: int = 2,
        trace: Literal["exact", "hutchinson"] = "hutchinson",
    ) -> None:
        if scales < 1:
            raise InvalidOption(f"architecture 'cnf_image': option scales: got {scales}, expected at least 1")
        check_positive("architecture 'cnf_image'", horizon=horizon)
        if trace not in ("exact", "hutchinson"):
            raise InvalidOption(
                f"architecture 'cnf_image': option trace: got {trace!r}, expected 'exact' or 'hutchinson'"
            )
        self.scales, self.horizon, self.hidden, self.depth, self.trace = scales, horizon, hidden, depth, trace

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Flows with squeezes between, and the squeezes taken back."""
        shape, factor = spec.input_shape, 2 ** (self.scales - 1)
        if len(shape) != 3 or spec.output_shape != shape:
            raise InvalidOption(
                f"architecture 'cnf_image' maps images (channels, height, width) to images: got samples of shape "
                f"{shape} and outputs {spec.output_shape}; use task: density, and architecture: cnf for vectors"
            )
        if shape[1] % factor or shape[2] % factor:
            raise InvalidOption(
                f"architecture 'cnf_image': {self.scales} scales halve height and width {self.scales - 1} times, and "
                f"{shape[1]} x {shape[2]} is not divisible by {factor}: write fewer scales"
            )
        stages: dict[str, nn.Module] = {}
        for scale in range(self.scales):
            if scale:
                stages[f"squeeze{scale}"] = Squeeze()
            flow = self._parts(parts, shape[0], scale).flow(
                (0.0, self.horizon), width=shape[0] * 4**scale, hidden=self.hidden, depth=self.depth
            )
            flow.add_costs([LogDensity(weight=1.0, exact=self.trace == "exact")])
            stages[f"flow{scale + 1}"] = flow
        if self.scales > 1:
            stages["unsqueeze"] = Squeeze(factor, undo=True)
        return Network(stages)

    def _parts(self, parts: Parts, channels: int, scale: int) -> Parts:
        """The words of one scale: from the second on, dynamics that move the channels that are left."""
        chosen = parts.words["dynamics"]
        if not scale:
            return parts
        if chosen.component is None and not isinstance(chosen.object, type):
            raise InvalidOption(
                f"architecture 'cnf_image': {self.scales} scales need dynamics of {self.scales} widths, and got one "
                "module; give its class or a word, or write scales: 1"
            )
        kept = channels * 2**scale
        shape: dict[str, Any] = {"width": kept, "hidden": self.hidden, "depth": self.depth}
        moving = Leading(offer(chosen, **shape), kept, tuple(traits_of("dynamics", chosen)))
        return Parts({**parts.words, "dynamics": Word("dynamics", object=moving)})
