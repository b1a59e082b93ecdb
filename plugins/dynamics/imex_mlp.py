"""A diffusing matrix and a perceptron on vectors: IMEXnet's layer without images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from odeframe import SemilinearDynamics
from odeframe.field import per_sample
from odeframe_plugins.dynamics.mlp import MLP


class IMEXMLP(SemilinearDynamics):
    """``f(t, x) = -L x + F(t, x)`` on vectors ``(batch, width)``, ``L = B^T B`` trainable, ``F`` as ``mlp``.

    ``L`` is symmetric positive semi-definite whatever the weights are; ``(I + h L) y = r`` is solved densely.

    Args:
        width: size of the state.
        hidden: size of the inner layer of ``F``; default ``width``.
        activation: as for ``mlp``.
        time: whether the time is an input of ``F``.
        compensate: adds ``L x`` to ``F``, so that ``f`` is the block alone and ``L`` only steadies the scheme.

    Source: Haber, Lensink, Treister, Ruthotto 2019, IMEXnet: A Forward Stable Deep Neural Network, section 3.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: str = "tanh",
        time: bool = False,
        compensate: bool = False,
    ) -> None:
        super().__init__()
        self.block = MLP(width, hidden, activation, time=time)
        self.factor = nn.Parameter(torch.empty(width, width))
        self.compensate = compensate
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform on +-1/sqrt(width): the eigenvalues of ``L`` have mean 1/3."""
        bound = self.factor.shape[0] ** -0.5
        nn.init.uniform_(self.factor, -bound, bound)

    def matvec(self, x: Tensor) -> Tensor:
        """``L x``, ``(batch, width)``."""
        return functional.linear(functional.linear(x, self.factor), self.factor.t())

    def solve_shifted(self, dt: float | Tensor, rhs: Tensor) -> Tensor:
        """``(I + dt L)^{-1} rhs``, ``(batch, width)``; half precision is solved in single precision."""
        wide = rhs.to(torch.promote_types(rhs.dtype, torch.float32))
        factor = self.factor.to(wide.dtype)
        product = (factor.t() @ factor).expand(rhs.shape[0], *factor.shape)
        shifted = torch.eye(factor.shape[0], dtype=wide.dtype, device=wide.device) + per_sample(dt, product) * product
        return torch.linalg.solve(shifted, wide).to(rhs.dtype)

    def nonlinear(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``F(t, x)``, or ``F(t, x) + L x`` with ``compensate``."""
        return self.block(t, x) + self.matvec(x) if self.compensate else self.block(t, x)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-L x + F(t, x)``, or ``F(t, x)`` with ``compensate``."""
        return self.block(t, x) if self.compensate else super().forward(t, x, u)
