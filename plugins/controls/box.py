"""Weights within bounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeframe import InvalidOption
from odeframe.block import Block
from odeframe.control import ControlLaw
from odeframe_plugins.controls.constrained import Constrained


class Box(Constrained):
    """``low <= theta_i(t) <= high`` for every trainable parameter, kept by projection after each step of an optimiser.

    The control underneath is one whose parameters are values of the weights, or whose weights are means of its
    parameters, so that bounds on them are bounds at all times: ``constant``, ``piecewise_constant``,
    ``piecewise_linear``, ``galerkin`` with ``basis: bspline``; another one is refused.  Values outside are projected
    at the start too.

    A loop of one's own calls ``flow.control.project()`` after ``optimizer.step()``.

    Args:
        of: a word for the control underneath.
        low: lower bound.
        high: upper bound.
        pieces: passed on to ``of``, where it takes it.

    Source: Goldstein 1964, Convex programming in Hilbert space (projected gradients).
    """

    word = "box"
    ordered = True

    def __init__(self, of: Any = "constant", low: float = -1.0, high: float = 1.0, pieces: int | None = None) -> None:
        super().__init__(of, pieces)
        if not low < high:
            raise InvalidOption(f"control 'box': options low, high: got {low} and {high}, expected low < high")
        self.low, self.high = low, high

    def applies_to(self, value: Tensor) -> bool:
        """All parameters."""
        return True

    def constrain(self, value: Tensor) -> Tensor:
        """As it is: the projection keeps it inside."""
        return value

    def build(self, block: Block, steps: int | None) -> None:
        """Attaches the control underneath, and projects it."""
        super().build(block, steps)
        if not getattr(self.inner, "nodal", False):
            raise InvalidOption(
                f"control 'box': bounds on the parameters of {self.of!r} are no bounds on the weights that it "
                "computes; write of: constant, piecewise_constant, piecewise_linear, or {name: galerkin, "
                "basis: bspline}"
            )

    @property
    def nodal(self) -> bool:
        """As underneath."""
        return bool(getattr(self.inner, "nodal", False))

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The law underneath."""
        return self.inner.on(t, t_next)

    def project(self) -> None:
        """``theta <- min(max(theta, low), high)``."""
        super().project()
        with torch.no_grad():
            for parameter in self.inner.parameters():
                if parameter.requires_grad:
                    parameter.clamp_(self.low, self.high)
