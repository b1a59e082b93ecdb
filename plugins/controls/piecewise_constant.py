"""A set of parameters for each of equal intervals of depth: the layers of a residual network."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from odeframe import Control, InvalidOption
from odeframe.block import Block, fresh_copy
from odeframe.control import BlockLaw, ControlLaw, check_factor
from odeframe.drive import equal_breakpoints, piece_index


class PiecewiseConstant(Control):
    """``theta(t) = theta_j`` on the j-th of ``pieces`` equal parts of the horizon.

    Each piece is a block of its own, with its own buffers; the first is the block that was given.

    Args:
        pieces: number of parts; default one a step of the solver.
        init: ``"reset"`` draws every further piece by the modules' own ``reset_parameters``; ``"copy"`` starts all
            from the values of the first.

    Source: E 2017, A Proposal on Machine Learning via Dynamical Systems; Haber, Ruthotto 2017.
    """

    traits: ClassVar[tuple[str, ...]] = ("open_loop", "piecewise")
    nodal: ClassVar[bool] = True  # its parameters are values of theta: bounds on them are bounds on it

    def __init__(self, pieces: int | None = None, init: Literal["reset", "copy"] = "reset") -> None:
        super().__init__()
        if pieces is not None and pieces < 1:
            raise InvalidOption(f"control 'piecewise_constant': option pieces: got {pieces}, expected at least 1")
        if init not in ("reset", "copy"):
            raise InvalidOption(f"control 'piecewise_constant': option init: got {init!r}, expected 'reset' or 'copy'")
        self._pieces, self._init = pieces, init
        self.blocks = nn.ModuleList()

    def build(self, block: Block, steps: int | None) -> None:
        """Makes the pieces."""
        pieces = self._pieces or steps
        if pieces is None:
            raise InvalidOption(
                "control 'piecewise_constant': the solver has no fixed number of steps to take one piece each; say how "
                "many: {name: piecewise_constant, pieces: 8}"
            )
        twin = fresh_copy if self._init == "reset" else copy.deepcopy
        self.blocks = nn.ModuleList([block, *(twin(block) for _ in range(pieces - 1))])

    @property
    def pieces(self) -> int:
        """How many parts the horizon has."""
        return len(self.blocks)

    @property
    def block(self) -> Block:
        """The first piece."""
        return self.blocks[0]  # type: ignore[return-value]

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The piece that holds the interval."""
        blocks = self.blocks  # looked up once: a network has many steps
        return BlockLaw(blocks[piece_index(t, t_next, self.horizon, len(blocks))])  # type: ignore[arg-type]

    def breakpoints(self) -> tuple[float, ...]:
        """The times between pieces."""
        return equal_breakpoints(self.horizon, self.pieces)

    def refine(self, factor: int) -> None:
        """Splits every piece into ``factor`` equal ones with its values and buffers: the same function of time."""
        check_factor(factor, "control 'piecewise_constant': refine")
        self.blocks = nn.ModuleList(
            twin for block in self.blocks for twin in (block, *(copy.deepcopy(block) for _ in range(factor - 1)))
        )

    def coarsen(self, factor: int) -> None:
        """Joins ``factor`` neighbours each: their mean, with the buffers of the first."""
        check_factor(factor, "control 'piecewise_constant': coarsen")
        if self.pieces % factor:
            raise InvalidOption(
                f"control 'piecewise_constant': coarsen: got factor {factor}, expected a divisor of its "
                f"{self.pieces} pieces"
            )
        kept = [self.blocks[i] for i in range(0, self.pieces, factor)]
        with torch.no_grad():
            for i, block in enumerate(kept):
                joined = [dict(self.blocks[i * factor + k].named_parameters()) for k in range(factor)]
                for name, parameter in block.named_parameters():
                    parameter.copy_(torch.stack([values[name] for values in joined]).mean(0))
        self.blocks = nn.ModuleList(kept)
