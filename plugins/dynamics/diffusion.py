"""A drift and a diagonal diffusion, both perceptrons: the field of a neural stochastic differential equation."""

from __future__ import annotations

import torch
from torch import Tensor

from odeframe import StochasticDynamics
from odeframe.options import check_positive
from odeframe_plugins.dynamics.mlp import MLP


class DiffusionMLP(StochasticDynamics):
    """``dX = f(t, X) dt + s sigmoid(m(t, X)) dB``, with perceptrons ``f`` and ``m``.

    The diffusion is bounded and positive, so ``g`` is Lipschitz where ``m`` is and Euler-Maruyama converges.

    Args:
        width: size of the state, ``x`` ``(batch, width)``.
        hidden: size of the inner layers; default ``width``.
        activation: as for ``mlp``.
        scale: ``s``, the bound of the diffusion.
        time: whether the time is an input.

    Source: Li, Wong, Chen, Duvenaud 2020, Scalable Gradients for Stochastic Differential Equations, section 5.
    """

    def __init__(
        self, width: int, hidden: int | None = None, activation: str = "tanh", scale: float = 1.0, time: bool = False
    ) -> None:
        super().__init__()
        check_positive("dynamics 'diffusion_mlp'", scale=scale)
        self.drift, self.spread = (MLP(width, hidden, activation, time=time) for _ in range(2))
        self.scale = scale

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The drift, ``(batch, width)``."""
        return self.drift(t, x)

    def diffusion(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The diffusion in (0, s), ``(batch, width)``."""
        return self.scale * torch.sigmoid(self.spread(t, x))
