"""Euler's step and a projection: the residual block whose activation stands after the sum."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeframe import Law, StepSolver
from odeframe.solver import Memory


class ProjectedEuler(StepSolver):
    """``x_{n+1} = relu(x_n + h f(t_n, x_n))``: Euler's step, then the nearest point with no negative component.

    Not a scheme for ``x' = f``: its limit is the projected system ``x' = f(t, x) - n``, ``x >= 0``, where ``n`` is what
    of ``f`` points out of the orthant at its faces (``x_i' = max(0, f_i)`` where ``x_i = 0``).  The two agree, to order
    1, as long as no component meets zero.  No order is claimed, since none holds for ``x' = f``, and a running cost is
    integrated beside the state, which is projected, not with it.

    Shapes: ``x`` ``(batch, *state)``, real.

    Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 3.2 (the block); Nagurney, Zhang 1996,
    Projected Dynamical Systems and Variational Inequalities with Applications, 2.2 (the limit) and 4 (the scheme).
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned")
    opaque = False
    conformance: ClassVar[dict[str, Any]] = {
        "test_solving_back_returns": "what the projection cuts off does not come back"
    }

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation and a projection."""
        return (x + dt * field(t, x)).relu(), ()
