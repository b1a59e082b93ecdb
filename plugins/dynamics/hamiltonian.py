"""Blocks whose structure carries the property: two halves that move each other, and a symmetric force."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from odeframe import InvalidOption, SecondOrderDynamics, SeparableDynamics
from odeframe_plugins.dynamics.activations import activation as named_activation


class Symmetric(nn.Module):
    """``K^T act(K x + b)``, from ``(batch, width)`` to the same; its Jacobian is symmetric positive semi-definite.

    Args:
        width: size of ``x``.
        hidden: rows of ``K``.
        activation: monotone, or the Jacobian is not semi-definite.
    """

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(hidden, width)), nn.Parameter(torch.empty(hidden))
        self.activation = named_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ``1 / sqrt(width)``, as ``nn.Linear``."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``K^T act(K x + b)``."""
        return functional.linear(self.activation(functional.linear(x, self.weight, self.bias)), self.weight.t())


class HamiltonianMLP(SeparableDynamics):
    """``y' = K1^T act(K1 z + b1)``, ``z' = -K2^T act(K2 y + b2)`` on ``x = (y, z)``, ``(batch, width)``.

    A Hamiltonian system with ``H = 1^T S(K1 z + b1) + 1^T S(K2 y + b2)``, ``S' = act``: its flow preserves volume and
    ``H``; neither decays nor grows exponentially.  No norm: one between ``K`` and ``K^T`` would break that.

    Args:
        width: even size of the state.
        hidden: rows of ``K1`` and ``K2``; default half the width.
        activation: as for ``mlp``, monotone.

    Source: Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks, (10).
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh") -> None:
        super().__init__()
        half = halved("hamiltonian_mlp", width)
        self.by_z, self.by_y = (Symmetric(half, hidden or half, activation) for _ in range(2))

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``y' = K1^T act(K1 z + b1)``."""
        return self.by_z(z)

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``z' = -K2^T act(K2 y + b2)``."""
        return -self.by_y(y)


class CoupledMLP(SeparableDynamics):
    """``y' = F(z)``, ``z' = G(y)`` with perceptrons; under ``symplectic_euler`` with unit steps, RevNet's block.

    Args:
        width: even size of the state.
        hidden: size of the inner layers; default half the width.
        activation: as for ``mlp``.

    Source: Gomez et al. 2017, The Reversible Residual Network, (6).
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh") -> None:
        super().__init__()
        half = halved("coupled_mlp", width)
        inner = hidden or half
        self.by_z, self.by_y = (
            nn.Sequential(nn.Linear(half, inner), named_activation(activation), nn.Linear(inner, half))
            for _ in range(2)
        )

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``y' = F(z)``."""
        return self.by_z(z)

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``z' = G(y)``."""
        return self.by_y(y)


class SymmetricMLP(SecondOrderDynamics):
    """``F(x) = -K^T act(K x + b)``, ``(batch, width)``: a force with a symmetric negative semi-definite Jacobian.

    ``x'' = F`` (``leapfrog``) is a hyperbolic network, ``x' = F`` (``euler``) a parabolic one, which contracts:
    ``|x(T) - y(T)| <= |x(0) - y(0)|``; so does a step ``h <= 2 / (max act' |K|^2)``.

    Args:
        width: size of the state.
        hidden: rows of ``K``; default ``width``.
        activation: as for ``mlp``, monotone.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations, (6) and theorem 2.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh") -> None:
        super().__init__()
        self.symmetric = Symmetric(width, hidden or width, activation)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-K^T act(K x + b)``."""
        return -self.symmetric(x)


def halved(name: str, width: int) -> int:
    """Half an even width."""
    if width < 2 or width % 2:
        raise InvalidOption(f"dynamics {name!r}: option width: got {width}, expected an even number, for two halves")
    return width // 2
