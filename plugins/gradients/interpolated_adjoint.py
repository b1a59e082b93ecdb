"""The adjoint equation along the trajectory of the forward solve, which is kept and interpolated."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Field, Incompatible, Solution, Solver, Status
from odeframe.adaptive import Attempt
from odeframe.pace import Pace
from odeframe.solver import StopRule
from odeframe_plugins.gradients.adjoint import Adjoint
from odeframe_plugins.gradients.costate import Trajectory


class InterpolatedAdjoint(Adjoint):
    """The continuous adjoint ``a' = -f_x(t, x(t))^T a`` with ``x(t)`` from the dense output of the forward solve.

    The accepted steps of the forward solve are kept with their stages, and the backward solve reads the state between
    them: it is not integrated again.  So the backward equation is linear and half as large, its trajectory is the
    forward one where integrating back would amplify errors (a field that damps), and memory grows with the accepted
    steps, by a state a stage, but with none of the activations within the field.

    The result is that of the differential equation, as for ``adjoint``; the interpolant's order is below the scheme's,
    and its error is part of the gradient's.

    Source: Daulbaev et al. 2020, Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs.
    """

    name: ClassVar[str] = "interpolated_adjoint"

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The solve without a graph, its steps kept; its backward pass the adjoint equation along them."""
        if not isinstance(solver, AdaptiveSolver) or solver.per_sample:
            wanted = "one step for the whole batch" if isinstance(solver, AdaptiveSolver) else "dense output of its own"
            raise Incompatible(
                f"gradient {self.name!r} reads states between the steps of an adaptive solver with {wanted}: got "
                f"{type(solver).__name__}; write e.g. solver='dopri5', or gradient='adjoint'"
            )
        return super().solve(solver, field, x0, times, stop)

    def forward(self, solver: Solver, field: Field) -> Callable[[Tensor, Tensor], tuple[Solution, Trajectory | None]]:
        """The solve without a graph, with its trajectory."""
        assert isinstance(solver, AdaptiveSolver)

        def run(x0: Tensor, times: Tensor) -> tuple[Solution, Trajectory]:
            pace = KeptPace(solver, field, x0, times)
            solution = pace.run()
            if solution.status is not Status.SUCCESS:
                solution = solver.failed(solution, *pace.failure())
            return solution, Kept(solver, pace)

        return run


class KeptPace(Pace):
    """An adaptive solve that keeps its accepted steps."""

    def __init__(self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor) -> None:
        self.steps: list[tuple[float, float, Tensor, Attempt]] = []
        super().__init__(solver, field, x0, times)

    def record(self, attempt: Attempt, dt: float, t_next: float) -> None:
        """Keeps what interpolation needs."""
        kept = Attempt(attempt.x, attempt.x, (), attempt.stages, law=attempt.law, t=attempt.t)
        self.steps.append((self.t, dt, self.x, kept))
        super().record(attempt, dt, t_next)


class Kept:
    """``x(t)`` of a solve, by the dense output of the step that holds ``t``."""

    def __init__(self, solver: AdaptiveSolver, pace: KeptPace) -> None:
        self.solver, self.steps, self.direction = solver, pace.steps, pace.direction
        self.starts = [t * self.direction for t, *_ in self.steps]

    def __call__(self, t: Tensor) -> Tensor:
        """The state at a 0-d time, without a graph."""
        time = float(t)
        index = max(bisect.bisect_right(self.starts, time * self.direction) - 1, 0)
        start, dt, x, attempt = self.steps[index]
        with torch.no_grad():
            return self.solver.interpolate((time - start) / dt, dt, x, attempt)
