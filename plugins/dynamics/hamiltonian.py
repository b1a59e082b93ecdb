"""Blocks whose structure carries the property: two halves that move each other, and a symmetric force."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from odeframe import InvalidOption, SecondOrderDynamics, SeparableDynamics
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import inner_size
from odeframe_plugins.dynamics.operators import Affine, Bias, Convolution, Dense, Operator


class Symmetric(nn.Module):
    """``K^T act(K x + b)``, of the shape of ``x``; its Jacobian is symmetric positive semi-definite.

    Args:
        operator: ``K``.
        activation: monotone, or the Jacobian is not semi-definite.
    """

    def __init__(self, operator: Operator, activation: str) -> None:
        super().__init__()
        self.affine, self.activation = Affine(operator), named_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``K^T act(K x + b)``."""
        return self.affine.operator.transpose(self.activation(self.affine(x)))


class Hamiltonian(SeparableDynamics):
    """``y' = K1^T act(K1 z + b1)``, ``z' = -K2^T act(K2 y + b2)``, or with one layer ``y' = act(K z + b1)``,
    ``z' = -act(K^T y + b2)``.

    With two layers a Hamiltonian system, ``H = 1^T S(K1 z + b1) + 1^T S(K2 y + b2)``, ``S' = act``: its flow preserves
    volume and ``H``.  With one layer the Jacobian is ``[[0, D1 K], [-D2 K^T, 0]]``, whose eigenvalues are imaginary.
    Neither has growth or decay built in.  No norm: one between ``K`` and ``K^T`` would break that.
    """

    traits = (*SeparableDynamics.traits, "bare_weights")

    def __init__(self, operator: Callable[[], Operator], activation: str, layers: int) -> None:
        super().__init__()
        if layers not in (1, 2):
            raise InvalidOption(f"dynamics with two halves: option layers: got {layers}, expected 1 or 2")
        self.layers = layers
        if layers == 2:
            self.by_z, self.by_y = (Symmetric(operator(), activation) for _ in range(2))
        else:
            self.operator, self.activation = operator(), named_activation(activation)
            features, fan_in = self.operator.weight.shape[0], self.operator.weight[0].numel()
            self.offset_y, self.offset_z = Bias(features, fan_in), Bias(self.operator.weight.shape[1], fan_in)

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``y'``."""
        return self.by_z(z) if self.layers == 2 else self.activation(self.offset_y(self.operator(z)))

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``z'``."""
        return -(self.by_y(y) if self.layers == 2 else self.activation(self.offset_z(self.operator.transpose(y))))


class HamiltonianMLP(Hamiltonian):
    """``y' = K1^T act(K1 z + b1)``, ``z' = -K2^T act(K2 y + b2)`` on ``x = (y, z)``, ``(batch, width)``.

    Args:
        width: even size of the state.
        hidden: rows of ``K1`` and ``K2``; default half the width.  One layer has square operators.
        activation: as for ``mlp``, monotone.
        layers: 2, or 1 for ``y' = act(K z + b1)``, ``z' = -act(K^T y + b2)``.

    Source: Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks, (10); one layer:
    Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh", layers: int = 2) -> None:
        half = halved("hamiltonian_mlp", width)
        rows = operator_rows("hamiltonian_mlp", half, hidden, layers)
        super().__init__(lambda: Dense(rows, half), activation, layers)


class HamiltonianConv(Hamiltonian):
    """``y' = K1^T act(K1 z + b1)``, ``z' = -K2^T act(K2 y + b2)`` on images ``(batch, width, height, wide)``.

    The halves lie along the channels, ``K1`` and ``K2`` are convolutions, and their transposes are exact.

    Args:
        width: even number of channels.
        hidden: channels of ``K1 z``; default half the width.  One layer has as many as half the width.
        activation: as for ``mlp``, monotone.
        layers: 2, or 1 for ``y' = act(K z + b1)``, ``z' = -act(K^T y + b2)``.
        kernel: odd size of the kernels.

    Source: Chang et al. 2018, Reversible Architectures for Arbitrarily Deep Residual Neural Networks, (10).
    """

    def __init__(
        self, width: int, hidden: int | None = None, activation: str = "relu", layers: int = 2, kernel: int = 3
    ) -> None:
        half = halved("hamiltonian_conv", width)
        rows = operator_rows("hamiltonian_conv", half, hidden, layers)
        super().__init__(lambda: Convolution(rows, half, kernel), activation, layers)


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
        inner = inner_size(hidden, half)
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


class SymmetricForce(SecondOrderDynamics):
    """``F(x) = -K^T act(K x + b)``: a force with a symmetric negative semi-definite Jacobian.

    ``x'' = F`` (``leapfrog``) is a hyperbolic network, ``x' = F`` (``euler``) a parabolic one, which contracts:
    ``|x(T) - y(T)| <= |x(0) - y(0)|``; so does a step ``h <= 2 / (max act' |K|^2)``.
    """

    traits = (*SecondOrderDynamics.traits, "bare_weights")

    def __init__(self, operator: Operator, activation: str) -> None:
        super().__init__()
        self.symmetric = Symmetric(operator, activation)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-K^T act(K x + b)``."""
        return -self.symmetric(x)


class SymmetricMLP(SymmetricForce):
    """``F(x) = -K^T act(K x + b)`` on vectors ``(batch, width)``.

    Args:
        width: size of the state.
        hidden: rows of ``K``; default ``width``.
        activation: as for ``mlp``, monotone.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations, (6) and theorem 2.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "tanh") -> None:
        super().__init__(Dense(inner_size(hidden, width), width), activation)


class SymmetricConv(SymmetricForce):
    """``F(x) = -K^T act(K x + b)`` on images ``(batch, width, height, wide)``, ``K`` a convolution.

    Args:
        width: channels of the state.
        hidden: channels of ``K x``; default ``width``.
        activation: as for ``mlp``, monotone.
        kernel: odd size of the kernels.

    Source: Ruthotto, Haber 2020, Deep Neural Networks Motivated by Partial Differential Equations, (6) and theorem 2.
    """

    def __init__(self, width: int, hidden: int | None = None, activation: str = "relu", kernel: int = 3) -> None:
        super().__init__(Convolution(inner_size(hidden, width), width, kernel), activation)


def halved(name: str, width: int) -> int:
    """Half an even width."""
    if width < 2 or width % 2:
        raise InvalidOption(f"dynamics {name!r}: option width: got {width}, expected an even number, for two halves")
    return width // 2


def operator_rows(name: str, half: int, hidden: int | None, layers: int) -> int:
    """Rows of the operators: any with two layers, as many as columns with one."""
    if layers == 1 and hidden not in (None, half):
        raise InvalidOption(f"dynamics {name!r}: option hidden: got {hidden}, expected {half} with layers=1")
    return inner_size(hidden, half)
