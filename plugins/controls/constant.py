"""Weight-tied: one set of parameters for all depths."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from odeframe import Control
from odeframe.block import Block
from odeframe.control import BlockLaw, ControlLaw


class Constant(Control):
    """``theta(t) = theta``: the dynamics keep their own parameters.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations.
    """

    traits: ClassVar[tuple[str, ...]] = ("open_loop", "tied")
    nodal: ClassVar[bool] = True  # its parameters are values of theta: bounds on them are bounds on it

    def build(self, block: Block, steps: int | None) -> None:
        """Takes the block as it is."""
        self._block = block

    @property
    def block(self) -> Block:
        """The block itself."""
        return self._block

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The block, whatever the interval."""
        return BlockLaw(self._block)
