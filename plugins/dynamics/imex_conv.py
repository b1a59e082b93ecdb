"""A diffusing convolution inverted by the fast Fourier transform, and a convolutional block: IMEXnet's layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from odeframe import InvalidOption, SemilinearDynamics
from odeframe.field import per_sample
from odeframe_plugins.dynamics.conv import Conv


class IMEXConv(SemilinearDynamics):
    """``f(t, x) = -L x + F(t, x)`` on images, ``L = B^T B`` a circular convolution of each channel, ``F`` as ``conv``.

    ``B`` is a depthwise circular convolution with the trainable kernel ``filter``, so ``L`` is symmetric positive
    semi-definite whatever the weights are, and the Fourier transform diagonalises it: with ``b`` the transform of the
    kernel, ``L x = ifft(|b|^2 fft(x))`` and ``(I + h L)^{-1} x = ifft(fft(x) / (1 + h |b|^2))``.  The inverse is a full
    matrix: after one semi-implicit step every pixel depends on every other one, at the cost of two transforms.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        hidden: channels between the convolutions of ``F``; default ``width``.
        activation: as for ``mlp``.
        norm: ``"group"``, ``"batch"`` or ``"none"``.
        kernel: odd size of all kernels.
        time: whether the time is an input of ``F``.
        compensate: adds ``L x`` to ``F``, so that ``f`` is the block alone and ``L`` only steadies the scheme,
            ``x_{n+1} = (I + h L)^{-1} (x_n + h L x_n + h F(x_n))``: the form of the paper.

    Source: Haber, Lensink, Treister, Ruthotto 2019, IMEXnet: A Forward Stable Deep Neural Network, section 3.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        activation: str = "relu",
        norm: str = "group",
        kernel: int = 3,
        time: bool = False,
        compensate: bool = False,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise InvalidOption(f"dynamics 'imex_conv': option kernel: got {kernel}, expected an odd number")
        self.block = Conv(width, hidden, activation, norm, kernel, time)
        self.filter = nn.Parameter(torch.empty(width, kernel, kernel))
        self.compensate = compensate
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform on +-1/kernel: the eigenvalues of ``L`` have mean 1/3."""
        bound = 1 / self.filter.shape[-1]
        nn.init.uniform_(self.filter, -bound, bound)

    def eigenvalues(self, x: Tensor) -> Tensor:
        """``|b|^2``, ``(width, height, wide // 2 + 1)``, for images of the size of ``x``."""
        size, dtype = self.filter.shape[-1], torch.promote_types(self.filter.dtype, torch.float32)
        offsets = torch.arange(size, device=x.device, dtype=dtype) - size // 2

        def waves(frequencies: int, length: int) -> Tensor:
            k = torch.arange(frequencies, device=x.device, dtype=dtype)
            angle = -2 * math.pi / length * k[:, None] * offsets
            return torch.polar(torch.ones_like(angle), angle)

        rows, columns = waves(x.shape[-2], x.shape[-2]), waves(x.shape[-1] // 2 + 1, x.shape[-1])
        return (rows @ self.filter.to(rows.dtype) @ columns.T).abs().square()

    def matvec(self, x: Tensor) -> Tensor:
        """``L x``, ``(batch, width, height, wide)``."""
        return self._filtered(x, self.eigenvalues(x))

    def solve_shifted(self, dt: float | Tensor, rhs: Tensor) -> Tensor:
        """``(I + dt L)^{-1} rhs``, ``(batch, width, height, wide)``."""
        return self._filtered(rhs, 1 / (1 + per_sample(dt, rhs) * self.eigenvalues(rhs)))

    def nonlinear(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``F(t, x)``, or ``F(t, x) + L x`` with ``compensate``."""
        return self.block(t, x) + self.matvec(x) if self.compensate else self.block(t, x)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``-L x + F(t, x)``, or ``F(t, x)`` with ``compensate``."""
        return self.block(t, x) if self.compensate else super().forward(t, x, u)

    def _filtered(self, x: Tensor, factors: Tensor) -> Tensor:
        """``ifft(factors fft(x))``; half precision is transformed in single precision."""
        if x.shape[0] == 0:  # the transform of an empty batch is an error in some of torch's libraries
            return x * factors.sum().to(x.dtype)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.fft.irfft2(torch.fft.rfft2(wide) * factors, s=x.shape[-2:]).to(x.dtype)
