"""Several blocks side by side, whose mean is the field: the branches that shake-shake mixes."""

from __future__ import annotations

from torch import Tensor, nn

from odeframe import BranchedDynamics, Dynamics, InvalidOption
from odeframe_plugins.dynamics.conv import Conv
from odeframe_plugins.dynamics.mlp import MLP


class Branched(BranchedDynamics):
    """``f = mean_i f_i`` of blocks that are called as ``f_i(t, x)``."""

    def __init__(self, blocks: list[Dynamics]) -> None:
        super().__init__()
        if len(blocks) < 2:
            raise InvalidOption(f"option branches: got {len(blocks)}, expected at least 2")
        self.blocks = nn.ModuleList(blocks)

    def branches(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> tuple[Tensor, ...]:
        """Each block's value, of the state's shape."""
        return tuple(block(t, x) for block in self.blocks)


class BranchedMLP(Branched):
    """``f(t, x) = mean_i W2_i act(W1_i x + b1_i) + b2_i`` on vectors.

    Args:
        width: size of the state, ``x`` ``(batch, width)``.
        branches: how many, at least 2.
        hidden: size of the inner layers; default ``width``.
        activation: as for ``mlp``.
        time: whether the time is an input.

    Source: Gastaldi 2017, Shake-Shake regularization.
    """

    def __init__(
        self, width: int, branches: int = 2, hidden: int | None = None, activation: str = "tanh", time: bool = False
    ) -> None:
        super().__init__([MLP(width, hidden, activation, time=time) for _ in range(branches)])


class BranchedConv(Branched):
    """The mean of pre-activation convolutional blocks on images.

    Args:
        width: channels of the state, ``x`` ``(batch, width, height, wide)``.
        branches: how many, at least 2.
        hidden, activation, norm, kernel, time: as for ``conv``.

    Source: Gastaldi 2017, Shake-Shake regularization.
    """

    def __init__(
        self,
        width: int,
        branches: int = 2,
        hidden: int | None = None,
        activation: str = "relu",
        norm: str = "group",
        kernel: int = 3,
        time: bool = False,
    ) -> None:
        super().__init__([Conv(width, hidden, activation, norm, kernel, time) for _ in range(branches)])
