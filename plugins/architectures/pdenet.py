"""PDE-Net: a differential equation found from its solution at several times."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.options import check_positive
from odeframe.specification import NetworkSpec


class Record(nn.Module):
    """``(u, records)`` to ``(u, records, u)``: what is seen at an observation time, ``width`` channels of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, wide)`` to ``(batch, channels + width, height, wide)``."""
        return torch.cat([x, x[:, : self.width]], dim=1)


class Observations(nn.Module):
    """``(u, records)`` to the records, in the shape asked for."""

    def __init__(self, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.width, self.shape = width, shape

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width + times * width, height, wide)`` to ``(batch, times, width, height, wide)``."""
        return x[:, self.width :].contiguous().reshape(x.shape[0], *self.shape)


class PDENet(Architecture):
    """``u_t = sum c_ij D_ij u`` from ``u(0)``, compared with data at ``interval, 2 interval, ...``.

    One flow, with one set of weights, crosses each interval; what it reaches is recorded, so that the loss sees every
    observation.  The published block is forward Euler's; its error ``h a^2 / 2`` would be read as diffusion, so that
    the default is ``rk4`` with one step an interval (``solver: euler`` gives the published one).

    Args:
        interval: time from one observation to the next; default the data's.
        steps: steps of the solver an interval.
        spacing: distance of two pixels; default that of a square of side ``2 pi``.

    Source: Long, Lu, Ma, Dong 2018, PDE-Net: Learning PDEs from Data.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "input_shapes": ((1, 8, 8),),
        "output_shape": (3, 1, 8, 8),
        "spec": {"interval": 0.01},
        "solvers": ({"name": "euler", "steps": 2}, "dopri5"),
    }
    defaults: ClassVar[dict[str, Choice]] = {"control": "constant", "solver": "rk4", "dynamics": "pde_conv"}

    def __init__(self, interval: float | None = None, steps: int = 1, spacing: float | None = None) -> None:
        check_positive("architecture 'pdenet'", interval=interval, spacing=spacing)
        if steps < 1:
            raise InvalidOption(f"architecture 'pdenet': option steps: got {steps}, expected at least 1")
        self.interval, self.steps, self.spacing = interval, steps, spacing

    def state_trait(self, spec: NetworkSpec) -> str:
        """States are images; targets that are no observations of them are refused."""
        if len(spec.input_shape) != 3 or spec.output_shape[1:] != spec.input_shape or len(spec.output_shape) != 4:
            raise InvalidOption(
                f"architecture 'pdenet' takes images (channels, height, width) with targets (times, channels, height, "
                f"width): got samples of shape {spec.input_shape} and targets {spec.output_shape}; data "
                "convection_diffusion has them"
            )
        if self.interval is None and spec.interval is None:
            raise InvalidOption("architecture 'pdenet': the data do not say the interval between observations: give it")
        if None not in (self.interval, spec.interval) and self.interval != spec.interval:
            raise InvalidOption(
                f"architecture 'pdenet': option interval: got {self.interval}, and the data have an observation every "
                f"{spec.interval}; leave it out"
            )
        return "image"

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """A flow and a record for each observation."""
        channels, height, _ = spec.input_shape
        spacing = 2 * math.pi / height if self.spacing is None else self.spacing
        interval: Any = spec.interval if self.interval is None else self.interval
        flow = parts.flow((0.0, interval), steps=self.steps, width=channels, spacing=spacing)
        modules: dict[str, nn.Module] = {}
        for time in range(1, spec.output_shape[0] + 1):
            modules |= {f"flow{time}": flow, f"record{time}": Record(channels)}
        return Network({**modules, "head": Observations(channels, spec.output_shape)})
