"""One adaptive solve in which every sample has its own time, step length and decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from odeframe.attempt import Attempt
from odeframe.event import Passage, where
from odeframe.field import Field, Law
from odeframe.pace import Crossing
from odeframe.solution import Status
from odeframe.solver import Memory
from odeframe.stepsize import first_step
from odeframe.transforms import on_host, refuse_batched, refuse_mps

if TYPE_CHECKING:
    from odeframe.adaptive import AdaptiveSolver


Numbers = npt.NDArray[Any]
Rows = dict[str, Numbers]  # what is known of each sample, by name, each (samples,)


class SamplePace(Crossing):
    """A batch whose samples step on their own.

    Samples that have reached the end of a segment leave the batch where the law takes any selection of samples
    (``Law.samplewise``); else they stay in it with steps of length zero, since the law may have data for each sample.
    Decisions are the host's: a step sends it the ratios of error to tolerance, and gets times, lengths and a mask.
    """

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, stop: Any = None) -> None:
        self.batch, self.device = x0.shape[0], x0.device
        refuse_mps(self.device, f"solver {type(solver).__name__}: per_sample=True")
        super().__init__(solver, field, x0, times, stop)
        self.x0, self.found = x0, list[tuple[Numbers, Numbers, Tensor]]()
        self.marks = np.array(self.plain)
        number = np.full(self.batch, self.plain[0])
        count, no = np.zeros(self.batch, dtype=int), np.zeros(self.batch, dtype=bool)
        self.samples: Rows = {"ids": np.arange(self.batch), "t": number, "dt": number}
        self.samples |= {"last": np.ones_like(number), "before": np.ones_like(number), "tries": count}
        self.samples |= {"next": count + 1, "may_grow": ~no, "finite": ~no, "dead": no}

    @property
    def norm(self) -> Any:
        """The field's norm for each sample."""
        return self.field.sample_norm

    def clock(self, t: Tensor) -> Tensor:
        """The time of each sample, ``(batch,)``."""
        return t.to(self.device).expand(self.batch)

    def there(self, values: Numbers) -> Tensor:
        """Values of the samples where their states are."""
        return torch.from_numpy(values).to(self.device)

    def segment(self, index: int, start: float, end: float, law: Law) -> None:
        """Steps every sample from ``start`` to ``end``."""
        stepper, x, rows = law.stepper(self.solver), self.x, dict(self.samples)
        rows["t"] = np.full(self.batch, start)
        memory = stepper.init(law, self.there(rows["t"]), x)
        if index == 0:
            rows["dt"] = self.direction * self.first_steps(law, self.there(rows["t"]), x, memory, end - start)
        arrived = list[tuple[Rows, Tensor]]()
        while True:
            going = self.going(rows, end)
            count = int(going.sum())
            if law.samplewise and count < len(x):
                stays, goes = self.there(~going), self.there(going)
                arrived.append((_select(rows, ~going), x[stays]))
                rows, x, memory, going = _select(rows, going), x[goes], tuple(m[goes] for m in memory), going[going]
            if count == 0:
                break
            x, memory = self.advance(stepper, law, rows, x, memory, going, end)
        arrived.append((rows, x))
        order = np.concatenate([part["ids"] for part, _ in arrived]).argsort()
        self.samples = {name: np.concatenate([part[name] for part, _ in arrived])[order] for name in rows}
        self.x = torch.cat([part for _, part in arrived])[self.there(order)]
        dead = self.samples["dead"]
        if dead.any():
            lost = self.solver.lost_status
            self.status = Status.STEP_TOO_SMALL if self.samples["finite"][dead].all() else lost
            if (self.samples["tries"] > self.solver.max_steps).any():
                self.status = Status.TOO_MANY_STEPS

    def going(self, rows: Rows, end: float) -> Numbers:
        """Which samples are still on the way; those that may not try again die here."""
        t, length = rows["t"], np.abs(rows["dt"])
        remaining = end - t
        going = (remaining * self.direction > 0) & ~rows["dead"]
        if self.watch is not None:
            going = going & ~on_host(self.watch.done)[rows["ids"]]
        rows["tries"] = rows["tries"] + going
        tiny = (length < 1e-14 * np.maximum(np.abs(t), 1e-3)) & (length < np.abs(remaining))
        dies = going & (tiny | (t + rows["dt"] == t) | (rows["tries"] > self.solver.max_steps))
        rows["dead"] = rows["dead"] | dies
        return going & ~dies

    def advance(
        self, stepper: Any, law: Law, rows: Rows, x: Tensor, memory: Memory, going: Numbers, end: float
    ) -> tuple[Tensor, Memory]:
        """One attempt for every sample; those that are not ``going`` stay where they are."""
        t, length = rows["t"], np.abs(rows["dt"])
        remaining = end - t
        far = np.abs(remaining)
        last = length >= 0.99 * far
        lengths = np.where(2 * length > far, 0.5 * remaining, rows["dt"]) if self.solver.even_end else rows["dt"]
        lengths = np.where(last, remaining, lengths) * going
        at, dt = self.there(t), self.there(lengths)
        attempt, scale, found = self.tried(stepper, law, at, dt, x, memory)
        ratio = on_host(found.double())
        finite = ratio < float("inf")  # false where not a number
        if attempt.x.requires_grad and not finite.all():
            # What one sample throws away must not reach the gradient of the others: 0 times infinity is not 0.
            attempt, scale, _ = self.tried(stepper, law, at, dt * self.there(finite), x, memory)
        accept = (ratio <= 1) & going
        accepted, new, mask = self.judge(rows, ratio, accept, going, lengths), attempt.x, self.there(accept)
        if accepted:
            t_next = np.where(last, end, t + lengths)
            self.watch_stiffness(dt, x, attempt, scale)
            if self.watch is not None:
                between = lambda theta: self.solver.interpolate(theta, dt, x, attempt)  # noqa: E731 - of this step
                step = Passage(at, dt, x, attempt.x, between, attempt.memory)
                hit, stopped, new = self.watch.look(step, mask, self.there(rows["ids"]))
                t_next = np.where(on_host(hit), on_host(stopped), t_next)
            self.interpolate(rows, accept, t_next, lengths, (x, new), attempt)
            rows["t"] = np.where(accept, t_next, t)
        if accepted == len(x):
            return new, attempt.memory
        pairs = zip(attempt.memory, memory, strict=True)
        return where(mask, new, x), tuple(where(mask, new, old) for new, old in pairs)

    def judge(self, rows: Rows, ratio: Numbers, accept: Numbers, going: Numbers, dt: Numbers) -> int:
        """Chooses the next step of every sample that tried one; says how many were accepted."""
        control, stats, finite = self.solver.controller, self.field.stats, ratio < float("inf")
        accepted = int(accept.sum())
        stats.accepted += accepted
        stats.rejected += int(going.sum()) - accepted
        with np.errstate(all="ignore"):  # the ratio of a step that was lost is no number
            factor = control.after_accept(ratio, rows["last"], rows["before"], rows["may_grow"])
        if accepted < len(accept):
            shrunk = np.where(finite, control.after_reject(np.where(finite, ratio, 1.0)), 0.1)
            factor = np.where(accept, factor, shrunk)
        rows["dt"] = np.where(going, dt * factor, rows["dt"])
        rows["before"] = np.where(accept, rows["last"], rows["before"])
        rows["last"] = np.where(accept, ratio, rows["last"])
        rows["may_grow"], rows["finite"] = accept | ~going, finite
        return accepted

    def interpolate(
        self,
        rows: Rows,
        accept: Numbers,
        t_next: Numbers,
        lengths: Numbers,
        ends: tuple[Tensor, Tensor],
        attempt: Attempt,
    ) -> None:
        """Finds the states at the output times between the first and the last that each sample has passed."""
        count = len(self.plain) - 1
        while count > 1:
            index = rows["next"]
            time = self.marks[np.minimum(index, count)]
            passed = accept & (index < count) & ((time - t_next) * self.direction <= 0)
            if not passed.any():
                return
            theta = np.where(passed, (time - rows["t"]) / np.where(lengths == 0, 1.0, lengths), 1.0)
            whole, chosen = self.there((time == t_next) | ~passed), self.there(passed)
            states = where(
                whole, ends[1], self.solver.interpolate(self.there(theta), self.there(lengths), ends[0], attempt)
            )
            self.found.append((index[passed] - 1, rows["ids"][passed], states[chosen]))
            rows["next"] = index + passed

    def first_steps(self, law: Law, t: Tensor, x: Tensor, memory: Memory, length: float) -> Numbers:
        """The length of the first step of every sample, ``(batch,)``."""
        if self.solver.first_step is not None:
            return np.full(self.batch, self.solver.first_step)
        if x.numel() == 0:
            return np.full(self.batch, abs(length))
        with torch.no_grad():
            rtol, atol = self.tolerances
            slope = self.solver.slope(law, t, x, memory)
            refuse_batched(slope, type(self.solver).__name__)
            at, scale = (t, x.detach(), slope), atol + rtol * x.detach().abs()
            longest = torch.full_like(t, length)
            return on_host(first_step(law, at, longest, self.solver.error_order, scale, self.norm))

    def outputs(self) -> list[Tensor]:
        """The states at all output times; not a number where a sample failed before."""
        if len(self.plain) == 1:
            return [self.x0]
        between = self.x0.new_full((len(self.plain) - 2, *self.x0.shape), float("nan"))
        if self.found:
            times, ids, states = zip(*self.found, strict=True)
            places = self.there(np.concatenate(times)), self.there(np.concatenate(ids))
            between = between.index_put(places, torch.cat(states))
        reached = self.there(self.samples["t"] == self.plain[-1])
        if self.watch is not None:  # those that stopped keep their state from then on
            stopped, first = self.watch.done, self.there(self.samples["next"]) - 1
            after = [where(stopped & (first <= i), self.x, x) for i, x in enumerate(between)]
            between, reached = torch.stack(after) if after else between, reached | stopped
        final = where(reached, self.x, torch.full_like(self.x, float("nan")))
        return [self.x0, *between.unbind(), final]

    def failure(self) -> tuple[float, float, Tensor, Tensor]:
        """Time and step of the first sample that failed, and a mask that tells it."""
        rows, dead = self.samples, self.samples["dead"]
        worst = int(dead.argmax())
        mask = self.there(dead).double().reshape(-1, *[1] * (self.x.dim() - 1))
        return float(rows["t"][worst]), float(rows["dt"][worst]), self.x, mask


def _select(rows: Rows, mask: Numbers) -> Rows:
    return {name: values[mask] for name, values in rows.items()}
