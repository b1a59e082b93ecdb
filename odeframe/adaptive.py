"""Solvers that choose their steps by an error estimate: the control loop, shared by every embedded scheme."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe.errors import InvalidOption
from odeframe.field import Field, Law
from odeframe.grid import check_times, inside
from odeframe.solution import Solution, Status
from odeframe.solver import Memory, OnFailure, Solver, StopRule, check_state

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


@dataclass
class Attempt:
    """One step that was tried: the new state, the error estimate, and what interpolation and the next step need."""

    x: Tensor
    error: Tensor
    memory: Memory
    stages: Any


class AdaptiveSolver(Solver):
    """A one-step scheme with an error estimate.

    A step is accepted where ``rms(error / (atol + rtol max(|x_n|, |x_{n+1}|))) <= 1``.  The next step is chosen by a
    proportional-integral controller.  Steps end at breakpoints of the field and start anew there; output times are
    interpolated and do not shorten steps.  Step sizes are not differentiated: the gradient is that of the accepted
    steps.

    Args:
        rtol: relative tolerance; default 1e-4 in float32, 1e-6 in float64; never below 10 machine epsilons.
        atol: absolute tolerance; default ``rtol / 100``.
        max_steps: accepted and rejected steps of one solve.
        first_step: length of the first step; estimated where not given.
        on_failure: see :class:`Solver`.

    Source: Hairer, Norsett, Wanner 1993, II.4; Gustafsson 1991, Control theoretic techniques for stepsize selection.
    """

    traits: ClassVar[tuple[str, ...]] = ("adaptive",)
    error_order: ClassVar[int]

    def __init__(
        self,
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int = 10_000,
        first_step: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(on_failure)
        for option, value in (("rtol", rtol), ("atol", atol), ("first_step", first_step)):
            if value is not None and not 0 < value < float("inf"):
                raise InvalidOption(f"solver {type(self).__name__}: option {option}: got {value}, expected > 0")
        if max_steps < 1:
            raise InvalidOption(f"solver {type(self).__name__}: option max_steps: got {max_steps}, expected at least 1")
        self.rtol, self.atol, self.max_steps, self.first_step = rtol, atol, max_steps, first_step

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """What the scheme reuses from the last step, at the start of an interval without breakpoints."""
        return ()

    @abstractmethod
    def attempt(self, field: Law, t: Tensor, dt: float, x: Tensor, memory: Memory) -> Attempt:
        """Tries a step from ``t`` to ``t + dt``."""

    @abstractmethod
    def interpolate(self, theta: float, dt: float, x: Tensor, attempt: Attempt) -> Tensor:
        """The state at ``t + theta dt`` for ``0 < theta < 1`` within an accepted step from ``x``."""

    def tolerances(self, dtype: torch.dtype) -> tuple[float, float]:
        """``(rtol, atol)`` for a dtype, floored at 10 machine epsilons."""
        epsilon = torch.finfo(dtype).eps
        rtol = self.rtol if self.rtol is not None else (1e-6 if epsilon < 1e-12 else 1e-4)
        rtol = max(rtol, 10 * epsilon)
        return rtol, self.atol if self.atol is not None else rtol / 100

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """Crosses with steps of the solver's own choice."""
        times = check_times(times)
        pace = Pace(self, field, check_state(x0), times, stop)
        solution = pace.run()
        if solution.status is Status.SUCCESS:
            return solution
        return self.failed(solution, pace.t, pace.dt, pace.x, pace.suspect)


class Pace:
    """One adaptive solve."""

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, stop: StopRule | None) -> None:
        if stop is not None:
            raise InvalidOption(f"solver {type(solver).__name__}: a stop rule needs a step solver, e.g. solver='rk4'")
        self.solver, self.field, self.times = solver, field, times
        self.plain = [float(t) for t in times.detach()]
        self.rtol, self.atol = solver.tolerances(x0.dtype)
        self.x, self.t, self.dt = self.shift_start(x0), self.plain[0], 0.0
        self.direction = 1.0 if self.plain[-1] >= self.plain[0] else -1.0
        self.states, self.next_output, self.suspect = [x0], 1, x0
        self.ratio, self.tries, self.status = 1.0, 0, Status.SUCCESS

    def run(self) -> Solution:
        """Segment by segment between breakpoints."""
        ends = [*inside(self.field.breakpoints(), self.times), self.plain[-1]] if len(self.plain) > 1 else []
        for index, end in enumerate(ends):
            self.segment(index, end)
            if self.status is not Status.SUCCESS:
                break
        missing = len(self.plain) - len(self.states)
        states = self.states + [torch.full_like(self.x, float("nan"))] * missing
        solution = Solution(self.times, torch.stack(self.shift_ends(states)), self.field.stats, self.status)
        return solution

    def segment(self, index: int, end: float) -> None:
        """Steps up to a breakpoint or the last time under one law."""
        start = torch.tensor(self.t, dtype=torch.float64)
        law = self.field.on(start, torch.tensor(end, dtype=torch.float64), step=index)
        stepper = law.stepper(self.solver)
        memory = stepper.init(law, start, self.x)
        if index == 0:
            self.dt = self.direction * (self.solver.first_step or self.first_step(law, start, abs(end - self.t)))
        while (end - self.t) * self.direction > 0:
            remaining = end - self.t
            dt = self.length(remaining)
            if not self.allowed(dt, remaining):
                return
            attempt = stepper.attempt(law, torch.tensor(self.t, dtype=torch.float64), dt, self.x, memory)
            if self.judge(attempt, dt):
                last = dt == remaining
                self.record(attempt, dt, end if last else self.t + dt)
                memory = attempt.memory

    def length(self, remaining: float) -> float:
        """The planned step, made to end at the interval's end: stretched by 1 %, or the rest split evenly in two."""
        if abs(self.dt) >= 0.99 * abs(remaining):
            return remaining
        return 0.5 * remaining if 2 * abs(self.dt) > abs(remaining) else self.dt

    def allowed(self, dt: float, remaining: float) -> bool:
        """Whether another step may be tried; sets the status where not."""
        self.tries += 1
        if self.tries > self.solver.max_steps:
            self.status = Status.TOO_MANY_STEPS
        elif self.t + dt == self.t or (abs(dt) < 1e-14 * max(abs(self.t), 1e-3) and dt != remaining):
            self.status = Status.NON_FINITE if self.ratio == float("inf") else Status.STEP_TOO_SMALL
        return self.status is Status.SUCCESS

    def judge(self, attempt: Attempt, dt: float) -> bool:
        """Accepts or rejects an attempt and chooses the next step length."""
        with torch.no_grad():
            scale = self.atol + self.rtol * torch.maximum(self.x.abs(), attempt.x.abs())
            self.suspect = attempt.error / scale
            ratio = float(self.field.error_norm(self.suspect))
        if not ratio < float("inf"):  # not a number, or infinite
            self.ratio, self.dt = float("inf"), dt * 0.1
            self.field.stats.rejected += 1
            return False
        order = self.solver.error_order
        if ratio > 1:
            factor = max(SHRINK, SAFETY * ratio ** (-1 / order))
            self.field.stats.rejected += 1
        else:
            bounded, before = max(ratio, 1e-4), max(min(self.ratio, 1.0), 1e-4)
            factor = min(GROW, max(SHRINK, SAFETY * bounded ** (-0.7 / order) * before ** (0.4 / order)))
            self.field.stats.accepted += 1
        self.ratio, self.dt = ratio, dt * factor
        return ratio <= 1

    def record(self, attempt: Attempt, dt: float, t_next: float) -> None:
        """Moves on to the end of an accepted step and interpolates the output times it passed."""
        while self.next_output < len(self.plain):
            time = self.plain[self.next_output]
            if (time - t_next) * self.direction > 0:
                break
            theta = (time - self.t) / dt
            self.states.append(attempt.x if time == t_next else self.solver.interpolate(theta, dt, self.x, attempt))
            self.next_output += 1
        self.x, self.t = attempt.x, t_next

    def first_step(self, law: Law, t: Tensor, length: float) -> float:
        """Hairer's estimate of the first step, at the cost of two evaluations (II.4)."""
        if self.x.numel() == 0:
            return length
        with torch.no_grad():
            x, order = self.x.detach(), self.solver.error_order
            scale = self.atol + self.rtol * x.abs()
            f0 = law(t, x)
            d0, d1 = float(self.field.error_norm(x / scale)), float(self.field.error_norm(f0 / scale))
            h0 = min(length, 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1)
            f1 = law(t + self.direction * h0, x + self.direction * h0 * f0)
            d2 = float(self.field.error_norm((f1 - f0) / scale)) / h0
            steep = max(d1, d2)
            h1 = max(1e-6, h0 * 1e-3) if steep <= 1e-15 else (0.01 / steep) ** (1 / order)
            step = min(100 * h0, h1, length)
        return step if 0 < step < float("inf") else 1e-6 * length

    def shift_start(self, x0: Tensor) -> Tensor:
        """Adds the dependence on the first time: ``d phi / d t0 = -D phi f(t0, x0)``."""
        if not self.times.requires_grad or len(self.plain) == 1:
            return x0
        t0, now = self.times[0], self.times[0].detach()
        end = [*inside(self.field.breakpoints(), self.times), self.plain[-1]][0]
        law = self.field.on(now, torch.tensor(end, dtype=torch.float64))
        return x0 - (t0 - now).to(x0.dtype) * law(now, x0)

    def shift_ends(self, states: list[Tensor]) -> list[Tensor]:
        """Adds the dependence on the output times: ``d x(t_i) / d t_i = f(t_i, x(t_i))``."""
        if not self.times.requires_grad or self.status is not Status.SUCCESS:
            return states
        shifted = [states[0]]
        for before, time, x in zip(self.plain[:-1], self.times[1:], states[1:], strict=True):
            now = time.detach()
            ends = torch.tensor([before, float(now)], dtype=torch.float64)
            last = [before, *inside(self.field.breakpoints(), ends)][-1]  # where the piece before this time begins
            law = self.field.on(torch.tensor(last, dtype=torch.float64), now)
            shifted.append(x + (time - now).to(x.dtype) * law(now, x))
        return shifted
