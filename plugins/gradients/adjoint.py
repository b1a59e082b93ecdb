"""Optimise, then discretise: the adjoint equation, solved backwards piece by piece."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import Field, Gradient, Incompatible, InvalidOption, Law, Solution, Solver, StepSolver
from odeframe.grid import check_times, inside
from odeframe.solution import Stats
from odeframe.solver import StopRule
from odeframe_plugins.gradients.dependence import autocast_state, check_law, check_places, dependencies


class Adjoint(Gradient):
    """The continuous adjoint; memory does not grow with the number of steps.

    With ``a = dJ/dx``: ``a' = -f_x^T a``, ``dJ/dtheta = int f_theta^T a dt``, ``dJ/dt_i = a_i . f(t_i, x_i)`` at each
    output time and ``-a . f`` at the first, solved from the last time to the first with the state integrated again.
    The backward solve stops at breakpoints and sees the same control on each interval as the forward one.  Running
    costs are components of the state here, so their ``L_x`` and ``L_theta`` are in the same formulas.

    The result is that of the differential equation, not of the steps taken: at coarse steps it differs from
    ``backprop`` by the order of the scheme.  The parameter integrals are left out of the error norm.

    Source: Pontryagin et al. 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendix B; Kidger et
    al. 2021, "Hey, that's not an ODE" (the seminorm).
    """

    traits: ClassVar[tuple[str, ...]] = ("continuous",)

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The solve without a graph, its backward pass the adjoint equation."""
        if stop is not None:
            raise InvalidOption("gradient 'adjoint': no stop rules; write gradient='backprop'")
        if not solver.opaque:
            raise Incompatible(
                f"gradient 'adjoint' solves the adjoint equation with the solver of the flow, and "
                f"{type(solver).__name__} needs the parts of the dynamics; write gradient='backprop'"
            )
        if x0.is_complex():
            raise Incompatible(
                "gradient 'adjoint': got a complex state, expected a real one; write gradient='backprop'"
            )
        times = check_times(times)
        tensors = dependencies(field, times)
        if any(parameter.requires_grad for parameter in solver.parameters()):
            raise Incompatible(
                f"gradient 'adjoint': {type(solver).__name__} has trainable coefficients, which the differential "
                "equation does not know; write gradient='backprop'"
            )
        box: list[Solution] = []
        states = _AdjointSolve.apply(solver, field, box, x0, times, *tensors)
        solution = box[0]
        solution.states, solution.times = states, times
        return solution


class _AdjointSolve(torch.autograd.Function):
    """The forward solve without a graph; its derivative is the backward solve."""

    @staticmethod
    def forward(
        ctx: Any, solver: Solver, field: Field, box: list[Solution], x0: Tensor, times: Tensor, *tensors: Tensor
    ) -> Tensor:
        plain, start = times.detach(), x0.detach()
        solution = solver.solve(field, start, plain)
        box.append(solution)
        ctx.solver, ctx.field, ctx.autocast = solver, field, autocast_state(x0.device.type)
        ctx.places = {id(tensor): i for i, tensor in enumerate(tensors)}
        ctx.save_for_backward(solution.states, plain, *tensors)
        return solution.states

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable lets grad(..., allow_unused=True) pass in silence
            raise Incompatible(
                "gradient 'adjoint' cannot be differentiated twice: got create_graph=True; write gradient='backprop'"
            )
        states, times, *tensors = ctx.saved_tensors
        stats = ctx.field.stats
        forward_count = stats.nfe
        backward = _Backward(ctx.solver, ctx.field, times, [torch.zeros_like(v) for v in tensors], ctx.places)
        with ctx.autocast():
            grad_x0, grad_times = backward.run(states, grads)
        stats.nfe_backward += stats.nfe - forward_count
        stats.nfe = forward_count
        return (None, None, None, grad_x0, grad_times if ctx.needs_input_grad[4] else None, *backward.gradients)


class _Backward:
    """The backward solve: segment by segment between output times, piece by piece between breakpoints."""

    def __init__(
        self, solver: Solver, field: Field, times: Tensor, gradients: list[Tensor], places: dict[int, int]
    ) -> None:
        self.solver, self.field, self.times = solver, field, times
        self.gradients, self.places, self.checked = gradients, places, False
        grid = solver.grid(field, times).nodes if isinstance(solver, StepSolver) else ()
        self.nodes = [float(node) for node in grid]

    def run(self, states: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
        """``dJ/dx0`` and ``dJ/dtimes``; adds to the gradients of the tensors on the way."""
        times, a = self.times, grads[-1]
        grad_times, velocity = torch.zeros_like(times), torch.zeros_like(states[0])
        for i in range(len(times) - 1, 0, -1):
            x = states[i]
            jumps = inside(self.field.breakpoints(), times[i - 1 : i + 1])
            cuts = [times[i - 1], *(torch.tensor(jump, dtype=times.dtype) for jump in jumps), times[i]]
            grad_times[i] = (grads[i] * self.field.on(cuts[-2], cuts[-1])(times[i], x)).sum()
            for start, end in reversed(list(itertools.pairwise(cuts))):
                x, a = self.piece(start, end, x, a)
            velocity = self.field.on(cuts[0], cuts[1])(times[i - 1], states[i - 1])
            a = a + grads[i - 1]
        grad_times[0] = -((a - grads[0]) * velocity).sum()
        return a, grad_times

    def piece(self, start: Tensor, end: Tensor, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """State and adjoint at ``start`` from those at ``end``, with no jump between."""
        law = self.field.on(start, end)
        tensors = [tensor for tensor in law.tensors if tensor.requires_grad]
        check_places(tensors, self.places, "adjoint")
        if not self.checked:
            self.checked = True
            check_law(law, end, x, "adjoint")
        packed = torch.cat([v.reshape(1, -1) for v in (x, a)] + [x.new_zeros(1, v.numel()) for v in tensors], dim=1)
        solution = self.backward_solver(start, end).solve(
            _AdjointField(law, x, tensors, self.field), packed, torch.stack([end, start])
        )
        x_start, a_start, *integrals = solution.final.split(
            [x.numel(), x.numel(), *(v.numel() for v in tensors)], dim=1
        )
        for tensor, integral in zip(tensors, integrals, strict=True):
            self.gradients[self.places[id(tensor)]] += integral.reshape(tensor.shape).to(tensor.dtype)
        return x_start.reshape(x.shape), a_start.reshape(x.shape)

    def backward_solver(self, start: Tensor, end: Tensor) -> Solver:
        """The flow's solver; a step solver takes as many steps back as it took forward."""
        solver = copy.copy(self.solver)
        solver.on_failure = "raise"
        if isinstance(solver, StepSolver) and solver.dt is None:
            low, high = sorted((float(start), float(end)))
            margin = 1e-9 * (high - low)
            solver.steps = max(1, sum(low + margin < node <= high + margin for node in self.nodes))
        return solver


class _AdjointField(Field):
    """``(x, a, g)' = (f, -f_x^T a, -f_theta^T a)`` on one piece, as a vector ``(1, 2 D + P)``."""

    def __init__(self, law: Law, x: Tensor, tensors: Sequence[Tensor], forward: Field) -> None:
        self.stats, self.law = Stats(), _AdjointLaw(law, x.shape, tensors)
        self._forward, self._size, self._shape = forward, x.numel(), x.shape

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The piece's law."""
        self.law.t, self.law.t_next = t, t_next
        return self.law

    def error_norm(self, ratio: Tensor) -> Tensor:
        """The forward field's norm of state and adjoint, the larger; parameter integrals feed nothing back."""
        norms = [
            self._forward.error_norm(part.reshape(self._shape))
            for part in (ratio[:, : self._size], ratio[:, self._size : 2 * self._size])
        ]
        return torch.maximum(*norms)


class _AdjointLaw(Law):
    def __init__(self, law: Law, shape: torch.Size, tensors: Sequence[Tensor]) -> None:
        self._law, self._shape, self._tensors, self._size = law, shape, list(tensors), shape.numel()

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        x, a = (z[:, i * self._size : (i + 1) * self._size].reshape(self._shape) for i in (0, 1))
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            f = self._law(t, x)
            inputs = (x, *self._tensors)
            pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
            if f.requires_grad:  # not a field that depends on nothing
                pulled = torch.autograd.grad(f, inputs, a.to(f.dtype), allow_unused=True)
        rates = [torch.zeros_like(v) if p is None else -p for v, p in zip(inputs, pulled, strict=True)]
        return torch.cat([v.reshape(1, -1).to(z.dtype) for v in (f.detach(), *rates)], dim=1)
