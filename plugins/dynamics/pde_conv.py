"""A differential operator with trainable coefficients, whose derivatives are convolutions with fixed moments."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from odeframe import Dynamics, InvalidOption
from odeframe.options import check_positive


class PDEConv(Dynamics):
    """``u_t = sum_{i+j <= order} c_ij D_ij u`` on periodic images, ``D_ij`` a convolution that means ``d_x^i d_y^j``.

    The kernel ``q`` of ``D_ij`` has the moments ``M_kl = sum_m q[m] m_1^k m_2^l / (k! l!)``.  With ``M_ij = 1`` and the
    others of ``k + l < i + j + accuracy`` equal to 0, ``q / spacing^(i+j)`` is the derivative up to an error of order
    ``accuracy``, whatever the moments beyond are: those may be trained, and with them the kernel, beside the ``c_ij``.
    Moments of ``k + l <= order`` are fixed in all of them, or one kernel could stand in for another derivative.
    ``x`` runs along the height, ``y`` along the width.

    Channels of the state beyond the first ``width`` are records that stay as they are.

    Args:
        width: channels that move, each by the same operator.
        spacing: distance of two pixels, in the unit of ``x``.
        order: highest order of a derivative.
        kernel: odd size of the kernels, above ``order``.
        accuracy: order of the error of each derivative.
        train_kernels: whether the free moments are trained; else they are zero.

    Attributes:
        coefficients: the ``c_ij`` ``(num_terms,)``, in the order of ``terms``.
        terms: the pairs ``(i, j)``.

    Source: Long, Lu, Ma, Dong 2018, PDE-Net: Learning PDEs from Data, sections 2.1 and 2.2.
    """

    def __init__(
        self,
        width: int = 1,
        spacing: float = 1.0,
        order: int = 2,
        kernel: int = 5,
        accuracy: int = 2,
        train_kernels: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or kernel <= order:
            raise InvalidOption(f"dynamics 'pde_conv': option kernel: got {kernel}, expected an odd number > {order}")
        for option, value, least in (("width", width, 1), ("order", order, 0), ("accuracy", accuracy, 1)):
            if value < least:
                raise InvalidOption(f"dynamics 'pde_conv': option {option}: got {value}, expected at least {least}")
        check_positive("dynamics 'pde_conv'", spacing=spacing)
        self.width, self.spacing = width, spacing
        self.terms = tuple((i, n - i) for n in range(order + 1) for i in range(n, -1, -1))
        self.coefficients = nn.Parameter(torch.empty(len(self.terms)))
        offsets = torch.arange(kernel, dtype=torch.float64) - kernel // 2
        powers = torch.stack([offsets**k / math.factorial(k) for k in range(kernel)])
        self.register_buffer("from_moments", torch.linalg.inv(powers), persistent=False)
        ones, free = torch.zeros(2, len(self.terms), kernel, kernel, dtype=torch.float64)
        for row, (i, j) in enumerate(self.terms):
            ones[row, i, j] = 1
            total = torch.arange(kernel)[:, None] + torch.arange(kernel)
            free[row] = total >= max(i + j + accuracy, order + 1)
        self.register_buffer("ones", ones, persistent=False)
        self.register_buffer("free", free, persistent=False)
        self.moments = nn.Parameter(torch.empty(len(self.terms), kernel, kernel)) if train_kernels else None
        self.reset_parameters()

    from_moments: Tensor
    ones: Tensor
    free: Tensor

    def reset_parameters(self) -> None:
        """No derivative counts, and the free moments are zero."""
        nn.init.zeros_(self.coefficients)
        if self.moments is not None:
            nn.init.zeros_(self.moments)

    def kernels(self) -> Tensor:
        """The kernels ``q``, ``(num_terms, kernel, kernel)``: ``q = P^{-1} M P^{-T}`` for ``P_km = m^k / k!``."""
        dtype = self.coefficients.dtype
        moments = self.ones.to(dtype)
        if self.moments is not None:
            moments = moments + self.free.to(dtype) * self.moments
        inverse = self.from_moments.to(dtype)
        return inverse @ moments @ inverse.t()

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``u_t`` for the first ``width`` channels, zero for the rest; ``(batch, channels, height, wide)``."""
        scales = x.new_tensor([self.spacing ** -(i + j) for i, j in self.terms])
        weight = ((self.coefficients * scales)[:, None, None] * self.kernels()).sum(0)
        half, moving = weight.shape[-1] // 2, x[:, : self.width]
        if min(x.shape[2:]) < weight.shape[-1]:
            raise InvalidOption(
                f"dynamics 'pde_conv': option kernel: got {weight.shape[-1]} on images of {tuple(x.shape[2:])} pixels, "
                "expected kernels that fit into them"
            )
        padded = functional.pad(moving, (half, half, half, half), mode="circular")
        rate = functional.conv2d(padded, weight.expand(self.width, 1, -1, -1), groups=self.width)
        still = x.shape[1] - self.width
        return rate if not still else torch.cat([rate, torch.zeros_like(x[:, self.width :])], dim=1)

    def named_coefficients(self) -> dict[tuple[int, int], float]:
        """``{(i, j): c_ij}``."""
        return dict(zip(self.terms, self.coefficients.tolist(), strict=True))
