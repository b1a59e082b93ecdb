"""Backpropagation through steps that are taken again from a few kept states."""

from __future__ import annotations

import copy
import math
from collections.abc import Container
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Field, Gradient, Incompatible, InvalidOption, Solution, Solver, Status, StepSolver
from odeframe.field import State
from odeframe.grid import check_times
from odeframe.pace import Pace
from odeframe.solver import StopRule
from odeframe.transforms import autocast_state
from odeframe_plugins.gradients.dependence import Dependence, dependence, random_state, same_random
from odeframe_plugins.gradients.replay import (
    AdaptiveSteps,
    GridSteps,
    Sweep,
    check_solver,
    check_versions,
    refuse_second,
)
from odeframe_plugins.gradients.revolve import chain, split
from odeframe_plugins.gradients.store import Store

NAME = "checkpoint"


class Checkpoint(Gradient):
    """The gradient of ``backprop`` at the memory of a few states: steps are taken again on the way back.

    By default the state before every ``ceil(sqrt(N))``-th of ``N`` steps is kept, and the steps between two of them are
    taken again with one graph: memory grows like ``sqrt(N)``, and every step is evaluated exactly twice.  With
    ``slots = s`` at most ``s`` states are kept, beside the present one, and the graph of one step is held at a time;
    steps are then repeated as seldom as that allows (binomial checkpointing).

    Works on step solvers and on the accepted steps of adaptive ones, whose lengths are frozen: rejected steps are not
    taken again.  There the number of steps is not known beforehand, and kept states are thinned to every ``2^j``-th on
    the way: at most ``s``, or ``2 sqrt(N)``.  Noise is keyed; torch's generator (dropout) is set back before every
    repetition, and the solve is refused where an adaptive solver meets such a field.

    Args:
        slots: the most states that are kept; by default as many as the root of the number of steps.
        offload: keeps them in the host's memory, pinned, and copies each back when its steps are taken again; for a
            state that is on the host already nothing changes.

    Source: Griewank, Walther 2000, Algorithm 799: Revolve; Gholami et al. 2019, ANODE; Zhuang et al. 2020, Adaptive
    Checkpoint Adjoint.
    """

    traits: ClassVar[tuple[str, ...]] = ("exact",)

    def __init__(self, slots: int | None = None, offload: bool = False) -> None:
        if slots is not None and slots < 1:
            raise InvalidOption(f"gradient 'checkpoint': option slots: got {slots}, expected at least 1")
        self.slots, self.offload = slots, offload

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The solve without a graph, its backward pass the steps taken again."""
        if stop is not None:
            raise InvalidOption("gradient 'checkpoint': no stop rules; write gradient='backprop'")
        check_solver(solver, NAME)
        if getattr(solver, "per_sample", False):
            raise Incompatible(
                "gradient 'checkpoint': samples with steps of their own cannot be taken again together; write "
                "per_sample=False, or gradient='backprop'"
            )
        times = check_times(times)
        found = dependence(field, times, NAME)
        if not torch.is_grad_enabled() or not any(v.requires_grad for v in (x0, times, *found.tensors)):
            return solver.solve(field, x0, times)
        if isinstance(solver, AdaptiveSolver) and times.requires_grad:
            return self.with_times(solver, field, x0, times, found)
        return self.replayed(solver, found, x0, times)

    def replayed(self, solver: Solver, found: Dependence, x0: Tensor, times: Tensor) -> Solution:
        """The solve with its custom backward pass."""
        box: list[Solution] = []
        states = _CheckpointSolve.apply(solver, found, self, box, x0, times, *found.tensors)
        solution = box[0]
        solution.states, solution.times = states, times
        return solution

    def with_times(
        self, solver: AdaptiveSolver, field: Field, x0: Tensor, times: Tensor, found: Dependence
    ) -> Solution:
        """An adaptive solve whose ends carry gradients, added as the solver itself adds them, outside of the steps."""
        pace = Pace(solver, field, x0, times)
        solution = self.replayed(solver, found, pace.x, times.detach())
        pace.status, solution.times = solution.status, times
        solution.states = torch.stack(pace.shift_ends([x0, *solution.states[1:]]))
        return solution


class _Keeper:
    """Told of every step of the forward solve, it keeps states: at planned steps, or at every ``2^j``-th."""

    def __init__(self, planned: Container[int] | None, slots: int | None, store: Store) -> None:
        self.planned, self.slots, self.store, self.device = planned, slots, store, store.device
        self.kept: dict[int, tuple[Tensor, tuple[Tensor, ...], Any]] = {}
        self.steps: list[tuple[int, float, float]] = []
        self.stride, self.random = 1, random_state(self.device)

    def __call__(self, index: int, t: Any, dt: Any, before: State, after: State) -> None:
        k = len(self.steps)
        self.steps.append((index, float(t), float(dt)))
        if k in self.planned if self.planned is not None else k % self.stride == 0:
            self.kept[k] = (*self.store.put(before), self.random)
        if self.planned is None and len(self.kept) > (self.slots or 2 * self.stride):
            self.stride *= 2
            self.kept = {k: state for k, state in self.kept.items() if k % self.stride == 0}
        if self.planned is None or k + 1 in self.planned:
            self.random = random_state(self.device)


class _CheckpointSolve(torch.autograd.Function):
    """The forward solve without a graph; its derivative takes the steps again."""

    @staticmethod
    def forward(
        ctx: Any,
        solver: Any,
        found: Dependence,
        keeping: Checkpoint,
        box: list[Solution],
        x0: Tensor,
        times: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        plain, field, slots = times.detach(), found.field, keeping.slots
        watched = copy.copy(field)
        steps: GridSteps | AdaptiveSteps | None = None
        planned: Container[int] | None = None
        if isinstance(solver, StepSolver):
            steps = GridSteps(solver, field, plain)
            planned = plan(len(steps), slots)
        ctx.store = Store(x0.device, keeping.offload)
        keeper = _Keeper(planned, slots, ctx.store)
        first = keeper.random
        watched.taken = keeper
        solution = solver.solve(watched, x0.detach(), plain)
        box.append(solution)
        ctx.random = not same_random(first, random_state(x0.device))
        if steps is None:
            if ctx.random:
                raise Incompatible(
                    "gradient 'checkpoint': the field drew random numbers (dropout?), also in steps that were rejected "
                    "and are not taken again; use a step solver, e.g. 'rk4', or write gradient='backprop'"
                )
            steps = AdaptiveSteps(solver, field, plain, keeper.steps)
        ctx.steps, ctx.slots, ctx.status = steps, slots, solution.status
        ctx.leaves = found.leaves  # by reference: no activations
        ctx.versions = [leaf._version for leaf in found.leaves]
        ctx.autocast = autocast_state(x0.device.type)
        kept = {k: (x, () if steps.fresh(k) else memory, random) for k, (x, memory, random) in keeper.kept.items()}
        ctx.kept = [(k, len(memory), random) for k, (_, memory, random) in kept.items()]
        ctx.save_for_backward(plain, *(v for x, memory, _ in kept.values() for v in (x, *memory)))
        return solution.states

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second(NAME)
        check_versions(ctx.leaves, ctx.versions, NAME)
        if ctx.status is not Status.SUCCESS:
            raise Incompatible(f"gradient 'checkpoint': the solve failed ({ctx.status.message}), so it has no gradient")
        times, *saved = ctx.saved_tensors
        kept = []
        for k, length, random in ctx.kept:
            kept.append((k, (saved[0], tuple(saved[1 : 1 + length])), random))
            saved = saved[1 + length :]
        stats = ctx.steps.field.stats
        forward_count = stats.nfe
        sweep = Sweep(ctx.steps, grads, ctx.leaves, ctx.autocast, ctx.needs_input_grad[5], NAME)
        device = ctx.store.device
        devices = [device] if ctx.random and device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=ctx.random):
            _Reversal(sweep, kept, ctx.random, ctx.store).run(len(ctx.steps), ctx.slots)
        stats.nfe_backward += stats.nfe - forward_count
        stats.nfe = forward_count
        return (None, None, None, None, sweep.start(), sweep.times(times), *sweep.gradients)


class _Reversal:
    """The order in which steps are taken again: advance to the next state to keep, or pull the last step back."""

    def __init__(self, sweep: Sweep, kept: list[tuple[int, State, Any]], random: bool, store: Store) -> None:
        self.sweep, self.kept, self.random, self.store, self.device = sweep, kept, random, store, store.device

    def run(self, end: int, slots: int | None) -> None:
        """Pulls back through steps ``end - 1`` to 0."""
        while end > 0:
            start, stored, random = self.kept[-1]
            state = self.store.get(stored)
            self.set_random(random)
            if slots is None or end - start == 1:
                self.sweep.pull(start, end, state)
                end = start
                self.kept.pop()
            elif len(self.kept) < slots:
                middle = start + split(end - start, slots - len(self.kept) + 1)
                self.kept.append((middle, self.store.put(self.advance(start, middle, state)), self.get_random()))
            else:
                self.sweep.pull(end - 1, end, self.advance(start, end - 1, state))
                end -= 1

    def advance(self, start: int, end: int, state: State) -> State:
        """The state before step ``end`` from that before step ``start``, without a graph."""
        steps = self.sweep.steps
        with torch.no_grad(), self.sweep.autocast():
            for k in range(start, end):
                state, _ = steps.take(k, steps.law(k), state)
        return state

    def set_random(self, random: Any) -> None:
        """Sets torch's generators to the state of the forward pass, where it drew from them."""
        if self.random:
            torch.set_rng_state(random[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(random[1], self.device)

    def get_random(self) -> Any:
        """Their present state, where it matters."""
        return random_state(self.device) if self.random else None


def plan(length: int, slots: int | None) -> Container[int]:
    """The steps before which the forward solve keeps the state.

    With ``slots``, that before the last step too: going back begins with it, before any other is needed.
    """
    if slots is None:
        return range(0, length, math.isqrt(length - 1) + 1) if length else ()
    return {*chain(length, slots), length - 1}
