"""Stems, transitions and heads for vectors and images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odeframe import InvalidOption
from odeframe.specification import NetworkSpec


class Reshape(nn.Module):
    """Gives each sample's output the shape asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, n)`` to ``(batch, *shape)``."""
        return x.reshape(x.shape[0], *self.shape)


class Augment(nn.Module):
    """Appends features that are zero along dimension 1: ``(batch, n, ...)`` to ``(batch, n + count, ...)``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """``(x, 0)``."""
        return torch.cat([x, x.new_zeros(x.shape[0], self.count, *x.shape[2:])], dim=1)


def is_image(spec: NetworkSpec) -> bool:
    """Whether a sample is ``(channels, height, width)``; a vector is ``(features,)``, anything else is refused."""
    if len(spec.input_shape) not in (1, 3):
        raise InvalidOption(
            f"this architecture takes vectors (features,) or images (channels, height, width), got samples of shape "
            f"{spec.input_shape}"
        )
    return len(spec.input_shape) == 3


def size(shape: tuple[int, ...]) -> int:
    """Product of the lengths."""
    product = 1
    for length in shape:
        product *= length
    return product


def stem(spec: NetworkSpec, width: int, stride: int = 1) -> nn.Module:
    """Lifts a sample to ``width`` features or channels; a stride lowers an image's resolution."""
    if is_image(spec):
        return nn.Conv2d(spec.input_shape[0], width, 3, stride=stride, padding=1)
    return nn.Linear(spec.input_shape[0], width)


def transition(spec: NetworkSpec, width: int, wider: int, normed: bool) -> nn.Module:
    """Between two stages: half the resolution for images, and more features."""
    if not is_image(spec):
        return nn.Linear(width, wider)
    layers = [*readout_layers(width, normed), nn.Conv2d(width, wider, 3, stride=2, padding=1)]
    return nn.Sequential(*layers)


def readout_layers(width: int, normed: bool) -> list[nn.Module]:
    """The norm and activation that close a chain of pre-activation blocks on images."""
    return [nn.GroupNorm(group_count(width), width), nn.ReLU()] if normed else [nn.ReLU()]


def group_count(width: int) -> int:
    """Groups of at least 8 channels where the width allows, of equal size."""
    return max(g for g in range(1, width // min(width, 8) + 1) if width % g == 0)


def head(spec: NetworkSpec, width: int, normed: bool, pool: int = 1) -> nn.Module:
    """From the last state to the output: an image averaged over ``pool`` by ``pool`` parts of it, then linear."""
    outputs, reshape = size(spec.output_shape), Reshape(spec.output_shape)
    if not is_image(spec):
        return nn.Sequential(nn.Linear(width, outputs), reshape)
    pooled = [nn.AdaptiveAvgPool2d(pool), nn.Flatten(), nn.Linear(pool * pool * width, outputs)]
    return nn.Sequential(*readout_layers(width, normed), *pooled, reshape)
