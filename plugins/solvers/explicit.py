"""Explicit Runge-Kutta methods on a grid."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeframe import InvalidOption, Law, StepSolver
from odeframe.compiled import Compile
from odeframe.errors import suggestion
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers import tableaus
from odeframe_plugins.solvers.dop853 import DOP853
from odeframe_plugins.solvers.dopri8 import DOPRI8
from odeframe_plugins.solvers.tableau import Stages, Tableau, combine


class ExplicitRungeKutta(StepSolver):
    """A tableau on equal steps, ``x_{n+1} = x_n + h sum_i b_i k_i``; a subclass is its tableau."""

    traits: ClassVar[tuple[str, ...]] = ("step",)
    tableau: ClassVar[Tableau]
    _stages: Stages

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "tableau" in vars(cls):
            cls.order, cls._stages = cls.tableau.order, Stages(cls.tableau)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``x + h sum_i b_i k_i``."""
        return combine(x, dt, self._stages.weights, self._stages(field, t, dt, x)), ()


class Euler(ExplicitRungeKutta):
    """``x_{n+1} = x_n + h f(t_n, x_n)``, order 1: the residual block.  Stable for ``h lambda`` in ``|1 + z| <= 1``."""

    tableau = tableaus.EULER


class Midpoint(ExplicitRungeKutta):
    """``x_{n+1} = x_n + h f(t_n + h/2, x_n + h/2 f(t_n, x_n))``, order 2.

    Source: Runge 1895; Hairer, Norsett, Wanner 1993, II.1.
    """

    tableau = tableaus.MIDPOINT


class Heun(ExplicitRungeKutta):
    """The explicit trapezoidal rule, order 2; preserves strong stability up to Euler's step (SSPRK2).

    Source: Heun 1900; Shu, Osher 1988.
    """

    tableau = tableaus.HEUN


class Ralston(ExplicitRungeKutta):
    """The method of order 2 with the least bound of its error.

    Source: Ralston 1962, Runge-Kutta methods with minimum error bounds.
    """

    tableau = tableaus.RALSTON


class SSPRK3(ExplicitRungeKutta):
    """Order 3; preserves strong stability up to Euler's step; stable on the imaginary axis up to 1.73.

    Source: Shu, Osher 1988, Efficient implementation of essentially non-oscillatory shock-capturing schemes.
    """

    tableau = tableaus.SSPRK3


class RK4(ExplicitRungeKutta):
    """The classical method of order 4; stable on ``[-2.785, 0]`` and on the imaginary axis up to 2.83.

    Source: Kutta 1901; Hairer, Norsett, Wanner 1993, II.1.
    """

    tableau = tableaus.RK4


class RK38(ExplicitRungeKutta):
    """The 3/8 rule, order 4: smaller error constants than the classical method, the same region of stability.

    Source: Kutta 1901; Hairer, Norsett, Wanner 1993, II.1.
    """

    tableau = tableaus.RK38


METHODS = {
    "euler": tableaus.EULER,
    "midpoint": tableaus.MIDPOINT,
    "heun": tableaus.HEUN,
    "ralston": tableaus.RALSTON,
    "ssprk3": tableaus.SSPRK3,
    "rk4": tableaus.RK4,
    "rk38": tableaus.RK38,
    "bosh3": tableaus.BOSH3,
    "dopri5": tableaus.DOPRI5,
    "tsit5": tableaus.TSIT5,
    "dopri8": DOPRI8,
    "dop853": DOP853,
}


class RungeKutta(ExplicitRungeKutta):
    """Any of the tableaus on equal steps, those of the embedded pairs too: ``{name: runge_kutta, method: tsit5}``.

    Args:
        method: one of euler, midpoint, heun, ralston, ssprk3, rk4, rk38, bosh3, dopri5, tsit5, dopri8, dop853.
        steps: as for every step solver.
        dt: likewise.
        on_failure: likewise.
        compile: likewise.
    """

    def __init__(
        self,
        method: str = "rk4",
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if method not in METHODS:
            raise InvalidOption(
                f"solver 'runge_kutta': option method: got {method!r}, expected one of {', '.join(METHODS)}."
                f"{suggestion(method, METHODS)}"
            )
        self.method, self._stages = method, Stages(METHODS[method])
        self.order = METHODS[method].order
