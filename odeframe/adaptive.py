"""Solvers that choose their steps by an error estimate: the interface, with what every embedded scheme shares."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe.attempt import Attempt
from odeframe.compiled import Compile
from odeframe.errors import InvalidOption
from odeframe.field import Field, Law
from odeframe.grid import check_times
from odeframe.options import check_positive
from odeframe.pace import Pace
from odeframe.sample_pace import SamplePace
from odeframe.solution import Solution, Status
from odeframe.solver import Memory, OnFailure, Solver, StopRule, check_state
from odeframe.stepsize import SAFETY, StepController
from odeframe.transforms import refuse_batched

__all__ = ["AdaptiveSolver", "Attempt"]


class AdaptiveSolver(Solver):
    """A one-step scheme with an error estimate.

    A step is accepted where ``rms(error / (atol + rtol max(|x_n|, |x_{n+1}|))) <= 1``.  Steps end at breakpoints of the
    field and start anew there; output times are interpolated and do not shorten steps.  Step sizes are not
    differentiated: the gradient is that of the accepted steps.

    Attributes:
        error_order: the power of ``dt`` in the error estimate of one step.
        per_sample_steps: whether the scheme takes ``t``, ``dt`` and ``theta`` of shape ``(batch,)``.
        stability_limit: ``h |lambda|`` at which the scheme loses stability, for the hint on stiffness; ``None`` where
            it has no limit.
        stage_weights: of a step ``x + dt sum_i w_i k_i``: ``w_0`` of the slope at its start, which is kept, then those
            of the evaluations that :meth:`attempt` makes, in their order, the last at the new state.  A gradient
            integrates what depends on the state alone by them.  ``None`` for other schemes.
        even_end: whether what is left after one more step is split evenly in two; else the last step takes the rest.
        default_controller: of the step length.
        safety: factor by which a step stays below the one whose error is the tolerance.
        lost_status: how a solve ends whose steps shrink to nothing without a finite error.

    Args:
        rtol: relative tolerance; default 1e-4 in float32, 1e-6 in float64; never below 10 machine epsilons.
        atol: absolute tolerance; default ``rtol / 100``.
        max_steps: accepted and rejected steps of one solve (of each sample, with ``per_sample``).
        first_step: length of the first step; estimated where not given.
        on_failure: see :class:`Solver`.
        per_sample: every sample has its own time, step length and decision; the field gets ``t`` of shape ``(batch,)``
            in float64 on the device of the state.  All samples stop at breakpoints.
        compile: compiles one step by ``torch.compile``; warns and goes on without where that fails.
            ``"reduce-overhead"`` also records CUDA graphs.
        controller: ``"pi"`` (Gustafsson), ``"i"`` (elementary) or ``"pid"``; the default is the scheme's.

    Source: Hairer, Norsett, Wanner 1993, II.4; Gustafsson 1991, Control theoretic techniques for stepsize selection.
    """

    traits: ClassVar[tuple[str, ...]] = ("adaptive",)
    error_order: ClassVar[int]
    per_sample_steps: ClassVar[bool] = False
    stability_limit: ClassVar[float | None] = None
    stage_weights: ClassVar[tuple[float, ...] | None] = None
    even_end: ClassVar[bool] = True
    default_controller: ClassVar[str] = "pi"
    safety: ClassVar[float] = SAFETY
    lost_status: ClassVar[Status] = Status.NON_FINITE

    def __init__(
        self,
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int = 10_000,
        first_step: float | None = None,
        on_failure: OnFailure = "raise",
        per_sample: bool = False,
        compile: Compile = False,
        controller: str | None = None,
    ) -> None:
        super().__init__(on_failure)
        name = type(self).__name__
        check_positive(f"solver {name}", rtol=rtol, atol=atol, first_step=first_step)
        if max_steps < 1:
            raise InvalidOption(f"solver {name}: option max_steps: got {max_steps}, expected at least 1")
        if per_sample and not self.per_sample_steps:
            raise InvalidOption(f"solver {name} has one step for the whole batch: write per_sample=False, or 'dopri5'")
        self.rtol, self.atol, self.max_steps, self.first_step = rtol, atol, max_steps, first_step
        self.per_sample, self.compile_step = per_sample, compile
        self.controller = StepController(controller or self.default_controller, self.error_order, self.safety)

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """What the scheme reuses from the last step, at the start of an interval without breakpoints."""
        return ()

    @abstractmethod
    def attempt(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> Attempt:
        """Tries a step from ``t`` to ``t + dt``; ``dt`` a number, 0-d, or ``(batch,)`` with ``per_sample``."""

    @abstractmethod
    def interpolate(self, theta: Any, dt: Any, x: Tensor, attempt: Attempt) -> Tensor:
        """The state at ``t + theta dt`` for ``0 < theta < 1`` within an accepted step from ``x``.

        ``theta`` and ``dt`` are numbers, or ``(batch,)`` where the scheme takes steps per sample.
        """

    def slope(self, field: Law, t: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """``dx/dt`` at the start, for the first step's length; schemes that have it in their memory return that."""
        return field(t, x)

    def ratio(self, norm: Callable[[Tensor], Tensor], attempt: Attempt, scale: Tensor) -> Tensor:
        """Error over tolerance of one step: the norm's shape."""
        return norm(attempt.error / scale)

    def stiffness(
        self, norm: Callable[[Tensor], Tensor], dt: Any, x: Tensor, attempt: Attempt, scale: Tensor
    ) -> Tensor | None:
        """An estimate of ``h |lambda|`` from one step, in the norm's shape; ``None`` where the scheme has none."""
        return None

    def tolerances(self, dtype: torch.dtype) -> tuple[float, float]:
        """``(rtol, atol)`` for a dtype, floored at 10 machine epsilons."""
        epsilon = torch.finfo(dtype).eps
        rtol = self.rtol if self.rtol is not None else (1e-6 if epsilon < 1e-12 else 1e-4)
        rtol = max(rtol, 10 * epsilon)
        return rtol, self.atol if self.atol is not None else rtol / 100

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """Crosses with steps of the solver's own choice; events and stop rules are located within steps."""
        name = type(self).__name__
        if stop is not None and not self.per_sample_steps:
            raise InvalidOption(f"solver {name}: a stop rule needs states between steps for each sample, e.g. 'dopri5'")
        if stop is not None and self.compile_step:
            warnings.warn(f"solver {name}: compile=True has no effect beside an event or a stop rule", stacklevel=2)
        times, x0 = check_times(times), check_state(x0)
        refuse_batched(x0, name)
        pace = (SamplePace if self.per_sample else Pace)(self, field, x0, times, stop)
        solution = pace.run()
        if solution.status is Status.SUCCESS:
            return solution
        return self.failed(solution, *pace.failure())
