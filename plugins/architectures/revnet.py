"""RevNet: two halves of the state that move each other in turn, so that every step can be undone."""

from __future__ import annotations

from typing import ClassVar

from odeframe.flow import Choice
from odeframe_plugins.architectures.staged import Staged


class RevNet(Staged):
    """``y_{k+1} = y_k + h F(z_k)``, ``z_{k+1} = z_k + h G(y_{k+1})``: symplectic Euler for two halves of the state.

    Undone by ``z_k = z_{k+1} - h G(y_{k+1})``, ``y_k = y_{k+1} - h F(z_k)``: with ``gradient: reversible`` the states
    within a stage are not kept but computed again on the way back, and memory does not grow with ``blocks``.  The
    transitions between stages are not invertible: their inputs are kept.  Reversible is not stable: with unit steps and
    large weights states grow, and what is lost of them in round-off grows too; ``step`` bounds both.

    Args:
        width: channels or features of the first stage, even.
        blocks, stages, step: as for ``resnet``; a block is ``F`` and ``G``.

    Source: Gomez et al. 2017, The Reversible Residual Network: Backpropagation Without Storing Activations.
    """

    name = "revnet"
    parts = 2
    vector_block: ClassVar[Choice] = "coupled_mlp"
    image_block: ClassVar[Choice] = "coupled_conv"
    defaults: ClassVar[dict[str, Choice]] = {"solver": "symplectic_euler"}

    def __init__(self, width: int = 32, blocks: int = 3, stages: int | None = None, step: float = 1.0) -> None:
        super().__init__(width, blocks, stages, step)
