"""Embedded Runge-Kutta pairs with adaptive steps and dense output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Law
from odeframe.adaptive import Attempt
from odeframe.solver import Memory
from odeframe_plugins.solvers import dop853, tableaus
from odeframe_plugins.solvers.dopri8 import DOPRI8, DOPRI8_DENSE
from odeframe_plugins.solvers.tableau import Number, Stages, Tableau, Weights, combine, scaled, sparse, total


class EmbeddedRungeKutta(AdaptiveSolver):
    """A tableau with an error estimate; a subclass is its data.

    The slope at the new state is always evaluated: it is the first stage of the next step, serves the dense output,
    and is a stage of the error estimate in pairs whose last stage it is.

    Attributes:
        tableau: the pair.
        dense: coefficients of theta, theta^2, ... in the weights ``b_i(theta)`` of the dense output, a row a stage, the
            last for the slope at the new state.
        dense_order: its order, which is that of the state between steps.
        error_power: the power of ``dt`` in the error that is controlled, where it is not that of ``b - b_hat``.
    """

    tableau: ClassVar[Tableau]
    dense: ClassVar[tuple[tuple[Number, ...], ...]]
    dense_order: ClassVar[int]
    error_power: ClassVar[int | None] = None
    per_sample_steps: ClassVar[bool] = True

    _stages: ClassVar[Stages]
    _error: ClassVar[Weights]
    _dense: ClassVar[list[list[float]]]
    _twin: ClassVar[tuple[int, Weights] | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tableau, name = cls.tableau, cls.__name__
        if tableau.b_error is None:
            raise TypeError(f"{name}: an embedded pair needs error weights")
        cls.order, cls.error_order = tableau.order, cls.error_power or tableau.b_error_order + 1
        cls.stability_limit = tableau.stability_limit
        cls._stages, cls._error = Stages(tableau), sparse(tableau.b_error)
        count = tableau.stages
        node = float(tableau.c[count - 1])
        cls._twin = (count - 1, sparse(tableau.a[count - 2])) if abs(node - 1) < 1e-12 else None
        cls._dense = [[float(v) for v in row] for row in getattr(cls, "dense", ())]
        weights = [*tableau.b[:count], 0]
        cls.stage_weights = tuple(float(w) for w in weights)
        if cls._dense and any(abs(sum(r) - float(w)) > 1e-11 for r, w in zip(cls._dense, weights, strict=True)):
            raise TypeError(f"{name}: dense output weights do not equal b at theta = 1")

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The first stage."""
        return (field(t, x),)

    def slope(self, field: Law, t: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """The first stage, which is known."""
        return memory[0]

    def attempt(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> Attempt:
        """All stages; the last of them is evaluated at the new state and kept for the next step."""
        stages = self._stages(field, t, dt, x, first=memory[0])
        new = combine(x, dt, self._stages.weights, stages)
        stages.append(field(t + dt, new))
        return self.estimated(Attempt(new, new, (stages[-1],), stages, law=field, t=t), dt)

    def estimated(self, attempt: Attempt, dt: Any) -> Attempt:
        """The attempt with its error estimate ``h sum_i (b_i - b_hat_i) k_i``."""
        with torch.no_grad():
            attempt.error = scaled(total(self._error, attempt.stages), dt)
        return attempt

    def interpolate(self, theta: Any, dt: Any, x: Tensor, attempt: Attempt) -> Tensor:
        """``x + h sum_i b_i(theta) k_i``."""
        weights = [(i, _polynomial(row, theta)) for i, row in enumerate(self._dense) if any(row)]
        return combine(x, dt, weights, attempt.stages)

    def stiffness(
        self, norm: Callable[[Tensor], Tensor], dt: Any, x: Tensor, attempt: Attempt, scale: Tensor
    ) -> Tensor | None:
        """``h |f(y) - f(z)| / |y - z|`` of two states at the end of the step: the new one, and that of the last stage.

        Where no other stage is at the end, the state of the embedded method is taken, for one evaluation more.

        Source: Hairer, Wanner 1996, IV.2.
        """
        if self._twin is not None:
            index, row = self._twin
            other, slope = combine(x, dt, row, attempt.stages), attempt.stages[index]
        else:
            assert attempt.law is not None and attempt.t is not None
            other = attempt.x - attempt.error
            slope = attempt.law(attempt.t + dt, other)
        apart = norm((attempt.x - other) / scale)
        tiny = torch.finfo(apart.dtype).tiny
        return norm(scaled(attempt.stages[-1] - slope, dt) / scale) / apart.clamp(min=tiny)


def _polynomial(coefficients: list[float], theta: Any) -> Any:
    value: Any = 0.0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * theta
    return value


class Bosh3(EmbeddedRungeKutta):
    """Bogacki-Shampine 3(2) with the cubic Hermite interpolant; for loose tolerances.

    Source: Bogacki, Shampine 1989, A 3(2) pair of Runge-Kutta formulas.
    """

    tableau, dense, dense_order = tableaus.BOSH3, tableaus.BOSH3_DENSE, 3


class Dopri5(EmbeddedRungeKutta):
    """Dormand-Prince 5(4) with its continuous extension of order 4.

    Source: Dormand, Prince 1980; Shampine 1986, Some practical Runge-Kutta formulas (dense output).
    """

    tableau, dense, dense_order = tableaus.DOPRI5, tableaus.DOPRI5_DENSE, 4


class Tsit5(EmbeddedRungeKutta):
    """Tsitouras 5(4) with its continuous extension of order 4.

    Source: Tsitouras 2011, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption.
    """

    tableau, dense, dense_order = tableaus.TSIT5, tableaus.TSIT5_DENSE, 4
    safety = 0.85  # its estimate says less of its error than that of Dormand and Prince (docs: DETEST)


class Dopri8(EmbeddedRungeKutta):
    """Prince-Dormand 8(7) (RK8(7)13M) with a continuous extension of order 5 that needs no evaluation.

    Source: Prince, Dormand 1981, High order embedded Runge-Kutta formulae.
    """

    tableau, dense, dense_order = DOPRI8, DOPRI8_DENSE, 5


class Dop853(EmbeddedRungeKutta):
    """Dormand-Prince 8(5,3), for tight tolerances; dense output of order 7, for three evaluations a step that has any.

    The error is ``e5^2 / sqrt(e5^2 + e3^2 / 100)`` of the estimates of orders 5 and 3 over their tolerances,
    which is of the power ``h^8``.

    Source: Hairer, Norsett, Wanner 1993, II.5 (error), II.6 (dense output), and their code DOP853.
    """

    tableau, dense_order, error_power = dop853.DOP853, 7, 8
    default_controller = "i"  # as in the authors' code; the estimate of power h^8 is steady
    even_end = False  # likewise: a halved end changes the error at the end, which it was measured by (docs: DETEST)
    _third = sparse(dop853.THIRD_ERROR)
    _extra = tuple((sum(map(float, row)), sparse(row)) for row in dop853.EXTRA)
    _rows = tuple(map(sparse, dop853.DENSE))

    def estimated(self, attempt: Attempt, dt: Any) -> Attempt:
        """Both estimates."""
        with torch.no_grad():
            attempt.second_error = scaled(total(self._third, attempt.stages), dt)
        return super().estimated(attempt, dt)

    def ratio(self, norm: Callable[[Tensor], Tensor], attempt: Attempt, scale: Tensor) -> Tensor:
        """The two norms combined."""
        assert attempt.second_error is not None
        fifth, third = norm(attempt.error / scale), norm(attempt.second_error / scale)
        below = torch.hypot(fifth, 0.1 * third)
        return torch.where(below == 0, below, fifth * (fifth / below))

    def interpolate(self, theta: Any, dt: Any, x: Tensor, attempt: Attempt) -> Tensor:
        """Hairer's polynomial of degree 7, nested in ``theta`` and ``1 - theta`` by turns."""
        stages = attempt.stages
        assert attempt.law is not None and attempt.t is not None
        while len(stages) < 16:
            node, row = self._extra[len(stages) - 13]
            stages.append(attempt.law(attempt.t + node * dt, combine(x, dt, row, stages)))
        step = attempt.x - x
        slope = scaled(stages[0], dt)
        terms = [step, slope - step, 2 * step - slope - scaled(stages[12], dt)]
        terms += [scaled(total(row, stages), dt) for row in self._rows]
        nested = torch.zeros_like(x)
        for i, term in enumerate(reversed(terms)):
            nested = scaled(nested + term, theta if i % 2 == 0 else 1 - theta)
        return x + nested
