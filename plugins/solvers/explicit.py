"""Explicit Runge-Kutta methods on a grid."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeframe import Law, StepSolver
from odeframe.solver import Memory
from odeframe_plugins.solvers.tableau import Tableau, combine, explicit_stages, rational_rows, rationals


class ExplicitRungeKutta(StepSolver):
    """A tableau on equal steps; a subclass is its tableau."""

    traits: ClassVar[tuple[str, ...]] = ("step",)
    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.order = cls.tableau.order
        cls._a, cls._b, cls._c, _ = cls.tableau.floats()

    _a: ClassVar[list[list[float]]]
    _b: ClassVar[list[float]]
    _c: ClassVar[list[float]]

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``x + h sum_i b_i k_i``."""
        return combine(x, dt, self._b, explicit_stages(field, t, dt, x, self._a, self._c)), ()


class Euler(ExplicitRungeKutta):
    """``x_{n+1} = x_n + h f(t_n, x_n)``, order 1: the residual block."""

    tableau = Tableau(a=(), b=(1,), order=1)


class RK4(ExplicitRungeKutta):
    """The classical method of order 4.

    Source: Kutta 1901; Hairer, Norsett, Wanner 1993, II.1.
    """

    tableau = Tableau(rational_rows("1/2\n 0 1/2\n 0 0 1"), rationals("1/6 1/3 1/3 1/6"), order=4)
