"""The affine layers of a block."""

from __future__ import annotations

from torch import nn

from odeframe.block import Block

AFFINE = (nn.Linear, nn.modules.conv._ConvNd)


def affine_layers(block: Block) -> dict[str, nn.Linear | nn.modules.conv._ConvNd]:
    """Its linear layers and convolutions by name, without those of the solver."""
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, AFFINE) and not name.startswith("solver.")
    }


def outputs(layer: nn.Linear | nn.modules.conv._ConvNd) -> int:
    """The size of what a layer returns along dimension 1."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def inputs(layer: nn.Linear | nn.modules.conv._ConvNd) -> int:
    """How many numbers one output of a layer is a combination of."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    size = layer.in_channels // layer.groups
    for length in layer.kernel_size:
        size *= length
    return size
