"""Convolutions one after the other on images, without norms."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from odeframe import Dynamics, InvalidOption
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import inner_size, odd


class ConvStack(Dynamics):
    """``f(x) = K_n act(... act(K_1 x + b_1) ...) + b_n``, the residual unit of image restoration.

    No norm: the strength of a degradation is in the scale of the state, which a norm would hide.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        hidden: channels between the convolutions; default ``width``.
        depth: how many convolutions, at least 2.
        activation: as for ``mlp``.
        kernel: odd size of the kernels.

    Source: Zhang, Lu, Liu, Dong 2019, Dynamically Unfolding Recurrent Restorer, section 3 (restoration unit).
    """

    def __init__(
        self, width: int, hidden: int | None = None, depth: int = 2, activation: str = "relu", kernel: int = 3
    ) -> None:
        super().__init__()
        if depth < 2:
            raise InvalidOption(f"dynamics 'conv_stack': option depth: got {depth}, expected at least 2")
        inner, kernel = inner_size(hidden, width), odd(kernel)
        sizes = [width, *[inner] * (depth - 1), width]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), named_activation(activation)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width, height, wide)``."""
        return self.layers(x)
