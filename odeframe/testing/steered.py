"""Systems that are steered, ``x' = u``, to put a rule of training to where its optimum is known."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from odeframe.costs import KineticEnergy
from odeframe.dynamics import Dynamics
from odeframe.flow import Flow
from odeframe.module import FlowModule
from odeframe.network import Architecture, Network, Parts
from odeframe.specification import DataSpec, NetworkSpec
from odeframe.task import Task
from odeframe.trial import QUIET


class Velocity(Dynamics):
    """``x' = u``, the control one velocity for all samples."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Begins at rest."""
        nn.init.zeros_(self.u)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The velocity."""
        return self.u.expand_as(x)


class Steered(Architecture):
    """``x' = u`` on ``(0, T)`` with the running cost ``r |u|^2 / 2``, Euler's steps, a piece of control each."""

    def __init__(self, horizon: float, price: float, steps: int = 5) -> None:
        self.horizon, self.price, self.steps = horizon, price, steps

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """One flow; Euler's steps are exact here."""
        solver, cost = {"name": "euler", "steps": self.steps}, KineticEnergy(self.price)
        velocity = Velocity(spec.input_shape[0])
        return Network({"flow": Flow(velocity, "piecewise_constant", solver, "backprop", (0.0, self.horizon), [cost])})


class Priced(Architecture):
    """A frozen layer to two components, and ``x' = u`` on ``(0, 1)`` with the running cost ``|u|^2``, three steps."""

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """The layer and one flow."""
        stem = nn.Linear(spec.input_shape[0], spec.output_shape[0]).requires_grad_(False)
        solver, cost = {"name": "euler", "steps": 3}, KineticEnergy(2.0)
        flow = Flow(Velocity(spec.output_shape[0]), "piecewise_constant", solver, quadratures=[cost])
        return Network({"stem": stem, "flow": flow})


class HalfSquare(Task):
    """``Phi = g |x(T)|^2 / 2``."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """That of a state."""
        return spec.input_shape

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``Phi``, ``(batch,)``."""
        return 0.5 * self.weight * output.square().sum(1)

    def metrics(self, spec: DataSpec) -> Any:
        """None."""
        from torchmetrics import MetricCollection

        return MetricCollection({})


class LinearQuadratic:
    """``x' = u``, ``J = mean_i [g |x_i(T)|^2 / 2] + r int |u|^2 / 2 dt`` for a rule of training, in float64.

    The optimum, of the discretised problem too, is ``u = -g m / (r + g T)`` with the mean ``m`` of the initial states,
    here 8 of 2 components.  The distance to it after some sweeps tells for which ``g T / r`` a rule converges.

    Args:
        gain: ``g``.
        price: ``r``.
        horizon: ``T``.
    """

    def __init__(self, gain: float, price: float = 1.0, horizon: float = 1.0) -> None:
        self.gain, self.price, self.horizon = gain, price, horizon
        self.x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 1

    def optimum(self) -> Tensor:
        """``u``, ``(2,)``, the same at all times."""
        return -self.gain * self.x.mean(0) / (self.price + self.gain * self.horizon)

    def distance(self, trainer: Any, sweeps: int) -> float:
        """``max |u - optimum|`` over that of the start at rest, after a fit of ``sweeps`` batches of all samples."""
        torch.manual_seed(0)
        spec = DataSpec("steered", (2,), "value", None, (2,), "regression")
        architecture = Steered(self.horizon, self.price)
        module = FlowModule(spec.to_dict(), architecture, HalfSquare(self.gain), trainer=trainer).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batches: Any = [(self.x,)] * sweeps  # one epoch of them: Lightning's work is by the epoch
            pl.Trainer(max_epochs=1, devices=1, **QUIET).fit(module, DataLoader(batches, batch_size=None))
        u = torch.stack([p.detach() for p in module.parameters()])
        return float((u - self.optimum()).abs().max() / self.optimum().abs().max())
