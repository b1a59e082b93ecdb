"""Adapter to scipy's solvers, forward only: the references that others are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import integrate
from torch import Tensor

from odeframe import Field, Incompatible, InvalidOption, Law, Solution, Solver, Status
from odeframe.grid import check_times
from odeframe.options import check_positive
from odeframe.solution import Stats
from odeframe.solver import OnFailure, StopRule, check_state
from odeframe_plugins.solvers.stretches import Halt, stretches

METHODS = {name: getattr(integrate, name) for name in ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")}


class Scipy(Solver):
    """A solver of ``scipy.integrate`` between breakpoints, in double precision on the host.

    The batch is one vector with one error norm.  States come back without a graph, so the solver has the trait
    ``forward_only``: solve under ``torch.no_grad()``, or with ``gradient="adjoint"``, which needs no more than solves.

    Args:
        method: ``"RK45"``, ``"RK23"``, ``"DOP853"``, ``"Radau"``, ``"BDF"`` or ``"LSODA"``.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: accepted steps of one solve.
        on_failure: as for every solver.

    Source: Virtanen et al. 2020, SciPy 1.0: fundamental algorithms for scientific computing in Python.
    """

    traits = ("adaptive", "forward_only")

    def __init__(
        self,
        method: str = "RK45",
        rtol: float = 1e-6,
        atol: float = 1e-8,
        max_steps: int = 10_000,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(on_failure)
        if method not in METHODS:
            raise InvalidOption(f"solver 'scipy': option method: got {method!r}, expected one of {', '.join(METHODS)}")
        check_positive("solver 'scipy'", rtol=rtol, atol=atol, max_steps=max_steps)
        self.method, self.rtol, self.atol, self.max_steps = method, rtol, atol, max_steps

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """Steps of scipy's from breakpoint to breakpoint."""
        if stop is not None:
            raise InvalidOption("solver 'scipy': no stop rules; use a step solver, e.g. solver='rk4'")
        times, x0 = check_times(times), check_state(x0)
        if x0.is_complex() and self.method == "LSODA":
            raise InvalidOption("solver 'scipy': method 'LSODA' takes no complex state; write method='RK45'")
        states, x, stats = [x0.detach()], x0.detach(), field.stats
        if x0.numel() == 0:  # scipy takes no empty state
            return Solution(times, x0.expand(len(times), *x0.shape), stats)
        budget = stats.accepted + self.max_steps
        try:
            for law, asked, count in stretches(field, times):
                self.check_forward(law, x0, times)
                found = self.stretch(law, stats, x, asked, budget)
                x = found[-1]
                states.extend(found[1 : count + 1])
        except Halt as halt:
            states.extend(halt.passed)
            states += [torch.full_like(states[0], float("nan"))] * (len(times) - len(states))
            solution = Solution(times, torch.stack(states), stats, halt.status)
            return self.failed(solution, halt.t, halt.dt, halt.last, halt.suspect)
        return Solution(times, torch.stack(states), stats)

    def check_forward(self, law: Law, x0: Tensor, times: Tensor) -> None:
        """Refuses to lose a gradient in silence."""
        if torch.is_grad_enabled() and any(v.requires_grad for v in (x0, times, *law.tensors)):
            raise Incompatible(
                "solver 'scipy' goes forward only: its states have no graph, and x0, the times or a parameter of the "
                "field asks for a gradient; write gradient='adjoint', solve under torch.no_grad(), or take another "
                "solver, e.g. solver='dopri5'"
            )

    @torch.no_grad()
    def stretch(self, law: Law, stats: Stats, x: Tensor, asked: Tensor, budget: int) -> list[Tensor]:
        """The states at the times asked, the first of them the start."""
        plain, found, right = [float(t) for t in asked], [x], _RightHandSide(law, x)
        options = {"rtol": max(self.rtol, 1e-13), "atol": self.atol}
        last, dt, status, direction = x, plain[-1] - plain[0], None, np.sign(plain[-1] - plain[0])
        with np.errstate(over="ignore", invalid="ignore"):  # a step that fails so is reported as a status
            try:
                solver = METHODS[self.method](right, plain[0], right.vector(x), plain[-1], **options)
                while solver.status == "running":
                    if stats.accepted >= budget:
                        status = Status.TOO_MANY_STEPS
                        break
                    before = solver.t
                    solver.step()
                    if solver.status == "failed" or not np.isfinite(solver.y).all():
                        status = Status.STEP_TOO_SMALL if np.isfinite(solver.y).all() else Status.NON_FINITE
                        break
                    stats.accepted += 1
                    dt, last = solver.t - before, right.state(solver.y)
                    if abs(dt) < 10 * np.spacing(abs(solver.t)) and solver.status == "running":
                        status = Status.STEP_TOO_SMALL  # LSODA goes on without it
                        break
                    while len(found) < len(plain) and (plain[len(found)] - solver.t) * direction <= 0:
                        time = plain[len(found)]
                        found.append(last if time == solver.t else right.state(solver.dense_output()(time)))
            except ValueError as error:  # scipy's check of an implicit method's matrix
                if "infs or NaNs" not in str(error):
                    raise
                status = Status.NON_FINITE
        if status is not None:
            halt = Halt(status, right.t, dt, last, last if right.suspect is None else right.suspect)
            halt.passed = found[1:]
            raise halt
        return found


class _RightHandSide:
    """The law on a flat vector of doubles; remembers where it was last called, and a state where it was not finite."""

    def __init__(self, law: Law, like: Tensor) -> None:
        self._law, self._like = law, like
        self.t = float(law.t)
        self.suspect: Tensor | None = None

    def __call__(self, t: float, y: Any) -> Any:
        x = self.state(y)
        f = self._law(torch.tensor(t, dtype=torch.float64), x)
        self.t = t
        if not bool(torch.isfinite(f).all()):
            self.suspect = f
        return self.vector(f)

    def state(self, y: Any) -> Tensor:
        """A vector as a state ``(batch, *state)``."""
        return torch.from_numpy(np.array(y)).reshape(self._like.shape).to(self._like)

    def vector(self, x: Tensor) -> Any:
        """A state as a vector of doubles."""
        return x.detach().cpu().to(torch.complex128 if x.is_complex() else torch.float64).reshape(-1).numpy()
