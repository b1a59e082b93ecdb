"""Weights that go linearly from knot to knot over depth."""

from __future__ import annotations

from odeframe import InvalidOption
from odeframe_plugins.controls.bases import Basis, BSpline
from odeframe_plugins.controls.basis_control import BasisControl, Init


class PiecewiseLinear(BasisControl):
    """``theta(t) = (1 - r) theta_j + r theta_{j+1}`` on the j-th of ``pieces`` equal parts, ``r`` from 0 to 1 on it.

    Continuous, with ``pieces + 1`` knots.  The weights' slope jumps at the knots, so that steps end there and schemes
    keep their order.

    Args:
        pieces: number of parts; default one a step of the solver.
        init: ``"reset"`` draws every further knot by the modules' own ``reset_parameters``; ``"copy"`` starts all from
            the values of the first: constant in time.

    Source: Queiruga et al. 2021, Stateful ODE-Nets using Basis Function Expansions, section 3.
    """

    word = "piecewise_linear"

    def __init__(self, pieces: int | None = None, init: Init = "reset") -> None:
        super().__init__(init)
        if pieces is not None and pieces < 1:
            raise InvalidOption(f"control 'piecewise_linear': option pieces: got {pieces}, expected at least 1")
        self._asked = pieces

    def choose(self, steps: int | None) -> Basis:
        """Hat functions."""
        pieces = self._asked or steps
        if pieces is None:
            raise InvalidOption(
                "control 'piecewise_linear': the solver has no fixed number of steps to take one piece each; say how "
                "many: {name: piecewise_linear, pieces: 8}"
            )
        return BSpline(1, pieces)
