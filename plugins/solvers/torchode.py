"""Adapter to torchode: adaptive steps of each sample's own."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torchode
from torch import Tensor

from odeframe import Field, InvalidOption, Law, Solution, Solver, Status
from odeframe.grid import check_times
from odeframe.options import check_positive
from odeframe.quadrature import columns
from odeframe.solution import Stats
from odeframe.solver import OnFailure, StopRule, check_state
from odeframe_plugins.solvers.stretches import Halt, stretches

STATUS = {
    torchode.Status.REACHED_DT_MIN.value: Status.STEP_TOO_SMALL,
    torchode.Status.REACHED_MAX_STEPS.value: Status.TOO_MANY_STEPS,
}
METHODS = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5, "heun": torchode.Heun}


class Torchode(Solver):
    """torchode's parallel solver between breakpoints: every sample has steps, and an error norm, of its own.

    The field is evaluated for the whole batch with one time a sample, ``t`` ``(batch,)``, until the last sample has
    finished; a stiff sample costs evaluations but leaves the others' steps as they are.  Steps are accepted where
    ``rms(error / (atol + rtol max(|x_n|, |x_{n+1}|))) < 1`` over one sample's state.  Gradients are those of the
    accepted steps (``gradient="backprop"``).

    Args:
        method: ``"dopri5"``, ``"tsit5"`` or ``"heun"``.
        rtol: relative tolerance; default 1e-4 in float32, 1e-6 in float64; never below 10 machine epsilons.
        atol: absolute tolerance; default ``rtol / 100``.
        max_steps: accepted and rejected steps of one sample between two breakpoints.
        on_failure: as for every solver.

    Statistics: ``accepted`` and ``rejected`` are summed over the samples, ``nfe`` counts calls for the whole batch.

    Source: Lienen, Guennemann 2022, torchode: A Parallel ODE Solver for PyTorch.
    """

    traits = ("adaptive", "per_sample")

    def __init__(
        self,
        method: Literal["dopri5", "tsit5", "heun"] = "dopri5",
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int = 10_000,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(on_failure)
        if method not in METHODS:
            raise InvalidOption(
                f"solver 'torchode': option method: got {method!r}, expected one of {', '.join(METHODS)}"
            )
        check_positive("solver 'torchode'", rtol=rtol, atol=atol, max_steps=max_steps)
        self.method, self.rtol, self.atol, self.max_steps = method, rtol, atol, max_steps

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """One call of torchode for each stretch between breakpoints."""
        if stop is not None:
            raise InvalidOption("solver 'torchode': no stop rules; use a step solver, e.g. solver='rk4'")
        times, x0 = check_times(times), check_state(x0)
        if times.requires_grad:
            raise InvalidOption("solver 'torchode': no gradient of the times; use solver='dopri5' or times.detach()")
        if x0.is_complex():
            raise InvalidOption("solver 'torchode': got a complex state, expected a real one; use solver='dopri5'")
        x, states = x0, [x0]
        if x0.numel() == 0:  # torchode takes no empty batch
            return Solution(times, x0.expand(len(times), *x0.shape), field.stats)
        try:
            for law, asked, count in stretches(field, times):
                found = self.stretch(law, field.stats, x, asked)
                x = found[-1]
                states.extend(found[1 : count + 1])
        except Halt as halt:
            states += [torch.full_like(x0, float("nan"))] * (len(times) - len(states))
            solution = Solution(times, torch.stack(states), field.stats, halt.status)
            return self.failed(solution, halt.t, halt.dt, halt.last, halt.suspect)
        return Solution(times, torch.stack(states), field.stats)

    def stretch(self, law: Law, stats: Stats, x: Tensor, asked: Tensor) -> list[Tensor]:
        """The states at the times asked, the first of them the start."""
        term = torchode.ODETerm(lambda t, y: columns(law(t, y.reshape(x.shape))), with_stats=False)
        epsilon = torch.finfo(x.dtype).eps
        rtol = max(10 * epsilon, self.rtol or (1e-6 if epsilon < 1e-12 else 1e-4))
        controller = _Controller(
            atol=self.atol or rtol / 100,
            rtol=rtol,
            pcoeff=0.2,
            icoeff=0.5,
            dcoeff=0.0,
            term=term,
        ).to(x.device)
        solver = torchode.AutoDiffAdjoint(
            METHODS[self.method](term=term),
            controller,
            max_steps=self.max_steps + 1,  # its limit is one that may not be reached
            backprop_through_step_size_control=False,
        )
        t = asked.to(x.device).expand(x.shape[0], -1)
        found = solver.solve(torchode.InitialValueProblem(columns(x), t[:, 0], t[:, -1], t))
        accepted, tried = int(found.stats["n_accepted"].sum()), int(found.stats["n_steps"].sum())
        stats.accepted, stats.rejected = stats.accepted + accepted, stats.rejected + tried - accepted
        ends = [v.reshape(x.shape) for v in found.ys.unbind(1)]
        self.check(found.status, controller, ends)
        return [x, *ends[1:]]

    def check(self, status: Tensor, watch: _Controller, ends: list[Tensor]) -> None:
        """Raises where a sample has failed, or has come to a state that is none."""
        worst = int(status.argmax())
        code = int(status[worst])
        if code == torchode.Status.SUCCESS.value and bool(torch.isfinite(ends[-1].detach()).all()):
            return
        last = watch.last.reshape(ends[0].shape)
        suspect = torch.zeros_like(last)
        suspect[worst] = 1.0  # failed() names the sample of largest magnitude
        reason = STATUS.get(code, Status.NON_FINITE)
        raise Halt(reason, float(watch.t[worst]), float(watch.dt[worst]), last, suspect if code else ends[-1].detach())


class _Controller(torchode.PIDController):
    """torchode's controller, which remembers the last steps, and ends a solve whose time no longer moves.

    Attributes:
        t: where each sample's last step began, ``(batch,)``.
        dt: that step, ``(batch,)``.
        last: the states there, ``(batch, D)``.
    """

    t: Tensor
    dt: Tensor
    last: Tensor

    def adapt_step_size(self, t0: Tensor, dt: Tensor, y0: Tensor, *rest: Any) -> Any:
        """The library's decision, with its own word for a step that is lost in rounding."""
        accept, dt_next, state, status = super().adapt_step_size(t0, dt, y0, *rest)
        running = dt != 0  # a sample that has finished takes steps of no length
        before = self.dt if hasattr(self, "dt") else dt
        self.t, self.dt, self.last = t0, torch.where(running, dt, before), y0.detach()
        stuck = running & (t0 + dt == t0)
        return accept, dt_next, state, torch.where(stuck, torchode.Status.REACHED_DT_MIN.value, status)
