"""The shape that most networks share: a stem, flows of equal steps with transitions between, a head."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.options import check_positive
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages


class Staged(Architecture):
    """``x_{k+1} = M(x_k, theta_k)``, ``blocks`` steps of length ``step`` a stage, by the scheme that a subclass names.

    Images pass through ``stages`` flows, with twice the channels and half the resolution in each next one; vectors
    through one by default.  A subclass gives its default words in ``defaults``, its blocks for vectors and for images,
    and whether norms stand in its transitions and head.

    Args:
        width: channels or features of the first stage.
        blocks: steps a stage.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step; the horizon of each flow is ``blocks * step``.
    """

    #: its registered name, for errors
    name: ClassVar[str]
    #: the word for vectors and the one for images; None where there is no such block
    vector_block: ClassVar[Choice | None] = "mlp"
    image_block: ClassVar[Choice | None] = "conv"
    #: whether a norm stands before each transition and the head of images
    normed: ClassVar[bool] = True
    #: for images, the head averages the last state over this many by this many parts of it
    pool: ClassVar[int] = 1
    #: what the width must be divisible by: 2 for a state of two halves
    parts: ClassVar[int] = 1

    def __init__(self, width: int = 16, blocks: int = 3, stages: int | None = None, step: float = 1.0) -> None:
        for option, value in (("width", width), ("blocks", blocks), ("stages", 1 if stages is None else stages)):
            if value < 1:
                raise InvalidOption(f"{self.named}: option {option}: got {value}, expected at least 1")
        if width % self.parts:
            raise InvalidOption(f"{self.named}: option width: got {width}, expected a multiple of {self.parts}")
        check_positive(self.named, step=step)
        self.width, self.blocks, self.stages, self.step = width, blocks, stages, step

    @property
    def named(self) -> str:
        """What errors call it."""
        return f"architecture {self.name!r}"

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The block that fits the data, and the words of ``defaults``."""
        if kind != "dynamics":
            return super().default(kind, spec)
        block = self.image_block if stages.is_image(spec) else self.vector_block
        if block is None:
            takes = "vectors (features,)" if self.image_block is None else "images (channels, height, width)"
            raise InvalidOption(f"{self.named} takes {takes}, got samples of shape {spec.input_shape}")
        return block

    def stem(self, spec: NetworkSpec) -> nn.Module:
        """From a sample to the state of the first flow."""
        return stages.stem(spec, self.width)

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Stem, flows with transitions between, head."""
        count = self.stages or (2 if stages.is_image(spec) else 1)
        modules: dict[str, nn.Module] = {"stem": self.stem(spec)}
        width = self.width
        for index in range(count):
            if index:
                modules[f"transition{index}"] = stages.transition(spec, width, 2 * width, self.normed)
                width *= 2
            horizon = (0.0, self.blocks * self.step)
            modules[f"flow{index + 1}"] = parts.flow(horizon, steps=self.blocks, width=width)
        modules["head"] = stages.head(spec, width, self.normed, self.pool)
        return Network(modules)
