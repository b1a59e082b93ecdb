"""The pre-activation residual network: forward Euler with a piece of control a step."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages


class ResNet(Architecture):
    """``x_{k+1} = x_k + h f(x_k, theta_k)`` with ``h = 1``: forward Euler, order 1.

    Images pass through ``stages`` flows of ``blocks`` steps each, with twice the channels and half the resolution in
    each next one; vectors through one by default.

    Args:
        width: channels or features of the first stage.
        blocks: residual blocks a stage, the steps of its flow.
        stages: number of flows; default 2 for images, 1 for vectors.
        step: length ``h`` of a step; the horizon of each flow is ``blocks * step``.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks.
    """

    defaults: ClassVar[dict[str, Choice]] = {"control": "piecewise_constant", "solver": "euler", "trainer": "gradient"}

    def __init__(self, width: int = 16, blocks: int = 3, stages: int | None = None, step: float = 1.0) -> None:
        for option, value in (("width", width), ("blocks", blocks), ("stages", 1 if stages is None else stages)):
            if value < 1:
                raise InvalidOption(f"architecture 'resnet': option {option}: got {value}, expected at least 1")
        if not step > 0:
            raise InvalidOption(f"architecture 'resnet': option step: got {step}, expected > 0")
        self.width, self.blocks, self.stages, self.step = width, blocks, stages, step

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """Pre-activation blocks."""
        if kind == "dynamics" and not stages.is_image(spec):
            return {"name": "mlp", "activation": "relu", "preactivate": True}
        return super().default(kind, spec)

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Stem, flows with transitions between, head."""
        count = self.stages or (2 if stages.is_image(spec) else 1)
        modules: dict[str, nn.Module] = {"stem": stages.stem(spec, self.width)}
        width = self.width
        for index in range(count):
            if index:
                modules[f"transition{index}"] = stages.transition(spec, width, 2 * width, normed=True)
                width *= 2
            horizon = (0.0, self.blocks * self.step)
            modules[f"flow{index + 1}"] = parts.flow(horizon, steps=self.blocks, width=width)
        modules["head"] = stages.head(spec, width, normed=True)
        return Network(modules)
