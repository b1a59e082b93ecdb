"""The neural ordinary differential equation: one block, constant control, adaptive solver."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.options import check_positive
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages


class NeuralODE(Architecture):
    """``dx/dt = f(t, x, theta)`` on ``(0, horizon)`` with one ``theta`` for all times.

    Args:
        width: channels or features of the state.
        horizon: length of the interval.
        downsample: for images, whether a second convolution before the flow halves the resolution.
        pool: for images, the head averages the last state over ``pool`` by ``pool`` parts of it, so that it knows
            roughly where something is.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations.
    """

    name: ClassVar[str] = "neural_ode"
    defaults: ClassVar[dict[str, Choice]] = {
        "control": "constant",
        "solver": {"name": "dopri5", "rtol": 1e-3, "atol": 1e-3},
        "trainer": "gradient",
    }

    def __init__(self, width: int = 32, horizon: float = 1.0, downsample: bool = True, pool: int = 2) -> None:
        for option, value in (("width", width), ("pool", pool)):
            if value < 1:
                raise InvalidOption(f"architecture {self.name!r}: option {option}: got {value}, expected at least 1")
        check_positive(f"architecture {self.name!r}", horizon=horizon)
        self.width, self.horizon, self.downsample, self.pool = width, horizon, downsample, pool

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """A block that sees the time, with a smooth activation: an adaptive solver pays for every kink."""
        if kind == "dynamics":
            if stages.is_image(spec):
                return {"name": "conv", "activation": "silu", "time": True}
            return {"name": "mlp", "activation": "tanh", "time": True}
        return super().default(kind, spec)

    def layers(self, spec: NetworkSpec, width: int) -> nn.Module:
        """The layers before the flow, which end in ``width`` features."""
        stem = stages.stem(spec, width)
        if not (self.downsample and stages.is_image(spec)):
            return stem
        return nn.Sequential(stem, stages.transition(spec, width, width, normed=True))

    def lift(self, spec: NetworkSpec) -> nn.Module:
        """From a sample to the state of the flow."""
        return self.layers(spec, self.width)

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Stem, one flow, head."""
        return Network(
            {
                "stem": self.lift(spec),
                "flow": parts.flow((0.0, self.horizon), width=self.width),
                "head": stages.head(spec, self.width, normed=True, pool=self.pool),
            }
        )
