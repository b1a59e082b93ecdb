"""Optimise, then discretise: the adjoint equation, solved backwards piece by piece."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from odeframe import (
    AdaptiveSolver,
    Field,
    Gradient,
    Incompatible,
    InvalidOption,
    Law,
    Solution,
    Solver,
    Status,
    StepSolver,
)
from odeframe.agreement import BACKWARD
from odeframe.grid import check_times, inside
from odeframe.solver import StopRule
from odeframe.transforms import autocast_state
from odeframe_plugins.gradients.costate import (
    BackwardPace,
    CostateField,
    CostateLaw,
    StackedLaw,
    Trajectory,
    VectorLaw,
)
from odeframe_plugins.gradients.dependence import Dependence, check_places, dependence
from odeframe_plugins.gradients.replay import refuse_second


class Adjoint(Gradient):
    """The continuous adjoint; memory does not grow with the number of steps.

    With ``a = dJ/dx``: ``a' = -f_x^T a``, ``dJ/dtheta = int f_theta^T a dt``, ``dJ/dt_i = a_i . f(t_i, x_i)`` at each
    output time and ``-a . f`` at the first, solved from the last time to the first with the state integrated again.
    The backward solve is one solve: at output times ``a`` jumps and the step length goes on.  It stops at breakpoints
    and sees the same control on each interval as the forward one.  Running costs are components of the state here, so
    their ``L_x`` and ``L_theta`` are in the same formulas.

    The result is that of the differential equation, not of the steps taken: at coarse steps it differs from
    ``backprop`` by the order of the scheme.  The parameter integrals are left out of the error norm; with embedded
    Runge-Kutta pairs they are the sum that each accepted step makes of its evaluations.

    Source: Pontryagin et al. 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendix B; Kidger et
    al. 2021, "Hey, that's not an ODE" (the seminorm).
    """

    traits: ClassVar[tuple[str, ...]] = ("continuous",)
    name: ClassVar[str] = "adjoint"

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The solve without a graph, its backward pass the adjoint equation."""
        if stop is not None:
            raise InvalidOption(f"gradient {self.name!r}: no stop rules; write gradient='backprop'")
        if not solver.opaque:
            raise Incompatible(
                f"gradient {self.name!r} solves the adjoint equation with the solver of the flow, and "
                f"{type(solver).__name__} needs the parts of the dynamics; write gradient='backprop'"
            )
        if x0.is_complex():
            raise Incompatible(
                f"gradient {self.name!r}: got a complex state, expected a real one; write gradient='backprop'"
            )
        times = check_times(times)
        found = dependence(field, times, self.name)
        if any(parameter.requires_grad for parameter in solver.parameters()):
            raise Incompatible(
                f"gradient {self.name!r}: {type(solver).__name__} has trainable coefficients, which the differential "
                "equation does not know; write gradient='backprop'"
            )
        box: list[Solution] = []
        forward = self.forward(solver, found.field)
        states = AdjointSolve.apply(self.name, forward, solver, found, box, x0, times, *found.tensors)
        solution = box[0]
        solution.states, solution.times = states, times
        return solution

    def forward(self, solver: Solver, field: Field) -> Callable[[Tensor, Tensor], tuple[Solution, Trajectory | None]]:
        """The solve without a graph, and the trajectory where it is kept."""
        return lambda x0, times: (solver.solve(field, x0, times), None)


class AdjointSolve(torch.autograd.Function):
    """The forward solve without a graph; its derivative is the backward solve."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        forward: Callable[[Tensor, Tensor], tuple[Solution, Trajectory | None]],
        solver: Solver,
        found: Dependence,
        box: list[Solution],
        x0: Tensor,
        times: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        plain = times.detach()
        solution, ctx.trajectory = forward(x0.detach(), plain)
        box.append(solution)
        ctx.name, ctx.solver, ctx.field, ctx.autocast = name, solver, found.field, autocast_state(x0.device.type)
        ctx.leaves = found.leaves
        ctx.save_for_backward(solution.states, plain, *tensors)
        return solution.states

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second(ctx.name)  # torch's once_differentiable lets grad(..., allow_unused=True) pass in silence
        states, times, *tensors = ctx.saved_tensors
        stats, with_times = ctx.field.stats, ctx.needs_input_grad[6]
        forward_count = stats.nfe
        backward = _Backward(ctx, times, [torch.zeros_like(v) for v in tensors], with_times)
        with ctx.autocast():
            solved = BACKWARD.run(backward.run, states, grads)
        grad_x0, grad_times = solved or (torch.full_like(states[0], math.nan), torch.full_like(times, math.nan))
        if solved is None:
            for gradient in backward.gradients:
                gradient.fill_(math.nan)
        stats.nfe_backward += stats.nfe - forward_count
        stats.nfe = forward_count
        return (None,) * 5 + (grad_x0, grad_times if with_times else None, *backward.gradients)


class _Backward:
    """The backward solve: one solve in which the costate jumps at output times, piece by piece between breakpoints."""

    def __init__(self, ctx: Any, times: Tensor, gradients: list[Tensor], with_times: bool) -> None:
        self.name, self.field, self.trajectory = ctx.name, ctx.field, ctx.trajectory
        self.places = {id(leaf): i for i, leaf in enumerate(ctx.leaves)}
        self.times, self.gradients, self.with_times, self.checked = times, gradients, with_times, False
        self.solver = copy.copy(ctx.solver)
        self.solver.on_failure = "raise"
        self.costate, self.pace = CostateField(self.field), cast(BackwardPace | None, None)
        self.nodes: list[float] = []
        if isinstance(self.solver, StepSolver):
            self.nodes = [float(node) for node in self.solver.grid(self.field, times).nodes]
        elif isinstance(self.solver, AdaptiveSolver):
            self.solver.compile_step = False  # derivatives within a step do not compile

    def run(self, states: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
        """``dJ/dx0`` and ``dJ/dtimes``; adds to the gradients of the tensors on the way."""
        times, a = self.times, grads[-1]
        grad_times, velocity = torch.zeros_like(times), torch.zeros_like(states[0])
        for i in range(len(times) - 1, 0, -1):
            x = states[i]
            jumps = inside(self.field.breakpoints(), times[i - 1 : i + 1])
            cuts = [times[i - 1], *(torch.tensor(jump, dtype=times.dtype) for jump in jumps), times[i]]
            if self.with_times:
                grad_times[i] = (grads[i] * self.field.on(cuts[-2], cuts[-1])(times[i], x)).sum()
            for start, end in reversed(list(itertools.pairwise(cuts))):
                x, a = self.piece(start, end, x, a)
            if self.with_times and i == 1:
                velocity = self.field.on(cuts[0], cuts[1])(times[0], states[0])
                grad_times[0] = -(a * velocity).sum()
            a = a + grads[i - 1]
        return a, grad_times

    def piece(self, start: Tensor, end: Tensor, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """State and adjoint at ``start`` from those at ``end``, with no jump between."""
        law = self.law(self.field.on(start, end), x)
        self.costate.law, z = law, law.pack(x, a)
        if isinstance(self.solver, AdaptiveSolver) and not self.solver.per_sample:
            z = self.continued(self.solver, start, end, z)
        else:
            if isinstance(self.solver, StepSolver) and self.solver.dt is None:
                self.solver.steps = self.steps_between(start, end)
            z = self.solver.solve(self.costate, z, torch.stack([end, start])).final
        for tensor, integral in zip(law.theta, law.integrals(z), strict=True):
            if integral is not None:
                self.gradients[self.places[id(tensor)]] += integral.to(tensor.dtype)
        parts = law.parts(z)
        return parts[0], parts[-1]

    def law(self, law: Law, x: Tensor) -> CostateLaw:
        """The adjoint equation of a piece, in the form that the solver can do."""
        tensors = [tensor for tensor in law.tensors if tensor.requires_grad]
        check_places(tensors, self.places, self.name)
        weights = getattr(self.solver, "stage_weights", None)
        form = VectorLaw if weights is None else functools.partial(StackedLaw, weights=weights)
        made: CostateLaw = form(law, x.shape, tensors, self.trajectory)
        if not self.checked:
            self.checked, made.unchecked = True, self.name
        return made

    def continued(self, solver: AdaptiveSolver, start: Tensor, end: Tensor, z: Tensor) -> Tensor:
        """The next piece of one adaptive solve, whose step length goes on.

        Raises:
            SolveFailed: as a solve of its own would.
        """
        first = self.pace is None
        if self.pace is None:
            self.pace = BackwardPace(solver, self.costate, z, self.times[[-1, 0]])
        z = self.pace.cross(0 if first else 1, end, start, z)
        if self.pace.status is not Status.SUCCESS:
            states = self.pace.x[None]
            solver.failed(Solution(self.times, states, self.costate.stats, self.pace.status), *self.pace.failure())
        return z

    def steps_between(self, start: Tensor, end: Tensor) -> int:
        """A step solver takes as many steps back as it took forward."""
        low, high = sorted((float(start), float(end)))
        margin = 1e-9 * (high - low)
        return max(1, sum(low + margin < node <= high + margin for node in self.nodes))
