"""The exact gradient of reversible steps: states are computed backwards and never stored."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import Field, Gradient, Incompatible, InvalidOption, ReversibleSolver, Solution, Solver, Status
from odeframe.field import State
from odeframe.grid import check_times
from odeframe.solver import StopRule
from odeframe.transforms import autocast_state
from odeframe_plugins.gradients.dependence import Dependence, dependence, random_state, same_random
from odeframe_plugins.gradients.replay import GridSteps, Sweep, check_versions, refuse_second

NAME = "reversible"


class Reversible(Gradient):
    """Undoes step after step, and differentiates each from the state before it: memory does not grow with depth.

    With ``z = (x, memory)`` and ``z_{k+1} = M_k(z_k)``: ``z_k = M_k^{-1}(z_{k+1})`` without a graph, then
    ``a_k = (dM_k/dz)^T a_{k+1}`` and ``dJ/dtheta += (dM_k/dtheta)^T a_{k+1}`` with the graph of that step alone.  The
    start and the last state are kept, and the memory at breakpoints where the scheme starts anew there.  Costs a step
    back and a step with its graph for every step forward.

    Exact in exact arithmetic; in floating point as exact as the steps can be undone.  Undoing them amplifies errors by
    ``exp(-Re(lambda) T)`` for a decaying mode ``lambda``: where the start that comes out differs from the one that went
    in by more than the square root of the machine epsilon, a warning says by how much.

    Source: Gomez et al. 2017, The Reversible Residual Network; Zhuang et al. 2021, MALI.
    """

    traits: ClassVar[tuple[str, ...]] = ("exact",)

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The solve without a graph, its backward pass the steps undone."""
        if stop is not None:
            raise InvalidOption("gradient 'reversible': no stop rules; write gradient='backprop'")
        if not isinstance(solver, ReversibleSolver):
            raise Incompatible(
                f"gradient 'reversible' undoes steps, and those of {type(solver).__name__} cannot be undone; use a "
                "solver with the trait 'reversible', e.g. 'reversible_heun', or write gradient='checkpoint'"
            )
        times = check_times(times)
        found = dependence(field, times, NAME)
        if not torch.is_grad_enabled() or not any(v.requires_grad for v in (x0, times, *found.tensors)):
            return solver.solve(field, x0, times)
        box: list[Solution] = []
        states = _ReversibleSolve.apply(solver, found, box, x0, times, *found.tensors)
        solution = box[0]
        solution.states, solution.times = states, times
        return solution


class _Ends:
    """The last state of a solve, and the memory that was dropped at breakpoints."""

    def __init__(self, steps: GridSteps, x0: Tensor) -> None:
        self.steps = steps
        self.last: State = (x0, ())
        self.dropped: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, index: int, t: Any, dt: Any, before: State, after: State) -> None:
        if index and self.steps.fresh(index):
            self.dropped[index] = self.last[1]
        self.last = after


class _ReversibleSolve(torch.autograd.Function):
    """The forward solve without a graph; its derivative undoes the steps."""

    @staticmethod
    def forward(
        ctx: Any,
        solver: ReversibleSolver,
        found: Dependence,
        box: list[Solution],
        x0: Tensor,
        times: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        plain, field, random = times.detach(), found.field, random_state(x0.device)
        steps = GridSteps(solver, field, plain)
        watched, ends = copy.copy(field), _Ends(steps, x0.detach())
        watched.taken = ends
        solution = solver.solve(watched, x0.detach(), plain)
        if not same_random(random, random_state(x0.device)):
            raise Incompatible(
                "gradient 'reversible': the field drew random numbers, which a step back could not draw again; write "
                "gradient='checkpoint', or draw from law.noise"
            )
        box.append(solution)
        ctx.steps, ctx.status, ctx.autocast = steps, solution.status, autocast_state(x0.device.type)
        ctx.leaves = found.leaves  # by reference: no activations
        ctx.versions = [leaf._version for leaf in found.leaves]
        ctx.dropped = [(k, len(memory)) for k, memory in ends.dropped.items()]
        kept = [v for memory in ends.dropped.values() for v in memory]
        ctx.save_for_backward(x0, plain, ends.last[0], *ends.last[1], *kept)
        ctx.num_memory = len(ends.last[1])
        return solution.states

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second(NAME)
        check_versions(ctx.leaves, ctx.versions, NAME)
        x0, times, x, *rest = ctx.saved_tensors
        memory, kept = tuple(rest[: ctx.num_memory]), rest[ctx.num_memory :]
        dropped = {}
        for k, length in ctx.dropped:
            dropped[k], kept = tuple(kept[:length]), kept[length:]
        steps, stats = ctx.steps, ctx.steps.field.stats
        if ctx.status is not Status.SUCCESS:
            raise Incompatible(f"gradient 'reversible': the solve failed ({ctx.status.message}), so it has no gradient")
        forward_count = stats.nfe
        sweep = Sweep(steps, grads, ctx.leaves, ctx.autocast, ctx.needs_input_grad[4], NAME)
        for k in reversed(range(len(steps))):
            with torch.no_grad(), ctx.autocast():
                law, (t, dt) = steps.law(k), steps.span(k)
                x, memory = law.stepper(steps.solver).reverse_step(law, t, dt, x, memory)
            if steps.fresh(k):
                memory = dropped.get(k, ())
            sweep.pull(k, k + 1, (x, memory))
        stats.nfe_backward += stats.nfe - forward_count
        stats.nfe = forward_count
        warn_of_drift(x0, x)
        return (None, None, None, sweep.start(), sweep.times(times), *sweep.gradients)


def warn_of_drift(x0: Tensor, x: Tensor) -> None:
    """Warns where the start that came out of undoing all steps is not the one that went in."""
    if not x0.numel():
        return
    drift = float((x - x0).abs().max() / x0.abs().max().clamp(min=1.0))
    if not drift <= torch.finfo(x0.dtype).eps ** 0.5:
        warnings.warn(
            f"gradient 'reversible': undoing the steps misses the initial state by {drift:.1e} (relative), and the "
            "gradient is as inexact; the field damps, or the horizon is long: write gradient='checkpoint', or use "
            "float64",
            stacklevel=2,
        )
