"""The momentum residual network: a velocity that follows the blocks, in steps that can be undone."""

from __future__ import annotations

from typing import ClassVar

from odeframe import build
from odeframe.flow import Choice
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.staged import Staged


class MomentumNet(Staged):
    """``v_{k+1} = g v_k + (1 - g) f(x_k, theta_k)``, ``x_{k+1} = x_k + h v_{k+1}``, first step Euler's.

    An extension of the review: later than 2019.  Any block will do, and every step can be undone, so that
    ``gradient: reversible`` trains it in memory that does not grow with ``blocks``; each step back divides the
    round-off by ``g``.

    Args:
        gamma: ``g`` in (0, 1); a word for the solver replaces it.
        width, blocks, stages, step: as for ``resnet``.

    Source: Sander, Ablin, Blondel, Peyre 2021, Momentum Residual Neural Networks.
    """

    name = "momentum"
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu", "preactivate": True}

    def __init__(
        self, gamma: float = 0.9, width: int = 16, blocks: int = 4, stages: int | None = None, step: float = 1.0
    ) -> None:
        super().__init__(width, blocks, stages, step)
        self.gamma = gamma
        build("solver", "momentum", gamma=gamma)  # holds the option against the solver's

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The momentum scheme."""
        return {"name": "momentum", "gamma": self.gamma} if kind == "solver" else super().default(kind, spec)
