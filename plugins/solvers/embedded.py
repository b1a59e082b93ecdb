"""Embedded Runge-Kutta pairs with adaptive steps and dense output."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Law
from odeframe.adaptive import Attempt
from odeframe.solver import Memory
from odeframe_plugins.solvers.tableau import Tableau, combine, explicit_stages, rational_rows, rationals, total


class EmbeddedRungeKutta(AdaptiveSolver):
    """A tableau whose last stage is the first of the next step, with an error estimate; a subclass is its data."""

    traits: ClassVar[tuple[str, ...]] = ("adaptive",)
    tableau: ClassVar[Tableau]
    #: coefficients of theta, theta^2, ... in the weights b_i(theta) of the dense output, a row a stage
    dense: ClassVar[tuple[tuple[Fraction | int, ...], ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.order = cls.tableau.order
        cls._a, cls._b, cls._c, error = cls.tableau.floats()
        if error is None or not cls.tableau.first_same_as_last:
            raise TypeError(f"{cls.__name__}: an embedded pair needs error weights and its last stage at the new state")
        if tuple(sum(row, Fraction(0)) for row in cls.dense) != tuple(Fraction(v) for v in cls.tableau.b):
            raise TypeError(f"{cls.__name__}: dense output weights do not equal b at theta = 1")
        cls._error = error
        cls._dense = [[float(v) for v in row] for row in cls.dense]

    _a: ClassVar[list[list[float]]]
    _b: ClassVar[list[float]]
    _c: ClassVar[list[float]]
    _error: ClassVar[list[float]]
    _dense: ClassVar[list[list[float]]]

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The first stage."""
        return (field(t, x),)

    def attempt(self, field: Law, t: Tensor, dt: float, x: Tensor, memory: Memory) -> Attempt:
        """All stages; the last of them is evaluated at the new state and kept for the next step."""
        stages = explicit_stages(field, t, dt, x, self._a[:-1], self._c[:-1], first=memory[0])
        new = combine(x, dt, self._b, stages)
        stages.append(field(t + dt, new))
        with torch.no_grad():
            error = total(self._error, stages) * dt
        return Attempt(new, error, (stages[-1],), stages)

    def interpolate(self, theta: float, dt: float, x: Tensor, attempt: Attempt) -> Tensor:
        """``x + h sum_i b_i(theta) k_i``."""
        weights = [sum(v * theta ** (p + 1) for p, v in enumerate(row)) for row in self._dense]
        return combine(x, dt, weights, attempt.stages)


class Dopri5(EmbeddedRungeKutta):
    """Dormand-Prince 5(4) with its continuous extension of order 4.

    Source: Dormand, Prince 1980; Shampine 1986, Some Practical Runge-Kutta Formulas (dense output).
    """

    error_order = 5
    tableau = Tableau(
        a=rational_rows("""
            1/5
            3/40 9/40
            44/45 -56/15 32/9
            19372/6561 -25360/2187 64448/6561 -212/729
            9017/3168 -355/33 46732/5247 49/176 -5103/18656
            35/384 0 500/1113 125/192 -2187/6784 11/84
        """),
        b=rationals("35/384 0 500/1113 125/192 -2187/6784 11/84 0"),
        order=5,
        b_error=rationals("71/57600 0 -71/16695 71/1920 -17253/339200 22/525 -1/40"),
    )
    dense = rational_rows("""
        1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432
        0 0 0 0
        0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799
        0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072
        0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632
        0 -282668133/205662961 2019193451/616988883 -1453857185/822651844
        0 40617522/29380423 -110615467/29380423 69997945/29380423
    """)
