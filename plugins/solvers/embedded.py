"""Embedded Runge-Kutta pairs with adaptive steps and dense output."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Law
from odeframe.adaptive import Attempt
from odeframe.solver import Memory
from odeframe_plugins.solvers.tableau import Tableau, combine, explicit_stages, total


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
        a=(
            (Fraction(1, 5),),
            (Fraction(3, 40), Fraction(9, 40)),
            (Fraction(44, 45), Fraction(-56, 15), Fraction(32, 9)),
            (Fraction(19372, 6561), Fraction(-25360, 2187), Fraction(64448, 6561), Fraction(-212, 729)),
            (
                Fraction(9017, 3168),
                Fraction(-355, 33),
                Fraction(46732, 5247),
                Fraction(49, 176),
                Fraction(-5103, 18656),
            ),
            (Fraction(35, 384), 0, Fraction(500, 1113), Fraction(125, 192), Fraction(-2187, 6784), Fraction(11, 84)),
        ),
        b=(Fraction(35, 384), 0, Fraction(500, 1113), Fraction(125, 192), Fraction(-2187, 6784), Fraction(11, 84), 0),
        order=5,
        b_error=(
            Fraction(71, 57600),
            0,
            Fraction(-71, 16695),
            Fraction(71, 1920),
            Fraction(-17253, 339200),
            Fraction(22, 525),
            Fraction(-1, 40),
        ),
    )
    dense = (
        (1, Fraction(-8048581381, 2820520608), Fraction(8663915743, 2820520608), Fraction(-12715105075, 11282082432)),
        (0, 0, 0, 0),
        (
            0,
            Fraction(131558114200, 32700410799),
            Fraction(-68118460800, 10900136933),
            Fraction(87487479700, 32700410799),
        ),
        (0, Fraction(-1754552775, 470086768), Fraction(14199869525, 1410260304), Fraction(-10690763975, 1880347072)),
        (
            0,
            Fraction(127303824393, 49829197408),
            Fraction(-318862633887, 49829197408),
            Fraction(701980252875, 199316789632),
        ),
        (0, Fraction(-282668133, 205662961), Fraction(2019193451, 616988883), Fraction(-1453857185, 822651844)),
        (0, Fraction(40617522, 29380423), Fraction(-110615467, 29380423), Fraction(69997945, 29380423)),
    )
