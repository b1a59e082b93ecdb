"""Two convolutions on images."""

from __future__ import annotations

from torch import Tensor, nn

from odeframe import Dynamics
from odeframe_plugins.dynamics.activations import activation as named_activation
from odeframe_plugins.dynamics.activations import inner_size, norm_2d, odd, with_time


class Conv(Dynamics):
    """``f(t, x) = conv2(act(norm2(conv1(act(norm1(x))))))``, the pre-activation residual block on images.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        hidden: channels between the convolutions; default ``width``.
        activation: as for ``mlp``.
        norm: ``"group"``, ``"batch"`` or ``"none"``.
        kernel: odd size of the kernels.
        time: whether the time is one more input channel of each convolution.
        outputs: channels of ``f``; default ``width``, else a part of another block.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks, figure 4(e).
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: str = "relu",
        norm: str = "group",
        kernel: int = 3,
        time: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        hidden, kernel = inner_size(hidden, width), odd(kernel)
        self.norm1, self.norm2 = norm_2d(norm, width), norm_2d(norm, hidden)
        self.conv1 = nn.Conv2d(width + time, hidden, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(hidden + time, outputs or width, kernel, padding=kernel // 2)
        self.activation, self.time = named_activation(activation), time

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``dx/dt``, ``(batch, width, height, wide)``."""
        x = self.activation(self.norm1(x))
        x = self.activation(self.norm2(self.conv1(with_time(t, x) if self.time else x)))
        return self.conv2(with_time(t, x) if self.time else x)
