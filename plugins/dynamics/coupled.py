"""RevNet's block on images: two halves of the channels, each moved by a convolutional block of the other."""

from __future__ import annotations

from torch import Tensor

from odeframe import InvalidOption, SeparableDynamics
from odeframe_plugins.dynamics.conv import Conv


class CoupledConv(SeparableDynamics):
    """``y' = F(z)``, ``z' = G(y)`` with pre-activation convolutional blocks on the halves of the channels.

    Under ``symplectic_euler`` with unit steps it is RevNet's block.  A norm within ``F`` and ``G`` leaves the coupling
    invertible; group norm keeps no statistics, so that to undo a step changes nothing.

    Args:
        width: even number of channels, ``x`` ``(batch, width, height, wide)``.
        hidden: channels between the convolutions; default half the width.
        activation, norm, kernel: as for ``conv``.

    Source: Gomez et al. 2017, The Reversible Residual Network, (6).
    """

    def __init__(
        self, width: int, hidden: int | None = None, activation: str = "relu", norm: str = "group", kernel: int = 3
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise InvalidOption(
                f"dynamics 'coupled_conv': option width: got {width}, expected an even number, for two halves"
            )
        self.by_z, self.by_y = (Conv(width // 2, hidden, activation, norm, kernel) for _ in range(2))

    def first(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``y' = F(z)``."""
        return self.by_z(t, z)

    def second(self, t: Tensor, y: Tensor, u: Tensor | None = None) -> Tensor:
        """``z' = G(y)``."""
        return self.by_y(t, y)
