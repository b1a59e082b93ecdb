"""Adapter to torchdiffeq: all the methods of the installed release."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torchdiffeq
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.scipy_wrapper import ScipyWrapperODESolver
from torchdiffeq._impl.solvers import FixedGridODESolver

from odeframe import Field, Incompatible, InvalidOption, Law, Solution, Solver, Status
from odeframe.grid import Grid, check_times, make_grid
from odeframe.options import check_positive
from odeframe.solution import Stats
from odeframe.solver import OnFailure, StopRule, check_state
from odeframe_plugins.solvers.stretches import Halt, stretches


class Torchdiffeq(Solver):
    """``torchdiffeq.odeint`` between breakpoints, with failures as a status.

    Args:
        method: one of the installed release's methods.
        rtol: relative tolerance of adaptive methods.
        atol: absolute tolerance of adaptive methods.
        steps: equal steps from the first to the last time, for fixed-step methods.
        max_steps: accepted and rejected steps of adaptive methods between two breakpoints; through scipy, which does
            not tell of its steps, 8 evaluations for each.
        options: passed on to the method; a name it does not have is refused.
        on_failure: as for every solver.

    Source: Chen 2018, torchdiffeq.
    """

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
        check_positive("solver 'torchdiffeq'", rtol=rtol, atol=atol)
        self.fixed = issubclass(SOLVERS[method], FixedGridODESolver)
        through_scipy = issubclass(SOLVERS[method], ScipyWrapperODESolver)
        told = (*(() if self.fixed else ("adaptive",)), *(("forward_only",) if through_scipy else ()))
        self.traits = ("foreign", *told)  # its steps are another library's, and not to be taken one by one
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
        x, states, failure = check_state(x0), [x0], None
        if x.numel() == 0:  # torchdiffeq takes the mean of no errors
            return Solution(times, x.expand(len(times), *x.shape), field.stats)
        try:
            for law, asked, count in stretches(field, times):
                self.check_differentiable(law, x)
                cross = self.cross_adaptive if grid is None else self.cross_fixed
                found = cross(law, field.stats, x, asked, grid)
                x = found[-1]
                states.extend(found[1 : count + 1])
        except Halt as halt:
            failure = halt
            states.extend(halt.passed[: len(times) - len(states)])
        states += [torch.full_like(x0, float("nan"))] * (len(times) - len(states))
        solution = Solution(times, torch.stack(states), field.stats)
        if failure is None:
            return solution
        solution.status = failure.status
        return self.failed(solution, failure.t, failure.dt, failure.last, failure.suspect)

    def check_differentiable(self, law: Law, x: Tensor) -> None:
        """Refuses to lose a gradient: a method that goes through scipy returns states without a graph."""
        if (
            "forward_only" in self.traits
            and torch.is_grad_enabled()
            and any(v.requires_grad for v in (x, *law.tensors))
        ):
            raise Incompatible(
                f"solver 'torchdiffeq': method {self.method!r} goes through scipy, where steps have no gradient; "
                "write gradient='adjoint', take another method, or solve under torch.no_grad()"
            )

    def cross_adaptive(self, law: Law, stats: Stats, x: Tensor, asked: Tensor, grid: Grid | None) -> Tensor:
        """The states at the times asked, by steps of the method's own choice."""
        through_scipy = issubclass(SOLVERS[self.method], ScipyWrapperODESolver)
        kind, limit = (_Watch, 8 * self.max_steps) if through_scipy else (_StepWatch, self.max_steps)
        watch = kind(law, x, asked, stats, limit)
        found = self.odeint(watch, x, asked, self.options)
        if len(found) < len(asked):  # scipy's way to give up
            raise watch.halt(Status.STEP_TOO_SMALL, watch.last)
        if not bool(torch.isfinite(found[-1].detach()).all()):
            raise watch.halt(Status.NON_FINITE, found[-1])
        return found

    def cross_fixed(self, law: Law, stats: Stats, x: Tensor, asked: Tensor, grid: Grid | None) -> Tensor:
        """The states at the times asked, by steps on the grid."""
        options = dict(self.options)
        if grid is not None and not {"step_size", "grid_constructor"} & set(options):
            nodes = nodes_between(grid, asked)
            options["grid_constructor"] = lambda func, y0, t: nodes.to(t)
            stats.accepted += len(nodes) - 1
        found = self.odeint(_RightHandSide(law), x, asked, options)
        if not bool(torch.isfinite(found[-1].detach()).all()):
            raise self.locate(_Watch(law, x, asked, stats), found, options, asked)
        return found

    def locate(self, watch: _Watch, found: Tensor, options: dict[str, Any], asked: Tensor) -> Halt:
        """Solves again without a graph, up to the first non-finite evaluation."""
        evaluations, halt = watch.stats.nfe, watch.halt(Status.NON_FINITE, found[-1])
        try:
            with torch.no_grad():
                self.odeint(watch, watch.last, asked, options)
        except Halt as earlier:
            halt = earlier
        watch.stats.nfe, halt.passed = evaluations, list(found[1:])
        return halt

    def odeint(self, right: _RightHandSide, x: Tensor, asked: Tensor, options: dict[str, Any]) -> Tensor:
        """One call of torchdiffeq; its failed assertion about a step becomes a status."""
        try:
            return torchdiffeq.odeint(
                right, x, asked, method=self.method, rtol=self.rtol, atol=self.atol, options=dict(options)
            )
        except AssertionError as error:
            if isinstance(right, _Watch) and "underflow in dt" in str(error):
                raise right.halt(Status.STEP_TOO_SMALL, right.last) from error
            if isinstance(right, _Watch) and "max_num_steps exceeded" in str(error):
                raise right.halt(Status.TOO_MANY_STEPS, right.last) from error
            raise


def method_options(method: str) -> list[str]:
    """The options that a method of the installed release takes, read from its constructors."""
    names: dict[str, None] = {}
    for cls in SOLVERS[method].__mro__[:-1]:
        names.update(dict.fromkeys(inspect.signature(cls.__init__).parameters))
    hidden = {"self", "func", "y0", "rtol", "atol", "norm", "min_step", "max_step", "kwargs", "unused_kwargs", "dtype"}
    return [name for name in names if name not in hidden]


def nodes_between(grid: Grid, asked: Tensor) -> Tensor:
    """The grid's nodes from the first to the last of the times asked, whose ends are met exactly."""
    low, high = sorted((float(asked[0]), float(asked[-1])))
    margin = 1e-9 * (high - low)
    nodes = torch.stack([node for node in grid.nodes if low - margin <= node <= high + margin])
    nodes[0], nodes[-1] = asked[0], asked[-1]
    return nodes


class _RightHandSide:
    """The law as torchdiffeq calls it."""

    def __init__(self, law: Law) -> None:
        self._law = law

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self._law(t.to(torch.float64).cpu(), x)


class _Watch(_RightHandSide):
    """Remembers the last finite evaluation, and halts at the first other one or at a limit of evaluations.

    torchdiffeq's own asserts give no status, and none at all under ``python -O``.
    """

    def __init__(self, law: Law, x: Tensor, asked: Tensor, stats: Stats, limit: float = float("inf")) -> None:
        super().__init__(law)
        self.t, self.dt, self.last = float(asked[0]), float(asked[-1] - asked[0]), x.detach()
        self.stats, self._limit, self._calls = stats, limit, 0

    def halt(self, status: Status, suspect: Tensor) -> Halt:
        """The failure, with what is remembered."""
        return Halt(status, self.t, self.dt, self.last, suspect)

    def count(self) -> None:
        """One more evaluation, or step, of those that are limited."""
        self._calls += 1
        if self._calls > self._limit:
            raise self.halt(Status.TOO_MANY_STEPS, self.last)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(x.detach()).all()):
            raise self.halt(Status.NON_FINITE, x)
        self.remember(t, x)
        return super().__call__(t, x)

    def remember(self, t: Tensor, x: Tensor) -> None:
        """Where the method has come to, told by the times of its evaluations."""
        self.count()
        if float(t) != self.t:
            self.t, self.dt = float(t), float(t) - self.t
        self.last = x.detach()


class _StepWatch(_Watch):
    """The same where torchdiffeq tells of each step: steps are limited, accepted or not."""

    def remember(self, t: Tensor, x: Tensor) -> None:
        """Nothing: the steps say more."""

    def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.count()
        start, length = float(t0.detach()), float(dt.detach())
        if not abs(length) > 0 or start + length == start:  # an assert of theirs, gone under -O
            self.t, self.dt, self.last = start, length, y0.detach()
            raise self.halt(Status.STEP_TOO_SMALL, y0)

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.stats.accepted += 1
        self.t, self.dt, self.last = float(t0.detach()), float(dt.detach()), y0.detach()

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.stats.rejected += 1
        self.t, self.dt, self.last = float(t0.detach()), float(dt.detach()), y0.detach()
