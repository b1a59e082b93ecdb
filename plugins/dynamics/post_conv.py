"""The post-activation residual block on images."""

from __future__ import annotations

from torch import Tensor, nn

from odeframe import Dynamics
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import inner_size, norm_2d, odd


class PostConv(Dynamics):
    """``f(t, x) = norm2(conv2(act(norm1(conv1(x)))))``; the last activation stands after the sum, in the scheme.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        hidden: channels between the convolutions; default ``width``.
        activation, norm, kernel: as for ``conv``.

    Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 3.2.
    """

    def __init__(
        self, width: int, hidden: int | None = None, activation: str = "relu", norm: str = "group", kernel: int = 3
    ) -> None:
        super().__init__()
        hidden, kernel = inner_size(hidden, width), odd(kernel)
        self.conv1, self.norm1 = nn.Conv2d(width, hidden, kernel, padding=kernel // 2), norm_2d(norm, hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, width, kernel, padding=kernel // 2), norm_2d(norm, width)
        self.activation = named_activation(activation)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width, height, wide)``."""
        return self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
