"""One adaptive solve: segment by segment between breakpoints, with one step length for the whole batch."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeframe.attempt import Attempt, tried
from odeframe.compiled import compiled_step
from odeframe.event import Passage, StopWatch, where
from odeframe.field import Field, Law
from odeframe.grid import inside
from odeframe.solution import Solution, Status
from odeframe.solver import Memory
from odeframe.stepsize import first_step
from odeframe.transforms import refuse_batched

if TYPE_CHECKING:
    from odeframe.adaptive import AdaptiveSolver

#: The hint on stiffness is looked for at every tenth accepted step, then at each until it is sure or was wrong: 15
#: steps at the limit of stability, forgotten after 6 that are not (Hairer, Wanner 1996, IV.2).  A smooth controller
#: settles below the limit, at 0.7 of it in the examples; where accuracy sets the steps h |lambda| stays far below.
STIFF_EVERY, STIFF_HITS, STIFF_MISSES, STIFF_MARGIN = 10, 15, 6, 0.65


class Crossing(ABC):
    """What all adaptive solves share: the segments, the output times and their derivatives."""

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, stop: Any = None) -> None:
        self.solver, self.field, self.times = solver, field, times
        self.plain = [float(t) for t in times.detach()]
        self.watch = None if stop is None else StopWatch(stop, x0, (self.plain[0], self.plain[-1]))
        self.tolerances = solver.tolerances(x0.dtype)
        self.direction = 1.0 if self.plain[-1] >= self.plain[0] else -1.0
        self.x, self.status = self.shift_start(x0), Status.SUCCESS
        self.hits, self.misses = 0, 0

    @abstractmethod
    def segment(self, index: int, start: float, end: float, law: Law) -> None:
        """Steps from ``start`` to ``end`` under one law."""

    @abstractmethod
    def outputs(self) -> list[Tensor]:
        """The states at the output times that were reached."""

    @abstractmethod
    def failure(self) -> tuple[float, float, Tensor, Tensor]:
        """Time, step, last finite state, and what tells the worst sample by."""

    def clock(self, t: Tensor) -> Tensor:
        """A time as the field gets it."""
        return t

    def run(self) -> Solution:
        """Segment by segment between breakpoints."""
        cuts = [self.plain[0]]
        if len(self.plain) > 1:
            cuts += [*inside(self.field.breakpoints(), self.times), self.plain[-1]]
        for index, (start, end) in enumerate(itertools.pairwise(cuts)):
            self.segment(index, start, end, self.field.on(_time(start), _time(end), step=index))
            if self.status is not Status.SUCCESS or self.all_stopped:
                break
        states = self.outputs()
        states += [torch.full_like(self.x, float("nan"))] * (len(self.plain) - len(states))
        solution = Solution(self.times, torch.stack(self.shift_ends(states)), self.field.stats, self.status)
        if self.watch is not None:
            solution.stop_times, solution.stopped = self.watch.times, self.watch.done
        return solution

    @property
    def all_stopped(self) -> bool:
        """Whether a stop rule has ended every sample."""
        return self.watch is not None and self.watch.all_done

    def tried(self, stepper: Any, law: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> Any:
        """One attempt with its tolerances and its ratio of error to them."""
        norm = self.norm
        if self.solver.compile_step and self.watch is None:
            dt = dt if torch.is_tensor(dt) else _time(dt)
            step = compiled_step(self.solver, tried)
            made = step(self.field.stats, stepper, law, norm, t, dt, x, memory, self.tolerances)
        else:
            made = tried(stepper, law, norm, t, dt, x, memory, self.tolerances)
        new, error, memory, stages, second, scale, ratio = made
        refuse_batched(ratio, type(self.solver).__name__)
        return Attempt(new, error, memory, stages, second, law, t), scale, ratio

    @property
    def norm(self) -> Any:
        """The field's norm of a ratio of error to tolerance."""
        return self.field.error_norm

    def watch_stiffness(self, dt: Any, x: Tensor, attempt: Attempt, scale: Tensor) -> None:
        """Hairer's count of steps at the limit of stability, on an accepted step."""
        stats, limit = self.field.stats, self.solver.stability_limit
        if stats.stiff or limit is None or not (self.hits or stats.accepted % STIFF_EVERY == 0):
            return
        with torch.no_grad():
            estimate = self.solver.stiffness(self.norm, dt, x, attempt, scale)
        if estimate is None:
            return
        if float(estimate.max()) > STIFF_MARGIN * limit:
            self.hits, self.misses = self.hits + 1, 0
            stats.stiff = self.hits >= STIFF_HITS
        elif self.hits:
            self.misses += 1
            self.hits = 0 if self.misses >= STIFF_MISSES else self.hits

    def shift_start(self, x0: Tensor) -> Tensor:
        """Adds the dependence on the first time: ``d phi / d t0 = -D phi f(t0, x0)``."""
        if not self.times.requires_grad or len(self.plain) == 1:
            return x0
        self.x = x0
        t0, now = self.times[0], self.times[0].detach()
        end = [*inside(self.field.breakpoints(), self.times), self.plain[-1]][0]
        law = self.field.on(now, _time(end))
        return x0 - (t0 - now).to(x0.dtype) * law(self.clock(now), x0)

    def shift_ends(self, states: list[Tensor]) -> list[Tensor]:
        """Adds the dependence on the output times: ``d x(t_i) / d t_i = f(t_i, x(t_i))``."""
        if not self.times.requires_grad or self.status is not Status.SUCCESS:
            return states
        shifted = [states[0]]
        for before, time, x in zip(self.plain[:-1], self.times[1:], states[1:], strict=True):
            now = time.detach()
            ends = torch.tensor([before, float(now)], dtype=torch.float64)
            last = [before, *inside(self.field.breakpoints(), ends)][-1]  # where the piece before this time begins
            law = self.field.on(_time(last), now)
            moved = x + (time - now).to(x.dtype) * law(self.clock(now), x)
            shifted.append(moved if self.watch is None else where(self.watch.frozen(float(now)), x, moved))
        return shifted


class Pace(Crossing):
    """One step length for the whole batch."""

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, stop: Any = None) -> None:
        super().__init__(solver, field, x0, times, stop)
        self.t, self.dt, self.tries = self.plain[0], 0.0, 0
        self.states = [x0]
        self.suspect: tuple[Tensor, Tensor | None] = (x0, None)
        self.ratios, self.may_grow, self.finite = (1.0, 1.0), True, True

    def segment(self, index: int, start: float, end: float, law: Law) -> None:
        """Steps up to a breakpoint or the last time under one law."""
        stepper = law.stepper(self.solver)
        memory = stepper.init(law, _time(start), self.x)
        if index == 0:
            self.dt = self.direction * (self.solver.first_step or self.first_step(law, memory, end - start))
        while (end - self.t) * self.direction > 0 and not self.all_stopped:
            remaining = end - self.t
            dt = self.length(remaining)
            if not self.allowed(dt, remaining):
                return
            attempt, scale, ratio = self.tried(stepper, law, _time(self.t), dt, self.x, memory)
            if self.judge(attempt, scale, float(ratio), dt):
                self.field.taken(index, self.t, dt, (self.x, memory), (attempt.x, attempt.memory))
                self.watch_stiffness(dt, self.x, attempt, scale)
                self.look(attempt, dt)
                self.record(attempt, dt, end if dt == remaining else self.t + dt)
                memory = attempt.memory

    @property
    def norm(self) -> Any:
        """The field's norm over the samples that have not stopped."""
        if self.watch is None or not bool(self.watch.done.any()):
            return self.field.error_norm
        going = ~self.watch.done
        return lambda ratio: self.field.error_norm(ratio[going])

    def look(self, attempt: Attempt, dt: float) -> None:
        """Looks for samples that stop within an accepted step."""
        if self.watch is None:
            return
        t, length = (torch.full_like(self.watch.times.detach(), value) for value in (self.t, dt))
        x, between = self.x, self.solver.interpolate
        step = Passage(t, length, x, attempt.x, lambda theta: between(theta, length, x, attempt), attempt.memory)
        self.watch.look(step, ~self.watch.done)

    def first_step(self, law: Law, memory: Memory, length: float) -> float:
        """The length of the first step."""
        if self.x.numel() == 0:
            return abs(length)
        with torch.no_grad():
            t, x, (rtol, atol) = _time(self.t), self.x.detach(), self.tolerances
            slope = self.solver.slope(law, t, x, memory)
            refuse_batched(slope, type(self.solver).__name__)
            scale = atol + rtol * x.abs()
            host = lambda v: self.norm(v).cpu()  # noqa: E731 - times are on the host
            return float(first_step(law, (t, x, slope), _time(length), self.solver.error_order, scale, host))

    def length(self, remaining: float) -> float:
        """The planned step, made to end at the interval's end: stretched by 1 %, or the rest split evenly in two."""
        if abs(self.dt) >= 0.99 * abs(remaining):
            return remaining
        return 0.5 * remaining if self.solver.even_end and 2 * abs(self.dt) > abs(remaining) else self.dt

    def allowed(self, dt: float, remaining: float) -> bool:
        """Whether another step may be tried; sets the status where not."""
        self.tries += 1
        if self.tries > self.solver.max_steps:
            self.status = Status.TOO_MANY_STEPS
        elif self.t + dt == self.t or (abs(dt) < 1e-14 * max(abs(self.t), 1e-3) and dt != remaining):
            self.status = Status.STEP_TOO_SMALL if self.finite else self.solver.lost_status
        return self.status is Status.SUCCESS

    def judge(self, attempt: Attempt, scale: Tensor, ratio: float, dt: float) -> bool:
        """Accepts or rejects an attempt and chooses the next step length."""
        self.suspect, self.finite = (attempt.error, scale), ratio < float("inf")  # False where not a number
        if ratio <= 1:
            self.field.stats.accepted += 1
            self.dt = dt * self.solver.controller.after_accept(ratio, *self.ratios, self.may_grow)
            self.ratios, self.may_grow = (ratio, self.ratios[0]), True
            return True
        self.field.stats.rejected += 1
        self.dt, self.may_grow = dt * (self.solver.controller.after_reject(ratio) if self.finite else 0.1), False
        return False

    def record(self, attempt: Attempt, dt: float, t_next: float) -> None:
        """Moves on to the end of an accepted step and interpolates the output times it passed."""
        while len(self.states) < len(self.plain):
            time = self.plain[len(self.states)]
            if (time - t_next) * self.direction > 0:
                break
            theta = (time - self.t) / dt
            self.states.append(attempt.x if time == t_next else self.solver.interpolate(theta, dt, self.x, attempt))
            if self.watch is not None:
                self.states[-1] = self.watch.hold(self.states[-1], time)
        self.x, self.t = attempt.x if self.watch is None else self.watch.hold(attempt.x, t_next), t_next

    def outputs(self) -> list[Tensor]:
        """The states that were recorded, and those kept after all have stopped."""
        missing = len(self.plain) - len(self.states) if self.all_stopped else 0
        return [*self.states, *[self.x] * missing]

    def failure(self) -> tuple[float, float, Tensor, Tensor]:
        """Where the last attempt was, and its error over tolerance."""
        error, scale = self.suspect
        ratio = error if scale is None else error / scale
        return (
            self.t,
            self.dt,
            self.x,
            ratio if self.watch is None else where(self.watch.done, torch.zeros_like(ratio), ratio),
        )


def _time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
