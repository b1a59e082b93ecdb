"""One adaptive solve in which every sample has its own time, step length and decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeframe.attempt import Attempt
from odeframe.field import Field, Law
from odeframe.pace import Crossing
from odeframe.solution import Status
from odeframe.solver import Memory
from odeframe.stepsize import first_step

if TYPE_CHECKING:
    from odeframe.adaptive import AdaptiveSolver


class SamplePace(Crossing):
    """A batch whose samples step on their own.

    Samples that have reached the end of a segment leave the batch where the law takes any selection of samples
    (``Law.samplewise``); else they stay in it with steps of length zero, since the law may have data for each sample.
    """

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor) -> None:
        self.batch, self.device = x0.shape[0], x0.device
        super().__init__(solver, field, x0, times)
        self.x0, self.found = x0, list[tuple[Tensor, Tensor, Tensor]]()
        self.marks = times.detach().to(self.device)
        numbers = dict.fromkeys(("t", "dt"), self.plain[0]) | dict.fromkeys(("last", "before"), 1.0)
        self.clocks = {k: torch.full((self.batch,), v, device=self.device).double() for k, v in numbers.items()}
        self.tries, self.next_output = (torch.zeros(self.batch, dtype=torch.long, device=self.device) for _ in (0, 1))
        self.next_output += 1
        self.may_grow = torch.ones(self.batch, dtype=torch.bool, device=self.device)
        self.dead, self.finite = torch.zeros_like(self.may_grow), torch.ones_like(self.may_grow)

    @property
    def norm(self) -> Any:
        """The field's norm for each sample."""
        return self.field.sample_norm

    def clock(self, t: Tensor) -> Tensor:
        """The time of each sample, ``(batch,)``."""
        return t.to(self.device).expand(self.batch)

    def segment(self, index: int, start: float, end: float, law: Law) -> None:
        """Steps every sample from ``start`` to ``end``."""
        stepper, x = law.stepper(self.solver), self.x
        self.clocks["t"] = torch.full_like(self.clocks["t"], start)
        memory = stepper.init(law, self.clocks["t"], x)
        if index == 0:
            self.clocks["dt"] = self.direction * self.first_steps(law, x, memory, end - start)
        ids, arrived = torch.arange(self.batch, device=self.device), list[tuple[Tensor, Tensor]]()
        while True:
            going = self.going(ids, end)
            count = int(going.sum())
            if law.samplewise and count < len(ids):
                arrived.append((ids[~going], x[~going]))
                ids, x, memory = ids[going], x[going], tuple(m[going] for m in memory)
                going = going[going]
            if count == 0:
                break
            x, memory = self.advance(stepper, law, ids, x, memory, going, end)
        if law.samplewise and arrived:
            x = torch.cat([rows for _, rows in arrived])[torch.cat([i for i, _ in arrived]).argsort()]
        self.x = x
        if bool(self.dead.any()):
            self.status = Status.STEP_TOO_SMALL if bool(self.finite[self.dead].all()) else Status.NON_FINITE
            if bool((self.tries > self.solver.max_steps).any()):
                self.status = Status.TOO_MANY_STEPS

    def going(self, ids: Tensor, end: float) -> Tensor:
        """Which samples are still on the way; those that may not try again die here."""
        t, dt = self.clocks["t"][ids], self.clocks["dt"][ids]
        remaining = end - t
        going = (remaining * self.direction > 0) & ~self.dead[ids]
        self.tries[ids] += going
        tiny = (t + dt == t) | ((dt.abs() < 1e-14 * t.abs().clamp(min=1e-3)) & (dt.abs() < remaining.abs()))
        dies = going & (tiny | (self.tries[ids] > self.solver.max_steps))
        self.dead[ids] |= dies
        return going & ~dies

    def advance(
        self, stepper: Any, law: Law, ids: Tensor, x: Tensor, memory: Memory, going: Tensor, end: float
    ) -> tuple[Tensor, Memory]:
        """One attempt for every sample of ``ids``; those that are not ``going`` stay where they are."""
        t, planned = self.clocks["t"][ids], self.clocks["dt"][ids]
        remaining = end - t
        last = planned.abs() >= 0.99 * remaining.abs()
        dt = torch.where(2 * planned.abs() > remaining.abs(), 0.5 * remaining, planned)
        dt = torch.where(last, remaining, dt) * going
        attempt, scale, ratio = self.tried(stepper, law, t, dt, x, memory)
        ratio = ratio.double()
        finite = ratio < float("inf")  # false where not a number
        if attempt.x.requires_grad and not bool(finite.all()):
            # What one sample throws away must not reach the gradient of the others: 0 times infinity is not 0.
            attempt, scale, _ = self.tried(stepper, law, t, dt * finite, x, memory)
        accept = (ratio <= 1) & going
        self.judge(ids, ratio, accept, going, dt)
        t_next = torch.where(last, torch.full_like(t, end), t + dt)
        if bool(accept.any()):
            self.watch_stiffness(dt, x, attempt, scale)
            self.interpolate(ids, accept, t_next, dt, x, attempt)
        self.clocks["t"][ids] = torch.where(accept, t_next, t)
        pairs = zip(attempt.memory, memory, strict=True)
        return _where(accept, attempt.x, x), tuple(_where(accept, new, old) for new, old in pairs)

    def judge(self, ids: Tensor, ratio: Tensor, accept: Tensor, going: Tensor, dt: Tensor) -> None:
        """Chooses the next step of every sample that tried one."""
        control, stats, clocks = self.solver.controller, self.field.stats, self.clocks
        last, before, finite = clocks["last"][ids], clocks["before"][ids], ratio < float("inf")
        accepted = int(accept.sum())
        stats.accepted += accepted
        stats.rejected += int(going.sum()) - accepted
        factor = torch.where(finite, control.after_reject(torch.where(finite, ratio, torch.ones_like(ratio))), 0.1)
        factor = torch.where(accept, control.after_accept(ratio, last, before, self.may_grow[ids]), factor)
        clocks["dt"][ids] = torch.where(going, dt * factor, clocks["dt"][ids])
        clocks["last"][ids], clocks["before"][ids] = torch.where(accept, ratio, last), torch.where(accept, last, before)
        self.may_grow[ids] = accept | ~going
        self.finite[ids] = finite

    def interpolate(
        self, ids: Tensor, accept: Tensor, t_next: Tensor, dt: Tensor, x: Tensor, attempt: Attempt
    ) -> None:
        """Finds the states at the output times between the first and the last that each sample has passed."""
        count = len(self.plain) - 1
        while count > 1:
            index = self.next_output[ids]
            time = self.marks[index.clamp(max=count)]
            passed = accept & (index < count) & ((time - t_next) * self.direction <= 0)
            if not bool(passed.any()):
                return
            theta = torch.where(passed, (time - self.clocks["t"][ids]) / torch.where(dt == 0, 1.0, dt), 1.0)
            whole = time == t_next
            states = _where(whole | ~passed, attempt.x, self.solver.interpolate(theta, dt, x, attempt))
            self.found.append((index[passed] - 1, ids[passed], states[passed]))
            self.next_output[ids] += passed

    def first_steps(self, law: Law, x: Tensor, memory: Memory, length: float) -> Tensor:
        """The length of the first step of every sample, ``(batch,)``."""
        longest = torch.full_like(self.clocks["t"], length)
        if self.solver.first_step is not None:
            return torch.full_like(longest, self.solver.first_step)
        if x.numel() == 0:
            return longest.abs()
        with torch.no_grad():
            t, (rtol, atol) = self.clocks["t"], self.tolerances
            slope = self.solver.slope(law, t, x, memory)
            at, scale = (t, x.detach(), slope), atol + rtol * x.detach().abs()
            return first_step(law, at, longest, self.solver.error_order, scale, self.norm)

    def outputs(self) -> list[Tensor]:
        """The states at all output times; not a number where a sample failed before."""
        if len(self.plain) == 1:
            return [self.x0]
        between = self.x0.new_full((len(self.plain) - 2, *self.x0.shape), float("nan"))
        if self.found:
            times, ids, states = (torch.cat(parts) for parts in zip(*self.found, strict=True))
            between = between.index_put((times, ids), states)
        final = _where(self.clocks["t"] == self.plain[-1], self.x, torch.full_like(self.x, float("nan")))
        return [self.x0, *between.unbind(), final]

    def failure(self) -> tuple[float, float, Tensor, Tensor]:
        """Time and step of the first sample that failed, and a mask that tells it."""
        worst = int(self.dead.nonzero()[0])
        mask = self.dead.double().reshape(-1, *[1] * (self.x.dim() - 1))
        return float(self.clocks["t"][worst]), float(self.clocks["dt"][worst]), self.x, mask


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (new.dim() - 1)), new, old)
