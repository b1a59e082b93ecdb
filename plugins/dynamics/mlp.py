"""A two-layer perceptron on vectors."""

from __future__ import annotations

from torch import Tensor, nn

from odeframe import Dynamics
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import inner_size, with_time


class MLP(Dynamics):
    """``f(t, x) = W2 act(W1 x + b1) + b2``; with ``preactivate``, ``act(x)`` in place of ``x``.

    Args:
        width: size of the state, ``x`` ``(batch, width)``.
        hidden: size of the inner layer; default ``width``.
        activation: ``"tanh"``, ``"relu"``, ``"softplus"``, ``"silu"``, ``"gelu"`` or ``"identity"``.
        preactivate: whether the activation stands before the first layer too.
        time: whether the time is an input of the first layer.
        outputs: size of ``f``; default ``width``, else a part of another block.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks, figure 4(e), without its norms.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: str = "tanh",
        preactivate: bool = False,
        time: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        hidden = inner_size(hidden, width)
        self.lift = nn.Linear(width + time, hidden)
        self.lower = nn.Linear(hidden, outputs or width)
        self.activation = named_activation(activation)
        self.preactivate, self.time = preactivate, time

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width)``."""
        inner = self.activation(x) if self.preactivate else x
        return self.lower(self.activation(self.lift(with_time(t, inner) if self.time else inner)))
