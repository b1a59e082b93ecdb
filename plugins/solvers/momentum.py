"""Momentum residual networks: a velocity that follows the field, in a step that can be undone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from odeframe import InvalidOption, Law, ReversibleSolver
from odeframe.compiled import Compile
from odeframe.solver import Memory, OnFailure


class Momentum(ReversibleSolver):
    """``v_{n+1} = g v_n + (1 - g) f(t_n, x_n)``, ``x_{n+1} = x_n + h v_{n+1}``: order 1 for ``x' = f``.

    ``x_n + h v_n g / (1 - g)`` moves by ``h f(t_n, x_n)`` a step, so that ``x`` lags behind Euler's method by
    ``g / (1 - g)`` steps: order 1 for a fixed ``g`` (from rest it is short of the exact solution by that lag from the
    start, and no order is stated).  With ``g = 1 - h / e`` the scheme solves ``e x'' + x' = f`` instead.  The memory is
    ``v``, ``(batch, *state)``, carried across jumps of the control.

    A step back is ``x_n = x_{n+1} - h v_{n+1}``, ``v_n = (v_{n+1} - (1 - g) f(t_n, x_n)) / g``, whatever ``f`` is.
    Each divides the round-off of ``v`` by ``g``: over ``N`` steps it grows like ``g^{-N}``, 4e4 for ``g = 0.9`` and
    100 steps.  The paper keeps the lost bits; this scheme does not.

    Args:
        steps: equal steps from the first to the last time.
        dt: step length instead.
        gamma: ``g`` in (0, 1); networks take 0.9.
        start: ``"euler"`` starts from the velocity ``f_0``, which makes the first step Euler's; ``"rest"`` from zero.
        on_failure: as for every solver.
        compile: as for every solver.

    Source: Sander, Ablin, Blondel, Peyre 2021, Momentum Residual Neural Networks, section 3.
    """

    order = 1
    traits: ClassVar[tuple[str, ...]] = ("step", "reversible", "multistep")

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        gamma: float = 0.5,
        start: Literal["euler", "rest"] = "euler",
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if not 0 < gamma < 1:
            raise InvalidOption(
                f"solver 'momentum': option gamma: got {gamma}, expected a number in (0, 1); at 0 the scheme is euler"
            )
        if start not in ("euler", "rest"):
            raise InvalidOption(f"solver 'momentum': option start: got {start!r}, expected 'euler' or 'rest'")
        self.gamma, self.start = gamma, start
        if start == "rest":
            self.__dict__["order"] = None  # of this instance alone

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The velocity before the first step."""
        return (field(t, x) if self.start == "euler" else torch.zeros_like(x),)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The new velocity, and a step along it."""
        velocity = self.gamma * memory[0] + (1 - self.gamma) * field(t, x)
        return x + dt * velocity, (velocity,)

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The step taken back, and the velocity before it."""
        before = x - dt * memory[0]
        return before, ((memory[0] - (1 - self.gamma) * field(t, before)) / self.gamma,)
