"""A perceptron on vectors whose layers are gated and shifted by the time: the field of a normalising flow."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from odeframe import Dynamics, InvalidOption
from odeframe_plugins.dynamics.activations import activation as named_activation


class ConcatSquashLayer(nn.Module):
    """``(W x + b) * sigmoid(w_g t + b_g) + w_b t``, from ``(batch, inputs)`` to ``(batch, outputs)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(inputs, outputs), nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Times ``(batch or 1, 1)``."""
        return self.linear(x) * torch.sigmoid(self.gate(t)) + self.shift(t)


class ConcatSquash(Dynamics):
    """``f(t, x)``, ``depth`` hidden layers ``act((W x + b) * sigmoid(w_g t + b_g) + w_b t)``, a last one without.

    Args:
        width: size of the state, ``x`` ``(batch, width)``.
        hidden: size of the hidden layers.
        depth: how many.
        activation: as for ``mlp``; smooth, since a density is the integral of a derivative.

    Source: Grathwohl et al. 2019, FFJORD: Free-form Continuous Dynamics, appendix B.1.
    """

    def __init__(self, width: int, hidden: int = 64, depth: int = 2, activation: str = "tanh") -> None:
        super().__init__()
        for option, value in (("width", width), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise InvalidOption(f"dynamics 'concat_squash': option {option}: got {value}, expected at least 1")
        sizes = [width, *[hidden] * depth, width]
        self.layers = nn.ModuleList(ConcatSquashLayer(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = named_activation(activation)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width)``."""
        time = t.to(x).reshape(-1, 1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(time, x))
        return self.layers[-1](time, x)
