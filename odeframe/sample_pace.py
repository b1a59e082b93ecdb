"""One adaptive solve in which every sample has its own time, step length and decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from odeframe.attempt import Attempt
from odeframe.event import Passage, where
from odeframe.field import Field, Law
from odeframe.pace import Crossing
from odeframe.solution import Status
from odeframe.solver import Memory
from odeframe.stepsize import first_step
from odeframe.transforms import refuse_batched, refuse_mps

if TYPE_CHECKING:
    from odeframe.adaptive import AdaptiveSolver


Rows = dict[str, Tensor]  # what is known of each sample, by name, each (samples,)


class SamplePace(Crossing):
    """A batch whose samples step on their own.

    Samples that have reached the end of a segment leave the batch where the law takes any selection of samples
    (``Law.samplewise``); else they stay in it with steps of length zero, since the law may have data for each sample.
    """

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, stop: Any = None) -> None:
        self.batch, self.device = x0.shape[0], x0.device
        refuse_mps(self.device, f"solver {type(solver).__name__}: per_sample=True")
        super().__init__(solver, field, x0, times, stop)
        self.x0, self.found = x0, list[tuple[Tensor, Tensor, Tensor]]()
        self.marks = times.detach().to(self.device)
        number = torch.full((self.batch,), self.plain[0], dtype=torch.float64, device=self.device)
        count, no = torch.zeros_like(number, dtype=torch.long), torch.zeros_like(number, dtype=torch.bool)
        self.samples: Rows = {"ids": torch.arange(self.batch, device=self.device), "t": number, "dt": number}
        self.samples |= {"last": torch.ones_like(number), "before": torch.ones_like(number), "tries": count}
        self.samples |= {"next": count + 1, "may_grow": ~no, "finite": ~no, "dead": no}

    @property
    def norm(self) -> Any:
        """The field's norm for each sample."""
        return self.field.sample_norm

    def clock(self, t: Tensor) -> Tensor:
        """The time of each sample, ``(batch,)``."""
        return t.to(self.device).expand(self.batch)

    def segment(self, index: int, start: float, end: float, law: Law) -> None:
        """Steps every sample from ``start`` to ``end``."""
        stepper, x, rows = law.stepper(self.solver), self.x, dict(self.samples)
        rows["t"] = torch.full_like(rows["t"], start)
        memory = stepper.init(law, rows["t"], x)
        if index == 0:
            rows["dt"] = self.direction * self.first_steps(law, rows["t"], x, memory, end - start)
        arrived = list[tuple[Rows, Tensor]]()
        while True:
            going = self.going(rows, end)
            count = int(going.sum())
            if law.samplewise and count < len(x):
                arrived.append((_select(rows, ~going), x[~going]))
                rows, x, memory, going = _select(rows, going), x[going], tuple(m[going] for m in memory), going[going]
            if count == 0:
                break
            x, memory = self.advance(stepper, law, rows, x, memory, going, end)
        arrived.append((rows, x))
        order = torch.cat([part["ids"] for part, _ in arrived]).argsort()
        self.samples = {name: torch.cat([part[name] for part, _ in arrived])[order] for name in rows}
        self.x = torch.cat([part for _, part in arrived])[order]
        dead = self.samples["dead"]
        if bool(dead.any()):
            lost = self.solver.lost_status
            self.status = Status.STEP_TOO_SMALL if bool(self.samples["finite"][dead].all()) else lost
            if bool((self.samples["tries"] > self.solver.max_steps).any()):
                self.status = Status.TOO_MANY_STEPS

    def going(self, rows: Rows, end: float) -> Tensor:
        """Which samples are still on the way; those that may not try again die here."""
        t, length = rows["t"], rows["dt"].abs()
        remaining = end - t
        going = (remaining * self.direction > 0) & ~rows["dead"]
        if self.watch is not None:
            going = going & ~self.watch.done[rows["ids"]]
        rows["tries"] = rows["tries"] + going
        tiny = (t + rows["dt"] == t) | ((length < 1e-14 * t.abs().clamp(min=1e-3)) & (length < remaining.abs()))
        dies = going & (tiny | (rows["tries"] > self.solver.max_steps))
        rows["dead"] = rows["dead"] | dies
        return going & ~dies

    def advance(
        self, stepper: Any, law: Law, rows: Rows, x: Tensor, memory: Memory, going: Tensor, end: float
    ) -> tuple[Tensor, Memory]:
        """One attempt for every sample; those that are not ``going`` stay where they are."""
        t, length = rows["t"], rows["dt"].abs()
        remaining = end - t
        far = remaining.abs()
        last = length >= 0.99 * far
        dt = torch.where(2 * length > far, 0.5 * remaining, rows["dt"]) if self.solver.even_end else rows["dt"]
        dt = torch.where(last, remaining, dt) * going
        attempt, scale, ratio = self.tried(stepper, law, t, dt, x, memory)
        ratio = ratio.double()
        finite = ratio < float("inf")  # false where not a number
        if attempt.x.requires_grad and not bool(finite.all()):
            # What one sample throws away must not reach the gradient of the others: 0 times infinity is not 0.
            attempt, scale, _ = self.tried(stepper, law, t, dt * finite, x, memory)
        accept = (ratio <= 1) & going
        accepted, new = self.judge(rows, ratio, accept, going, dt), attempt.x
        if accepted:
            t_next = torch.where(last, torch.full_like(t, end), t + dt)
            self.watch_stiffness(dt, x, attempt, scale)
            if self.watch is not None:
                between = lambda theta: self.solver.interpolate(theta, dt, x, attempt)  # noqa: E731 - of this step
                step = Passage(t, dt, x, attempt.x, between, attempt.memory)
                hit, stopped, new = self.watch.look(step, accept, rows["ids"])
                t_next = torch.where(hit, stopped.detach(), t_next)
            self.interpolate(rows, accept, t_next, dt, (x, new), attempt)
            rows["t"] = torch.where(accept, t_next, t)
        if accepted == len(x):
            return new, attempt.memory
        pairs = zip(attempt.memory, memory, strict=True)
        return where(accept, new, x), tuple(where(accept, new, old) for new, old in pairs)

    def judge(self, rows: Rows, ratio: Tensor, accept: Tensor, going: Tensor, dt: Tensor) -> int:
        """Chooses the next step of every sample that tried one; says how many were accepted."""
        control, stats, finite = self.solver.controller, self.field.stats, ratio < float("inf")
        accepted, tried = torch.stack([accept.sum(), going.sum()]).tolist()
        stats.accepted += accepted
        stats.rejected += tried - accepted
        factor = control.after_accept(ratio, rows["last"], rows["before"], rows["may_grow"])
        if accepted < len(accept):
            shrunk = torch.where(finite, control.after_reject(torch.where(finite, ratio, torch.ones_like(ratio))), 0.1)
            factor = torch.where(accept, factor, shrunk)
        rows["dt"] = torch.where(going, dt * factor, rows["dt"])
        rows["before"] = torch.where(accept, rows["last"], rows["before"])
        rows["last"] = torch.where(accept, ratio, rows["last"])
        rows["may_grow"], rows["finite"] = accept | ~going, finite
        return int(accepted)

    def interpolate(
        self, rows: Rows, accept: Tensor, t_next: Tensor, dt: Tensor, ends: tuple[Tensor, Tensor], attempt: Attempt
    ) -> None:
        """Finds the states at the output times between the first and the last that each sample has passed."""
        count = len(self.plain) - 1
        while count > 1:
            index = rows["next"]
            time = self.marks[index.clamp(max=count)]
            passed = accept & (index < count) & ((time - t_next) * self.direction <= 0)
            if not bool(passed.any()):
                return
            theta = torch.where(passed, (time - rows["t"]) / torch.where(dt == 0, 1.0, dt), 1.0)
            whole = (time == t_next) | ~passed
            states = where(whole, ends[1], self.solver.interpolate(theta, dt, ends[0], attempt))
            self.found.append((index[passed] - 1, rows["ids"][passed], states[passed]))
            rows["next"] = index + passed

    def first_steps(self, law: Law, t: Tensor, x: Tensor, memory: Memory, length: float) -> Tensor:
        """The length of the first step of every sample, ``(batch,)``."""
        longest = torch.full_like(t, length)
        if self.solver.first_step is not None:
            return torch.full_like(longest, self.solver.first_step)
        if x.numel() == 0:
            return longest.abs()
        with torch.no_grad():
            rtol, atol = self.tolerances
            slope = self.solver.slope(law, t, x, memory)
            refuse_batched(slope, type(self.solver).__name__)
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
        reached = self.samples["t"] == self.plain[-1]
        if self.watch is not None:  # those that stopped keep their state from then on
            stopped, first = self.watch.done, self.samples["next"] - 1
            after = [where(stopped & (first <= i), self.x, x) for i, x in enumerate(between)]
            between, reached = torch.stack(after) if after else between, reached | stopped
        final = where(reached, self.x, torch.full_like(self.x, float("nan")))
        return [self.x0, *between.unbind(), final]

    def failure(self) -> tuple[float, float, Tensor, Tensor]:
        """Time and step of the first sample that failed, and a mask that tells it."""
        rows, dead = self.samples, self.samples["dead"]
        worst = int(dead.nonzero()[0])
        mask = dead.double().reshape(-1, *[1] * (self.x.dim() - 1))
        return float(rows["t"][worst]), float(rows["dt"][worst]), self.x, mask


def _select(rows: Rows, mask: Tensor) -> Rows:
    return {name: values[mask] for name, values in rows.items()}
