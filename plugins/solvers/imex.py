"""Implicit-explicit schemes: the stiff linear part by an implicit rule, the rest by an explicit one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from odeframe import Law, StepSolver
from odeframe.solver import Memory


class SemiImplicitEuler(StepSolver):
    """``x_{n+1} = (I + h L)^{-1} (x_n + h F(t_n, x_n))`` for ``dx/dt = -L x + F(t, x)``; order 1.

    On ``x' = -l x + i w x`` the factor of a step is ``(1 + i h w) / (1 + h l)``: at most 1 for every ``h > 0`` where
    ``|w|^2 h <= 2 l + h l^2``, so for ``F = 0`` there is no limit on ``h``, where forward Euler needs ``h l <= 2``.
    Backwards in time ``I - |h| L`` may be singular: keep ``|h| l < 1`` there.

    Shapes: ``x`` ``(batch, *state)``; the dynamics are an ``odeframe.SemilinearDynamics``.

    Source: Ascher, Ruuth, Spiteri 1997, section 2.1; Haber, Lensink, Treister, Ruthotto 2019, IMEXnet: A Forward
    Stable Deep Neural Network.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned")
    needs: ClassVar[tuple[str, ...]] = ("dynamics:semilinear",)
    order = 1
    opaque = False

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One explicit evaluation and one linear solve."""
        return field.part("solve_shifted", dt, x + dt * field.part("nonlinear", t, x)), ()


class ARS222(StepSolver):
    """The two-stage scheme (2, 2, 2) for ``dx/dt = -L x + F(t, x)``; order 2.

    With ``g = 1 - 1/sqrt(2)`` and ``d = 1 - 1/(2 g)``,

        ``(I + g h L) Y = x_n + g h F(t_n, x_n)``,
        ``(I + g h L) x_{n+1} = x_n + h (d F(t_n, x_n) + (1 - d) F(t_n + g h, Y)) - (1 - g) h L Y``.

    The implicit part is L-stable: a component with ``h l -> infinity`` is gone after one step.  Two linear solves and
    two evaluations of ``F``; ``L Y`` is known from the first solve.

    Shapes: as for :class:`SemiImplicitEuler`.

    Source: Ascher, Ruuth, Spiteri 1997, Implicit-explicit Runge-Kutta methods for time-dependent partial differential
    equations, section 2.6.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned")
    needs: ClassVar[tuple[str, ...]] = ("dynamics:semilinear",)
    order = 2
    opaque = False

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Two explicit evaluations and two linear solves."""
        first = field.part("nonlinear", t, x)
        right = x + GAMMA * dt * first
        stage = field.part("solve_shifted", GAMMA * dt, right)
        second = field.part("nonlinear", t + GAMMA * dt, stage)
        implicit = (1 - GAMMA) / GAMMA * (right - stage)  # (1 - g) h L Y
        right = x + dt * (DELTA * first + (1 - DELTA) * second) - implicit
        return field.part("solve_shifted", GAMMA * dt, right), ()


GAMMA = 1 - 1 / math.sqrt(2)
DELTA = 1 - 1 / (2 * GAMMA)
