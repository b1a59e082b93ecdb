"""Reversible schemes for any dynamics: what a step forgets of the state, its memory keeps."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from odeframe import Field, InvalidOption, Law, ReversibleSolver
from odeframe.compiled import Compile
from odeframe.grid import Grid
from odeframe.solver import Memory, OnFailure

Restart = Literal["never", "breakpoints"]


class ReversibleMidpoint(ReversibleSolver):
    """The two-step (leapfrog) midpoint rule ``x_{n+1} = x_{n-1} + 2 h f(t_n, x_n)``, order 2, first step Euler's.

    The memory is the slope of the last step, ``s_n = (x_n - x_{n-1}) / h``, ``(batch, *state)``:
    ``s_{n+1} = 2 f(t_n, x_n) - s_n``, ``x_{n+1} = x_n + h s_{n+1}``, and back ``x_n = x_{n+1} - h s_{n+1}``,
    ``s_n = 2 f(t_n, x_n) - s_{n+1}``.  The slope is carried across jumps of the control, as midpoint networks need, and
    the order holds within pieces.  Where the length of the steps changes (an output time off the grid) the rule starts
    anew: with Euler's steps that costs one order if it happens at every step, with midpoint steps none; a reversible
    gradient keeps one slope for each change.

    Neutral fields only: for an eigenvalue ``lambda`` with negative real part the second root of
    ``r^2 - 2 h lambda r - 1 = 0`` grows like ``exp(-Re(lambda) t)``, forwards and backwards.

    Args:
        steps: equal steps from the first to the last time.
        dt: step length instead.
        start: how the first step is taken: ``"euler"``, or ``"midpoint"``, of order 2 with one more evaluation.
        on_failure: as for every solver.
        compile: as for every solver.

    Source: Hairer, Norsett, Wanner 1993, III.1; Chang et al. 2018, Reversible Architectures for Arbitrarily Deep
    Residual Neural Networks.
    """

    order = 2
    traits: ClassVar[tuple[str, ...]] = ("step", "reversible", "multistep")

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        start: Literal["euler", "midpoint"] = "euler",
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if start not in ("euler", "midpoint"):
            raise InvalidOption(
                f"solver 'reversible_midpoint': option start: got {start!r}, expected 'euler' or 'midpoint'"
            )
        self.start = start
        if start == "euler":  # which is h^2 off, at each start
            self.conformance = {"exact_degree": 1, "unequal_order": 1}

    def grid(self, field: Field, times: Tensor) -> Grid:
        """The grid, with a new start wherever the length of the steps changes."""
        grid = super().grid(field, times)
        lengths = [abs(float(b - a)) for a, b in itertools.pairwise(node.detach() for node in grid.nodes)]
        changes = (
            k for k, (a, b) in enumerate(itertools.pairwise(lengths), start=1) if abs(b - a) > 1e-9 * max(lengths)
        )
        return replace(grid, restarts=frozenset(changes))

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The slope whose reflection at ``f_0`` is that of the first step."""
        slope = field(t, x)
        if self.start == "euler":
            return (slope,)
        half = 0.5 * (field.t_next - t)
        return (2 * slope - field(t + half, x + half * slope),)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The slope reflected at the field, and a step along it."""
        slope = 2 * field(t, x) - memory[0]
        return x + dt * slope, (slope,)

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The step taken back, and the same reflection."""
        before = x - dt * memory[0]
        return before, (2 * field(t, before) - memory[0],)


class AsynchronousLeapfrog(ReversibleSolver):
    """``m = x + h v / 2``, ``u = f(t + h/2, m)``, ``v' = v + 2 eta (u - v)``, ``x' = m + h v' / 2``: order 2, MALI's.

    The memory is the velocity ``v``, ``(batch, *state)``, ``f_0`` at the start.  With damping ``eta < 1`` the order is
    1, and a step back divides by ``1 - 2 eta``.  One evaluation a step, either way.

    Without damping, neutral fields only: errors grow like ``exp(-Re(lambda) t)`` for a decaying ``lambda``.

    Args:
        steps: equal steps from the first to the last time.
        dt: step length instead.
        damping: ``eta`` in (0, 1], not 1/2; 1 is none.
        restart: ``"never"`` carries the velocity across jumps of the control: the order holds within pieces.
            ``"breakpoints"`` starts anew there: the order holds throughout, and a reversible gradient keeps one
            velocity for each jump.
        on_failure: as for every solver.
        compile: as for every solver.

    Source: Zhuang et al. 2021, MALI: A Memory Efficient and Reverse Accurate Integrator for Neural ODEs; Mutze 2013.
    """

    order = 2
    traits: ClassVar[tuple[str, ...]] = ("step", "reversible")

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        damping: float = 1.0,
        restart: Restart = "never",
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if not 0 < damping <= 1 or damping == 0.5:
            raise InvalidOption(
                f"solver 'alf': option damping: got {damping}, expected a number in (0, 1] other than 0.5, at which a "
                "step cannot be undone"
            )
        self.damping, self.restart = damping, check_restart("alf", restart)
        if damping != 1:
            self.__dict__["order"] = 1  # of this instance alone: the class states the undamped order

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """``v_0 = f_0``."""
        return (field(t, x),)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Half a drift, the velocity reflected at the field there, half a drift."""
        middle = x + 0.5 * dt * memory[0]
        velocity = memory[0] + 2 * self.damping * (field(t + 0.5 * dt, middle) - memory[0])
        return middle + 0.5 * dt * velocity, (velocity,)

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The same backwards."""
        middle = x - 0.5 * dt * memory[0]
        slope = field(t + 0.5 * dt, middle)
        before = (memory[0] - 2 * self.damping * slope) / (1 - 2 * self.damping)
        return middle - 0.5 * dt * before, (before,)


class ReversibleHeun(ReversibleSolver):
    """``y' = 2 x - y + h f(t, y)``, ``x' = x + h/2 (f(t, y) + f(t + h, y'))``: order 2, also across jumps.

    The memory is the shadow state ``y``, ``(batch, *state)``, ``x_0`` at the start.  Two evaluations a step, either
    way: the slope at ``y`` is taken from the law of this step and not kept from the last one, whose control may be
    another; so the step can be undone, and keeps its order, under a piecewise constant control.

    Neutral fields only: on ``x' = lambda x`` stable for ``h lambda`` on the imaginary axis in [-i, i] and nowhere else.

    Source: Kidger et al. 2021, Efficient and Accurate Gradients for Neural SDEs, algorithm 1 (its drift part).
    """

    order = 2
    traits: ClassVar[tuple[str, ...]] = ("step", "reversible")

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """``y_0 = x_0``."""
        return (x,)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The shadow leaps over the state, and the state takes the trapezoidal rule along it."""
        slope = field(t, memory[0])
        shadow = 2 * x - memory[0] + dt * slope
        return x + 0.5 * dt * (slope + field(t + dt, shadow)), (shadow,)

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The step with ``-h`` from the other end: the scheme is symmetric."""
        return self.step(field, t + dt, -dt, x, memory)


def check_restart(name: str, restart: Restart) -> Restart:
    """The option, refused where it is none."""
    if restart not in ("never", "breakpoints"):
        raise InvalidOption(f"solver {name!r}: option restart: got {restart!r}, expected 'never' or 'breakpoints'")
    return restart
