"""Explicit Runge-Kutta steps whose coefficients are trained, and whose stages may have blocks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odeframe import InvalidOption, Law, StepSolver
from odeframe.errors import suggestion
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers import tableaus
from odeframe_plugins.solvers.blocks import blocks_of

METHODS = {
    "midpoint": tableaus.MIDPOINT,
    "heun": tableaus.HEUN,
    "ralston": tableaus.RALSTON,
    "ssprk3": tableaus.SSPRK3,
    "rk4": tableaus.RK4,
    "rk38": tableaus.RK38,
}


class TrainedRungeKutta(StepSolver):
    """``z_i = f_i(t + c_i h, x + h sum_{j<i} a_ij z_j)``, ``x_new = x + h sum_i b_i z_i``: RKNet's block.

    ``a_ij`` is that of a textbook tableau plus a trained ``p_ij``, ``b_i`` is its ``b_i`` plus ``q_i - mean q``: the
    weights always add up to 1, and ``c_i = sum_j a_ij``.  ``p`` and ``q`` start from 0 and are parameters of the
    solver, so a piecewise control has a set a piece.  Where the stages share their block the order is 1 whatever the
    coefficients become, and the tableau's until they are trained, which is the order that is stated.  With blocks of
    the stages' own (``untied``) there is no one ``f`` and no order.

    Args:
        method: the tableau to start from: midpoint, heun, ralston, ssprk3, rk4 or rk38.
        trainable: whether the coefficients are trained; if not they stay the tableau's.
        untied: whether each stage has a block of its own.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``; ``p`` ``(s (s - 1) / 2,)``, row by row, ``q`` ``(s,)``.

    Source: Zhu, Chang, Fu 2018, Convolutional Neural Networks combined with Runge-Kutta Methods (1802.08831),
    section 3.
    """

    opaque = False  # the stages may be different fields, which a running cost cannot follow

    def __init__(
        self,
        method: str = "rk4",
        trainable: bool = True,
        untied: bool = False,
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        if method not in METHODS:
            raise InvalidOption(
                f"solver 'trained_runge_kutta': option method: got {method!r}, expected one of {', '.join(METHODS)}."
                f"{suggestion(method, METHODS)}"
            )
        tableau = METHODS[method]
        self.method, self.trainable, self.untied = method, trainable, untied
        self.traits = ("step", "partitioned", *(("trainable",) if trainable else ()))
        self.slots = len(tableau.b) if untied else 1
        self.__dict__["order"] = None if untied else tableau.order
        self._a, self._b = tableau.matrix, [float(v) for v in tableau.b]
        if trainable:
            stages = len(self._b)
            self.p, self.q = nn.Parameter(torch.empty(stages * (stages - 1) // 2)), nn.Parameter(torch.empty(stages))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the coefficients to the tableau's."""
        if self.trainable:
            nn.init.zeros_(self.p)
            nn.init.zeros_(self.q)

    def coefficients(self, like: Tensor) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        """The rows of ``a`` and the weights ``b``: numbers, or 0-d tensors of the dtype and device of ``like``."""
        if not self.trainable:
            return self._a, self._b
        p, q = self.p.to(like), self.q.to(like)
        rows = [[a + p[i * (i - 1) // 2 + j] for j, a in enumerate(row)] for i, row in enumerate(self._a)]
        return rows, [b + q[i] - q.mean() for i, b in enumerate(self._b)]

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation a stage."""
        rows, weights = self.coefficients(x)
        laws = blocks_of(field, self.slots) if self.slots > 1 else [field] * len(weights)
        stages: list[Tensor] = []
        for law, row in zip(laws, rows, strict=True):
            node, inner = t, x
            for a, z in zip(row, stages, strict=True):
                node = node + (a.to(t) if torch.is_tensor(a) else a) * dt
                inner = inner + dt * a * z
            stages.append(law(node, inner))
        for b, z in zip(weights, stages, strict=True):
            x = x + dt * b * z
        return x, ()
