"""Convolutions on images whose layers are gated and shifted by the time: the field of a normalising flow."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from odeframe import Dynamics, InvalidOption
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import odd


class ConcatSquashConvLayer(nn.Module):
    """``(W * x + b) sigmoid(w_g t + b_g) + w_b t``, ``W *`` a convolution that keeps an image's size.

    Gate and shift are one number a channel: ``(batch, inputs, height, width)`` to ``(batch, outputs, height, width)``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.gate, self.shift = nn.Linear(1, outputs), nn.Linear(1, outputs, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Times ``(batch or 1, 1)``."""
        gate, shift = torch.sigmoid(self.gate(t)), self.shift(t)
        return self.conv(x) * gate[..., None, None] + shift[..., None, None]


class ConcatSquashConv(Dynamics):
    """``f(t, x)``, ``depth`` hidden layers ``act((W * x + b) sigmoid(w_g t + b_g) + w_b t)``, a last one without.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        hidden: channels of the hidden layers.
        depth: how many.
        activation: as for ``mlp``; smooth, since a density is the integral of a derivative.
        kernel: odd size of the kernels.

    Source: Grathwohl et al. 2019, FFJORD: Free-form Continuous Dynamics, appendix B.1.
    """

    def __init__(
        self, width: int, hidden: int = 32, depth: int = 2, activation: str = "softplus", kernel: int = 3
    ) -> None:
        super().__init__()
        for option, value in (("width", width), ("hidden", hidden), ("depth", depth)):
            if value < 1:
                raise InvalidOption(f"dynamics 'concat_squash_conv': option {option}: got {value}, expected at least 1")
        sizes, kernel = [width, *[hidden] * depth, width], odd(kernel)
        self.layers = nn.ModuleList(ConcatSquashConvLayer(a, b, kernel) for a, b in itertools.pairwise(sizes))
        self.activation = named_activation(activation)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width, height, wide)``."""
        time = t.to(x).reshape(-1, 1)
        for layer in self.layers[:-1]:
            x = self.activation(layer(time, x))
        return self.layers[-1](time, x)
