"""Blocks with an antisymmetric operator: neither growth nor decay is built in."""

from __future__ import annotations

from torch import Tensor

from odeframe import Dynamics
from odeframe.options import check_not_negative
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.operators import Bias, Convolution, Dense, Operator


class Antisymmetric(Dynamics):
    """``f(x) = act((K - K^T - gamma I) x + b)``: a Jacobian ``D A`` whose eigenvalues have real parts of at most 0.

    With ``D = diag(act') >= 0`` and ``A = K - K^T - gamma I``, ``D A`` has the spectrum of ``D^(1/2) A D^(1/2)``, whose
    symmetric part is ``-gamma D``.  The flow does not grow exponentially; it is no isometry, since ``D A`` is not
    normal.  ``gamma > 0`` moves the spectrum into the region of forward Euler.  No norm: it would break the structure.
    """

    traits = ("bare_weights",)

    def __init__(self, operator: Operator, activation: str, gamma: float) -> None:
        super().__init__()
        check_not_negative("dynamics with an antisymmetric operator", gamma=gamma)
        self.operator = operator
        self.offset = Bias(operator.weight.shape[0], operator.weight[0].numel())
        self.activation, self.gamma = named_activation(activation), gamma

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, of the state's shape."""
        turned = self.operator(x) - self.operator.transpose(x)
        return self.activation(self.offset(turned - self.gamma * x if self.gamma else turned))


class AntisymmetricMLP(Antisymmetric):
    """``f(x) = act((K - K^T - gamma I) x + b)`` on vectors ``(batch, width)``, ``K`` ``(width, width)``.

    Args:
        width: size of the state.
        activation: as for ``mlp``, monotone.
        gamma: shift of the spectrum to the left, at least 0, in 1 / unit of time.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3.
    """

    def __init__(self, width: int, activation: str = "tanh", gamma: float = 0.0) -> None:
        super().__init__(Dense(width, width), activation, gamma)


class AntisymmetricConv(Antisymmetric):
    """``f(x) = act((K - K^T - gamma I) x + b)`` on images ``(batch, width, height, wide)``, ``K`` a convolution.

    ``K^T`` is the exact transpose of the convolution with zero padding.

    Args:
        width: channels of the state.
        activation: as for ``mlp``, monotone.
        gamma: shift of the spectrum to the left, at least 0, in 1 / unit of time.
        kernel: odd size of the kernels.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3.
    """

    def __init__(self, width: int, activation: str = "relu", gamma: float = 0.0, kernel: int = 3) -> None:
        super().__init__(Convolution(width, width, kernel), activation, gamma)
