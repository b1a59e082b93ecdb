"""The time as an input of every affine layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe import Control, InvalidOption
from odeframe.block import Block
from odeframe.control import ControlLaw, FunctionalLaw
from odeframe_plugins.controls.basis_control import share_of
from odeframe_plugins.controls.layers import affine_layers, inputs, outputs


class TimeConcat(Control):
    """``bias(t) = b + s w`` in every linear layer and convolution, ``s = (t - t0) / (T - t0)``; the rest is constant.

    This is what appending ``s`` to a layer's input does, ``[W w] [x; s] + b = W x + (b + s w)``, for any module and
    without a change of its code.  (A convolution with zero padding sees a smaller ``s`` at the border of an appended
    channel; here the border is like the inside.)  Layers without a bias get ``s w``.

    Raises:
        InvalidOption: the block has no affine layer.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations, whose layers concatenate t; Dupont et al. 2019.
    """

    traits: ClassVar[tuple[str, ...]] = ("open_loop", "tied", "time_varying")

    def build(self, block: Block, steps: int | None) -> None:
        """Draws a slope for every layer's bias, as a column of its weights would be."""
        layers = affine_layers(block)
        if not layers:
            raise InvalidOption(
                "control 'time_concat': the dynamics have no linear layer or convolution to give the time to; write "
                "control='galerkin', or dynamics that use t"
            )
        self._block, self._names = block, [f"{name}.bias" for name in layers]
        self.slopes = nn.ParameterList()
        for layer in layers.values():
            bound = (inputs(layer) + 1) ** -0.5
            self.slopes.append(nn.Parameter(layer.weight.new_empty(outputs(layer)).uniform_(-bound, bound)))

    @property
    def block(self) -> Block:
        """The block, with its own parameters."""
        return self._block

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The same line on every interval."""
        return FunctionalLaw(self._block, self.values, self, t)

    def values(self, t: Tensor) -> dict[str, Tensor]:
        """The parameters at a time, by name."""
        s = share_of(t, self.horizon, "time_concat")
        values: dict[str, Tensor] = dict(self._block.named_parameters())
        for name, slope in zip(self._names, self.slopes, strict=True):
            shift = slope * (s.to(slope) if torch.is_tensor(s) else s)
            values[name] = values[name] + shift if name in values else shift
        return values
