"""A linear operator K with its transpose, dense or convolutional: what blocks with a structure are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from odeframe_plugins.dynamics.activations import odd


class Operator(nn.Module, ABC):
    """``K`` from ``columns`` to ``rows`` features along dimension 1, and its exact transpose ``K^T``.

    Attributes:
        weight: the entries, ``(rows, columns, ...)``.
    """

    weight: nn.Parameter

    def reset_parameters(self) -> None:
        """Uniform in ``1 / sqrt(fan in)``, as ``nn.Linear`` and ``nn.Conv2d``."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``K x``."""

    @abstractmethod
    def transpose(self, y: Tensor) -> Tensor:
        """``K^T y``."""


class Dense(Operator):
    """A matrix ``(rows, columns)`` on vectors ``(batch, columns)``."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, columns)`` to ``(batch, rows)``."""
        return functional.linear(x, self.weight)

    def transpose(self, y: Tensor) -> Tensor:
        """``(batch, rows)`` to ``(batch, columns)``."""
        return functional.linear(y, self.weight.t())


class Convolution(Operator):
    """A convolution with zero padding that keeps the size of images ``(batch, columns, height, wide)``.

    Args:
        rows: channels of ``K x``.
        columns: channels of ``x``.
        kernel: odd size of the kernels.
    """

    def __init__(self, rows: int, columns: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns, odd(kernel), kernel))
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, columns, height, wide)`` to ``(batch, rows, height, wide)``."""
        return functional.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)

    def transpose(self, y: Tensor) -> Tensor:
        """``(batch, rows, height, wide)`` to ``(batch, columns, height, wide)``."""
        return functional.conv_transpose2d(y, self.weight, padding=self.weight.shape[-1] // 2)


class Bias(nn.Module):
    """``x + b`` with one number a feature along dimension 1.

    Args:
        features: size of dimension 1.
        fan_in: of the operator before it, for its draw.
    """

    def __init__(self, features: int, fan_in: int) -> None:
        super().__init__()
        self.bias, self._bound = nn.Parameter(torch.empty(features)), 1 / math.sqrt(fan_in)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ``1 / sqrt(fan in)``."""
        nn.init.uniform_(self.bias, -self._bound, self._bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, features, ...)`` to the same."""
        return x + self.bias.reshape(-1, *[1] * (x.dim() - 2))


class Affine(nn.Module):
    """``K x + b``; ``operator`` has the transpose."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator
        self.offset = Bias(operator.weight.shape[0], operator.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        """``K x + b``."""
        return self.offset(self.operator(x))
