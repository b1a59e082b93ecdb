"""Neural ordinary differential equations in larger states: augmented by zeros, or of second order."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.options import check_positive
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages
from odeframe_plugins.architectures.neural_ode import NeuralODE


class AugmentedNeuralODE(Architecture):
    """``d(x, a)/dt = f(t, x, a)``, ``a(0) = 0``, with ``augment`` more features; a linear head reads all of them.

    A flow on the samples themselves is a homeomorphism: on a line it cannot exchange two points.  In the larger space
    paths pass each other.  There is no stem, so that ``augment=0`` is the plain Neural ODE on the input space.

    Args:
        augment: zeros appended to each sample: features, or channels of an image.
        hidden: size of the inner layers of the default block.
        horizon: length of the interval.
        pool: for images, the head averages over ``pool`` by ``pool`` parts.

    Source: Dupont, Doucet, Teh 2019, Augmented Neural ODEs, section 4.
    """

    defaults: ClassVar[dict[str, Choice]] = dict(NeuralODE.defaults)

    def __init__(self, augment: int = 5, hidden: int = 64, horizon: float = 1.0, pool: int = 4) -> None:
        for option, value, least in (("augment", augment, 0), ("hidden", hidden, 1), ("pool", pool, 1)):
            if value < least:
                raise InvalidOption(
                    f"architecture 'augmented_neural_ode': option {option}: got {value}, expected at least {least}"
                )
        check_positive("architecture 'augmented_neural_ode'", horizon=horizon)
        self.augment, self.hidden, self.horizon, self.pool = augment, hidden, horizon, pool

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """A block that sees the time, with a smooth activation."""
        if kind != "dynamics":
            return super().default(kind, spec)
        block = {"activation": "silu", "time": True, "hidden": self.hidden}
        return {"name": "conv", "norm": "none", **block} if stages.is_image(spec) else {"name": "mlp", **block}

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Zeros, one flow, head."""
        stages.is_image(spec)
        width = spec.input_shape[0] + self.augment
        flow = parts.flow((0.0, self.horizon), width=width)
        outputs, reshape = stages.size(spec.output_shape), stages.Reshape(spec.output_shape)
        head: list[nn.Module] = [nn.Linear(width, outputs)]
        if stages.is_image(spec):
            pool = min(self.pool, *spec.input_shape[1:])
            head = [nn.AdaptiveAvgPool2d(pool), nn.Flatten(), nn.Linear(pool * pool * width, outputs)]
        return Network({"stem": stages.Augment(self.augment), "flow": flow, "head": nn.Sequential(*head, reshape)})


class SecondOrderODE(NeuralODE):
    """``x'' = f(t, x, x', theta)`` with one ``theta`` for all times, on the state ``(x, x')``.

    Args:
        width: even number of channels or features of the state, both halves.
        horizon: length of the interval.
        downsample: for images, whether a second convolution before the flow halves the resolution.
        pool: for images, the head averages over ``pool`` by ``pool`` parts.
        velocity: ``"learned"``, the stem makes ``x'(0)`` of the sample too, or ``"rest"``, it is zero.

    Source: Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs.
    """

    name = "second_order_ode"

    def __init__(
        self,
        width: int = 32,
        horizon: float = 1.0,
        downsample: bool = True,
        pool: int = 2,
        velocity: Literal["learned", "rest"] = "learned",
    ) -> None:
        super().__init__(width, horizon, downsample, pool)
        if width % 2:
            raise InvalidOption(f"architecture 'second_order_ode': option width: got {width}, expected an even number")
        if velocity not in ("learned", "rest"):
            raise InvalidOption(
                f"architecture 'second_order_ode': option velocity: got {velocity!r}, expected 'learned' or 'rest'"
            )
        self.velocity = velocity

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """An acceleration that sees position, velocity and time."""
        if kind == "dynamics":
            return {"name": f"acceleration_{'conv' if stages.is_image(spec) else 'mlp'}", "time": True}
        return super().default(kind, spec)

    def lift(self, spec: NetworkSpec) -> nn.Module:
        """From a sample to position and velocity."""
        if self.velocity == "learned":
            return super().lift(spec)
        return nn.Sequential(self.layers(spec, self.width // 2), stages.Augment(self.width // 2))
