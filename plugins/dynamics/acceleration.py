"""A state of position and velocity, moved by an acceleration: second-order equations as first-order ones."""

from __future__ import annotations

import torch
from torch import Tensor

from odeframe import Dynamics
from odeframe_plugins.dynamics.conv import Conv
from odeframe_plugins.dynamics.hamiltonian import halved
from odeframe_plugins.dynamics.mlp import MLP


class Acceleration(Dynamics):
    """``x'' = f(t, x, x')`` as ``d(x, v)/dt = (v, f(t, x, v))`` on ``(batch, 2 n, ...)``, halves along dimension 1.

    ``f`` sees the velocity, so that friction and gyroscopic forces are among its values; where it may not, the force of
    ``symmetric_mlp`` under ``leapfrog`` needs no velocity in the state.
    """

    traits = ("halves", "acceleration")

    def __init__(self, block: Dynamics) -> None:
        super().__init__()
        self.block = block

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``(v, f(t, x, v))``, of the state's shape."""
        return torch.cat([x[:, x.shape[1] // 2 :], self.block(t, x)], dim=1)


class AccelerationMLP(Acceleration):
    """``x'' = W2 act(W1 (x, x') + b1) + b2`` on vectors, state ``(x, x')`` ``(batch, width)``.

    Args:
        width: even size of the state, twice that of ``x``.
        hidden: size of the inner layer; default ``width``.
        activation: as for ``mlp``.
        time: whether the time is an input.

    Source: Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh", time: bool = False) -> None:
        super().__init__(MLP(width, hidden, activation, time=time, outputs=halved("acceleration_mlp", width)))


class AccelerationConv(Acceleration):
    """``x'' = f(t, x, x')`` on images, ``f`` as ``conv``, state ``(x, x')`` ``(batch, width, height, wide)``.

    Args:
        width: even number of channels of the state, twice that of ``x``.
        hidden: channels between the convolutions; default ``width``.
        activation, norm, kernel, time: as for ``conv``.

    Source: Norcliffe et al. 2020, On Second Order Behaviour in Augmented Neural ODEs.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: str = "silu",
        norm: str = "group",
        kernel: int = 3,
        time: bool = False,
    ) -> None:
        half = halved("acceleration_conv", width)
        super().__init__(Conv(width, hidden, activation, norm, kernel, time, outputs=half))
