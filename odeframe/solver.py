"""How an interval is crossed: the interfaces of solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from odeframe.compiled import Compile
from odeframe.errors import InvalidOption, SolveFailed
from odeframe.field import Field, Law, half_in_autocast
from odeframe.grid import Grid, check_times, make_grid
from odeframe.options import check_positive
from odeframe.solution import Solution, Status
from odeframe.transforms import batched, finite
from odeframe.walk import Walk

Memory = tuple[Tensor, ...]
OnFailure = Literal["raise", "return", "last"]


class StopRule(Protocol):
    """Says which samples are done.  Step solvers ask after each step; adaptive ones find the time within the step.

    A rule with a zero that has a gradient (an event, a learned end time) is an :class:`odeframe.Event`.
    """

    def __call__(self, t: Tensor, x: Tensor, memory: Memory, /) -> Tensor:
        """A mask ``(batch,)``, true where the sample stops at ``t``; its state is kept from then on."""


class Solver(nn.Module, ABC):
    """A scheme for ``dx/dt = field(t, x)``.  A module: it may have trainable coefficients, which the control drives.

    Attributes:
        order: convergence order of the scheme, ``None`` where it has none to claim.
        traits: what other parts may need or refuse.
        opaque: whether the scheme uses nothing but ``field(t, x)`` on the state as one vector, so that quadratures can
            ride in it; False where it asks for parts or slots of the dynamics.

    Args:
        on_failure: ``"raise"`` raises ``SolveFailed``; ``"return"`` gives a Solution with its status and what was
            computed; ``"last"`` the same with the last finite state in place of what came after it.
    """

    order: ClassVar[int | None] = None
    traits: ClassVar[tuple[str, ...]] = ()
    opaque: ClassVar[bool] = True

    def __init__(self, on_failure: OnFailure = "raise") -> None:
        super().__init__()
        if on_failure not in ("raise", "return", "last"):
            raise InvalidOption(f"solver option on_failure: got {on_failure!r}, expected 'raise', 'return' or 'last'")
        self.on_failure = on_failure

    @abstractmethod
    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """Crosses from the first to the last of ``times`` and returns the states at all of them.

        Args:
            field: the right-hand side.
            x0: ``(batch, *state)`` at the first time.
            times: strictly monotone ``(num_times,)``.
            stop: an event or a rule that ends samples early.
        """

    def failed(self, solution: Solution, t: float, dt: float, last: Tensor, suspect: Tensor | None = None) -> Solution:
        """Raises ``SolveFailed`` or returns what ``on_failure`` asks for.

        Args:
            solution: what was computed, with its status.
            t: time that was reached.
            dt: the last step that was tried.
            last: the last finite state ``(batch, *state)``.
            suspect: the state or the error that failed, ``(batch, *state)``, to tell the worst sample by; by default
                ``last``.
        """
        worst = worst_sample(last if suspect is None else suspect)
        start = solution.states[0].detach()
        if not finite(start):
            raise InvalidOption(f"x0: got non-finite values, first in sample {worst_sample(start)}")
        if self.on_failure == "raise":
            stiff = f"{solution.status.message}, and the steps were at the limit of stability: the problem looks stiff"
            raise SolveFailed(
                stiff if solution.stats.stiff else "",
                status=solution.status,
                t=t,
                dt=dt,
                nfe=solution.stats.nfe,
                worst_sample=worst,
            )
        if self.on_failure == "last":
            good = torch.isfinite(solution.states)
            solution.states = torch.where(good, solution.states, last.expand_as(solution.states))
        return solution


def worst_sample(x: Tensor) -> int | None:
    """The first sample with a non-finite value, or else the one of largest magnitude; ``None`` for an empty batch.

    Args:
        x: a state or an error ``(batch, *state)``.
    """
    if x.numel() == 0 or batched(x):
        return None
    flat = x.detach().reshape(x.shape[0], -1).abs()
    bad = ~torch.isfinite(flat).all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else int(flat.amax(1).argmax())


def check_state(x0: Any) -> Tensor:
    """The initial state, refused where it is no floating-point or complex tensor with a batch dimension.

    Under autocast a layer before the solve gives bfloat16 or float16; states, stages and error norms are float32.
    """
    if isinstance(x0, tuple | list):
        raise InvalidOption(
            f"x0: got a {type(x0).__name__}, expected one tensor (batch, *state); write torch.cat(x0, dim=1), and "
            "x.split(sizes, dim=1) in the field"
        )
    if not torch.is_tensor(x0):
        raise InvalidOption(f"x0: got {type(x0).__name__}, expected a tensor (batch, *state)")
    if not (x0.is_floating_point() or x0.is_complex()):
        raise InvalidOption(f"x0: got dtype {x0.dtype}, expected a floating-point or complex one; write x0.float()")
    if x0.dim() == 0:
        raise InvalidOption("x0: got a 0-d tensor, expected (batch, *state); write x0[None]")
    return x0.float() if half_in_autocast(x0) else x0


class StepSolver(Solver):
    """A finite composition of step maps ``(x, memory) -> (x, memory)`` on a grid that does not depend on the state.

    Subclasses give :meth:`step`, and :meth:`init` where the scheme has memory.

    Attributes:
        slots: how many different blocks one step uses.
        restart: ``"breakpoints"`` forgets the memory where the law jumps, which keeps the order of a multistep scheme;
            ``"never"`` carries it on (a network with a piece a step).

    Args:
        steps: equal steps from the first to the last time (default 10, or as many as a piecewise control needs).
        dt: step length instead; the last step may be shorter.
        on_failure: see :class:`Solver`.
        compile: compiles one step by ``torch.compile``; warns and goes on without where that fails.
            ``"reduce-overhead"`` also records CUDA graphs.
    """

    slots: ClassVar[int] = 1
    restart: Literal["never", "breakpoints"] = "never"

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(on_failure)
        name = type(self).__name__
        if steps is not None and dt is not None:
            raise InvalidOption(f"solver {name}: got steps={steps} and dt={dt}; write one of them")
        if steps is not None and steps < 1:
            raise InvalidOption(f"solver {name}: option steps: got {steps}, expected at least 1")
        check_positive(f"solver {name}", dt=dt)
        self.steps, self.dt, self.compile_step = steps, dt, compile

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.slots > 1 and cls.opaque:
            raise InvalidOption(
                f"solver {cls.__name__}: got slots = {cls.slots} and opaque = True, but running costs and an adjoint "
                "see one law a step, not several; write opaque = False in the class"
            )

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """The memory before the first step from ``(t, x)``; ``field.t_next - field.t`` is that step."""
        return ()

    @abstractmethod
    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step from ``t`` to ``t + dt``.

        Args:
            field: the law on the step's interval, called as ``field(t, x)``.
            t: 0-d float64, or ``(batch,)``.
            dt: signed length, a number or a 0-d tensor.
            x: ``(batch, *state)``.
            memory: what :meth:`init` or the last step returned.
        """

    def grid(self, field: Field, times: Tensor) -> Grid:
        """The nodes of a solve over checked times, and those where the memory starts anew."""
        grid = make_grid(times, field.breakpoints(), self.steps, self.dt)
        return replace(grid, restarts=grid.jumps) if self.restart == "breakpoints" else grid

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """Walks the grid; a non-finite end state is traced back to the step that made it."""
        times = check_times(times)
        grid = self.grid(field, times)
        walk = Walk(self, field, grid, check_state(x0), stop)
        try:
            solution = walk.run(times)
        except SolveFailed as failure:  # a step that knows that it failed
            return self.unfinished(walk, times, failure)
        if finite(walk.x) or x0.numel() == 0:
            return solution
        solution.status = Status.NON_FINITE
        return self.failed(solution, *walk.locate())

    def unfinished(self, walk: Walk, times: Tensor, failure: SolveFailed) -> Solution:
        """What ``on_failure`` asks for where a step raised: the outputs up to it, then not a number."""
        if self.on_failure == "raise" or not isinstance(failure.status, Status):
            facts = {name: getattr(failure, name) for name in ("status", "t", "dt", "worst_sample")}
            raise SolveFailed(failure.message, nfe=walk.field.stats.nfe, **facts) from failure
        solution = walk.solution(times)
        solution.status = failure.status
        return self.failed(solution, failure.t or 0.0, failure.dt or 0.0, walk.x)


class ReversibleSolver(StepSolver):
    """A step solver whose step can be undone from its result."""

    @abstractmethod
    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """State and memory at ``t`` from those at ``t + dt``; arguments otherwise as for :meth:`StepSolver.step`."""
