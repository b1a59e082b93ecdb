"""Linear multistep methods: Adams-Bashforth, and the trainable scheme of LM-ResNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from odeframe import InvalidOption, Law, StepSolver
from odeframe.compiled import Compile
from odeframe.field import per_sample
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers.tableau import Stages, Tableau, combine, rational_rows, rationals


class AdamsBashforth(StepSolver):
    """``x_{n+1} = x_n + int_{t_n}^{t_n + h} P``, where the polynomial ``P`` meets the last ``order`` values of ``f``.

    In Newton's form, so that steps may differ in length: with ``d_0 = f_n`` and the divided differences
    ``d_j = (d_{j-1,n} - d_{j-1,n-1}) / (t_n - t_{n-j})``, ``x_{n+1} = x_n + sum_j w_j d_j`` and
    ``w_j = int_0^h prod_{i<j} (s + t_n - t_{n-i}) ds``.  One evaluation a step.  At the start, and where the control
    jumps, ``order - 1`` steps of a Runge-Kutta method of the same order come first, so that the order is kept under a
    piecewise constant control.

    The memory grows from nothing to ``(t_{n-1}, ..., d_{0,n-1}, ...)``, times ``(batch,)`` in float64 and differences
    ``(batch, *state)``, ``order - 1`` of each.

    On ``x' = lambda x`` stable for real ``h lambda`` in (-1, 0), (-6/11, 0), (-3/10, 0) at orders 2, 3, 4.

    Source: Hairer, Norsett, Wanner 1993, III.1 (fixed steps) and III.5 (variable steps).
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "multistep")
    restart = "breakpoints"
    starter: ClassVar[Tableau]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.order = cls.starter.order
        cls._starter = Stages(cls.starter)

    _starter: ClassVar[Stages]

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The weighted differences, or a Runge-Kutta step while there are too few of them."""
        known, length = len(memory) // 2, self.starter.order - 1
        times, before = memory[:known], memory[known:]
        now = t.to(x.device)
        spans = [now - time for time in times]
        differences = [field(t, x)]
        for span, previous in zip(spans, before, strict=True):
            differences.append((differences[-1] - previous) / per_sample(span, x))
        if known < length:
            stages = self._starter(field, t, dt, x, first=differences[0])
            new = combine(x, dt, self._starter.weights, stages)
        else:
            new = x + dt * differences[0]
            for weight, difference in zip(adams_weights(dt, spans), differences[1:], strict=True):
                new = new + per_sample(weight, x) * difference
        return new, (*(now.expand(x.shape[0]), *times)[:length], *differences[:length])


def adams_weights(dt: Any, spans: Sequence[Tensor]) -> list[Any]:
    """``w_j = int_0^h prod_{i<j} (s + span_i) ds`` for ``j = 1, 2, 3`` with ``span_0 = 0``; numbers or ``(batch,)``.

    Args:
        dt: the step ``h``.
        spans: ``t_n - t_{n-i}`` for ``i >= 1``, each ``(batch,)``, one to three of them.
    """
    weights: list[Any] = [dt**2 / 2]
    if len(spans) > 1:
        weights.append(dt**3 / 3 + spans[0] * (dt**2 / 2))
    if len(spans) > 2:
        both = spans[0] + spans[1]
        weights.append(dt**4 / 4 + both * (dt**3 / 3) + spans[0] * spans[1] * (dt**2 / 2))
    return weights


class AB2(AdamsBashforth):
    """Order 2, on equal steps ``x_{n+1} = x_n + h/2 (3 f_n - f_{n-1})``, started by Heun's method."""

    starter = Tableau(rational_rows("1"), rationals("1/2 1/2"), order=2)


class AB3(AdamsBashforth):
    """Order 3, on equal steps ``x_n + h/12 (23 f_n - 16 f_{n-1} + 5 f_{n-2})``, started by Kutta's rule of order 3."""

    starter = Tableau(rational_rows("1/2\n -1 2"), rationals("1/6 2/3 1/6"), order=3)


class AB4(AdamsBashforth):
    """Order 4, on equal steps ``x_n + h/24 (55 f_n - 59 f_{n-1} + 37 f_{n-2} - 9 f_{n-3})``, started by ``rk4``."""

    starter = Tableau(rational_rows("1/2\n 0 1/2\n 0 0 1"), rationals("1/6 1/3 1/3 1/6"), order=4)


class LM(StepSolver):
    """LM-ResNet: ``d_{n+1} = -k_n d_n + h (1 + k_n) f_n``, ``x_{n+1} = x_n + d_{n+1}``, with a trainable ``k``.

    ``d_n = x_n - x_{n-1}``: the linear two-step method ``x_{n+1} = (1 - k) x_n + k x_{n-1} + h (1 + k) f_n``, of
    order 1, and 2 in the limit ``k = 1``, where it is the midpoint rule.  Its roots on ``x' = 0`` are 1 and ``-k``:
    ``k = (1 - delta) tanh(raw)`` keeps every trained ``k`` within stability.  ``raw`` is a parameter of the solver, so
    a piecewise control has one a piece.

    The memory is the slope ``d_n / h`` ``(batch, *state)``, which leaves steps free to differ in length; it is carried
    across jumps of the control, since a network with a piece a step would be a plain ResNet otherwise.

    Args:
        steps: equal steps from the first to the last time.
        dt: step length instead.
        init: value of ``k`` to start from, or the ends of an interval to draw it from.
        delta: distance of ``|k|`` from 1, in (0, 1).
        start: ``"euler"`` starts from the slope ``f_0``, which makes the first step Euler's; ``"rest"`` from zero.
        on_failure: as for every solver.
        compile: as for every solver.

    Source: Lu et al. 2018, Beyond Finite Layer Neural Networks: Bridging Deep Architectures and Numerical
    Differential Equations, section 3; with ``f`` scaled by ``1 + k`` for consistency with the step ``h``.
    """

    order, traits = 1, ("step", "multistep", "trainable")

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        init: float | Sequence[float] = (-0.1, 0.0),
        delta: float = 0.05,
        start: Literal["euler", "rest"] = "euler",
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if not 0 < delta < 1:
            raise InvalidOption(f"solver 'lm': option delta: got {delta}, expected a number in (0, 1)")
        ends = (init, init) if isinstance(init, int | float) else tuple(init)
        if len(ends) != 2 or not all(abs(end) < 1 - delta for end in ends):
            raise InvalidOption(
                f"solver 'lm': option init: got {init!r}, expected one k, or two ends, with |k| < 1 - delta = "
                f"{1 - delta:g}"
            )
        if start not in ("euler", "rest"):
            raise InvalidOption(f"solver 'lm': option start: got {start!r}, expected 'euler' or 'rest'")
        self.delta, self.start = delta, start
        self._ends = (float(ends[0]), float(ends[1]))
        self.raw = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws ``k`` uniformly from the interval ``init``."""
        with torch.no_grad():
            self.raw.uniform_(*(math.atanh(end / (1 - self.delta)) for end in self._ends))

    @property
    def k(self) -> Tensor:
        """The coefficient, 0-d, with ``|k| <= 1 - delta``."""
        return (1 - self.delta) * torch.tanh(self.raw)

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The slope before the first step."""
        return (field(t, x) if self.start == "euler" else torch.zeros_like(x),)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The new slope, and a step along it."""
        f = field(t, x)
        slope = f + self.k * (f - memory[0])
        return x + dt * slope, (slope,)
