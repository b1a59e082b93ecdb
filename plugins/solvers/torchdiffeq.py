"""Adapter to torchdiffeq: all the methods of the installed release."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, ClassVar

import torch
import torchdiffeq
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from odeframe import Field, InvalidOption, Law, Solution, Solver, Status
from odeframe.grid import Grid, check_times, inside, make_grid
from odeframe.solver import OnFailure, StopRule, check_state


class Torchdiffeq(Solver):
    """``torchdiffeq.odeint`` between breakpoints, with failures as a status.

    Args:
        method: one of the installed release's methods.
        rtol: relative tolerance of adaptive methods.
        atol: absolute tolerance of adaptive methods.
        steps: equal steps from the first to the last time, for fixed-step methods.
        max_steps: limit of adaptive methods, at 8 evaluations a step, between two breakpoints.
        options: passed on to the method; a name it does not have is refused.
        on_failure: as for every solver.

    Source: Chen 2018, torchdiffeq.
    """

    traits: ClassVar[tuple[str, ...]] = ("adaptive",)

    def __init__(
        self,
        method: str = "dopri5",
        rtol: float = 1e-6,
        atol: float = 1e-8,
        steps: int | None = None,
        max_steps: int = 10_000,
        options: dict[str, Any] | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(on_failure)
        if method not in SOLVERS:
            raise InvalidOption(
                f"solver 'torchdiffeq': option method: got {method!r}, expected one of {', '.join(sorted(SOLVERS))}"
            )
        self.fixed = issubclass(SOLVERS[method], FixedGridODESolver)
        self.method, self.rtol, self.atol, self.steps = method, rtol, atol, steps
        self.max_steps, self.options = max_steps, dict(options or {})
        unknown = set(self.options) - set(method_options(method))
        if unknown:
            raise InvalidOption(
                f"solver 'torchdiffeq': method {method!r} has no option {', '.join(sorted(unknown))}; it has "
                f"{', '.join(method_options(method)) or 'none'}"
            )
        if steps is not None and (not self.fixed or steps < 1):
            raise InvalidOption(
                f"solver 'torchdiffeq': option steps: got {steps} with method {method!r}, expected at least 1 and a "
                "fixed-step method"
            )

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """One call of ``odeint`` for each stretch between breakpoints."""
        if stop is not None:
            raise InvalidOption("solver 'torchdiffeq': no stop rules; use a step solver, e.g. solver='rk4'")
        times = check_times(times)
        if times.requires_grad:
            raise InvalidOption("solver 'torchdiffeq': no gradient of the times; use solver='dopri5' or times.detach()")
        grid = make_grid(times, field.breakpoints(), self.steps, None) if self.fixed else None
        cuts = [float(times[0]), *inside(field.breakpoints(), times), float(times[-1])]
        states, ends = [check_state(x0)], (cuts[0], cuts[0])
        x, status = x0, Status.SUCCESS
        for index, ends in enumerate(itertools.pairwise(cuts)):
            x, status = self.stretch(field, index, x, times, ends, states, grid)
            if status is not Status.SUCCESS:
                break
        finite = bool(torch.isfinite(x.detach()).all())
        status = status if finite or status is not Status.SUCCESS else Status.NON_FINITE
        states += [torch.full_like(x0, float("nan"))] * (len(times) - len(states))
        solution = Solution(times, torch.stack(states), field.stats, status)
        if status is Status.SUCCESS:
            return solution
        last = next(state for state in reversed(states) if bool(torch.isfinite(state).all()))
        return self.failed(solution, ends[0], ends[1] - ends[0], last)

    def stretch(
        self,
        field: Field,
        index: int,
        x: Tensor,
        times: Tensor,
        ends: tuple[float, float],
        states: list[Tensor],
        grid: Grid | None,
    ) -> tuple[Tensor, Status]:
        """Solves between two breakpoints and appends the states at the output times passed."""
        start, end = ends
        forward = end >= start
        outputs = [float(t) for t in times[1:] if (start < t <= end if forward else end <= t < start)]
        asked = torch.tensor([start, *outputs, *([] if outputs and outputs[-1] == end else [end])], dtype=torch.float64)
        law = field.on(asked[0], asked[-1], step=index)
        right = _RightHandSide(law) if self.fixed else _Counted(law, field, 8 * self.max_steps)
        options = dict(self.options)
        if grid is not None and not {"step_size", "grid_constructor"} & set(options):
            low, high = min(ends), max(ends)
            nodes = [
                node for node in grid.nodes if low - 1e-9 * abs(end - start) <= node <= high + 1e-9 * abs(end - start)
            ]
            nodes[0], nodes[-1] = asked[0], asked[-1]
            options["grid_constructor"] = lambda func, y0, t: torch.stack(nodes).to(t)
        try:
            found = torchdiffeq.odeint(
                right, x, asked, method=self.method, rtol=self.rtol, atol=self.atol, options=options
            )
        except _Halt as halt:
            return x, halt.status
        except AssertionError:  # torchdiffeq's way to say "underflow in dt"
            return x, Status.STEP_TOO_SMALL
        states.extend(found[1 : len(outputs) + 1])
        return found[-1], Status.SUCCESS


def method_options(method: str) -> list[str]:
    """The options that a method of the installed release takes, read from its constructors."""
    names: dict[str, None] = {}
    for cls in SOLVERS[method].__mro__[:-1]:
        names.update(dict.fromkeys(inspect.signature(cls.__init__).parameters))
    hidden = {"self", "func", "y0", "rtol", "atol", "norm", "min_step", "max_step", "kwargs", "unused_kwargs", "dtype"}
    return [name for name in names if name not in hidden]


class _Halt(Exception):  # noqa: N818 - not an error: it carries a status out of odeint
    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class _RightHandSide:
    """The law as torchdiffeq calls it."""

    def __init__(self, law: Law) -> None:
        self._law = law

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self._law(t.to(torch.float64).cpu(), x)


class _Counted(_RightHandSide):
    """With counts, and with the limits that torchdiffeq's asserts do not give under ``python -O``."""

    def __init__(self, law: Law, field: Field, limit: int) -> None:
        super().__init__(law)
        self._stats, self._limit, self._calls = field.stats, limit, 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self._calls += 1
        if self._calls > self._limit:
            raise _Halt(Status.TOO_MANY_STEPS)
        if not bool(torch.isfinite(x.detach()).all()):
            raise _Halt(Status.NON_FINITE)
        return super().__call__(t, x)

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self._stats.accepted += 1

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self._stats.rejected += 1
