"""Depth in parallel: the steps of a scheme by parareal, states forward and costates backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from odeframe import Field, Incompatible, InvalidOption, Law, Solution, SolveFailed, Status, StepSolver
from odeframe.grid import Grid, check_times
from odeframe.initial_value import build_part
from odeframe.registry import word
from odeframe.solver import Memory, OnFailure, StopRule, check_state
from odeframe.transforms import finite, transforming
from odeframe.walk import Walk
from odeframe_plugins.solvers.layer_parallel_chain import Chain
from odeframe_plugins.solvers.layer_parallel_costate import Costates, Joined, Trace, outputs
from odeframe_plugins.solvers.layer_parallel_intervals import Coarse
from odeframe_plugins.solvers.layer_parallel_iteration import Rule, State, parareal
from odeframe_plugins.solvers.layer_parallel_levels import Levels


@dataclass
class History:
    """How the last solve went: the largest relative jump between intervals before every correction and at the end.

    Attributes:
        states: of the forward pass.
        costates: of its backward pass; empty until there was one.
        sent: ``(messages, bytes)`` that this process sent to its neighbours, forward and backward.
    """

    states: list[float] = field(default_factory=list)
    costates: list[float] = field(default_factory=list)
    chains: tuple[Chain, ...] = ()

    @property
    def iterations(self) -> tuple[int, int]:
        """Corrections of states and of costates."""
        return max(len(self.states) - 1, 0), max(len(self.costates) - 1, 0)

    @property
    def sent(self) -> tuple[int, int]:
        """Messages and bytes to neighbours, forward and backward together."""
        return sum(c.messages for c in self.chains), sum(c.bytes for c in self.chains)


class LayerParallel(StepSolver):
    """The steps of another scheme, runs of ``coarsening`` of them at once: parareal, or MGRIT of several levels.

    ``V_{m+1}^{k+1} = F_m(V_m^k) + G_m(V_m^{k+1}) - G_m(V_m^k)`` for the states between runs, ``F_m`` the steps of a run
    and ``G_m`` one step across it under the mean of their weights; costates by the same iteration backward, with the
    transposed Jacobians.  At convergence states and gradients are those of the scheme itself, and after as many
    corrections as there are runs less one they are so to round-off, whatever ``G`` is.  The parameters' gradient comes
    from ``F`` alone.  With :func:`odeframe_plugins.solvers.layer_parallel_depth.split_depth` each rank of a process
    group has its own slice of depth.

    The jump is that of the largest state over the batch, so the number of iterations depends on the batch.

    Args:
        of: a word for the step solver.
        coarsening: steps of a run.
        iterations: most corrections, forward and backward each; 1 or 2 give inexact gradients (one-shot training);
            ``None`` for as many as the tolerance takes.
        tolerance: ends the iteration: the largest jump ``|F_m(V_m) - V_{m+1}|`` over the largest state; 0 iterates
            until the result is exact.  Not below ten times the machine epsilon of the state, but for 0.
        relaxation: ``"F"`` (parareal) or ``"FCF"``: twice the fine work an iteration, exact after half as many;
            seldom fewer of them in practice.
        coarse: ``G`` under the ``"mean"`` of the weights or under those at the middle of the run (``"pick"``); the
            latter too where a control has no weights to average (a feedback), which costs iterations, not exactness.
        levels: 2, or more: one V-cycle over runs of ``coarsening``, ``coarsening^2``, ... steps stands for the sweep of
            coarse steps one after the other, of which only those of the last level are left.
        warm_start: begins with the states of the last solve, where they have the same shape.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``.

    Attributes:
        history: how the last solve went.

    Raises:
        Incompatible: a transform of ``torch.func``, a second derivative, or a memory that changes its shape.

    Source: Guenther, Ruthotto, Schroder, Cyr, Gauger 2020, Layer-Parallel Training of Deep Residual Neural Networks;
    Falgout et al. 2014, Parallel Time Integration with Multigrid.
    """

    #: states and gradients are those of the scheme itself where the iteration has converged
    conformance: ClassVar[dict[str, Any]] = {"options": {"coarsening": 2, "tolerance": 1e-13}}

    def __init__(
        self,
        of: Any = "euler",
        coarsening: int = 4,
        iterations: int | None = None,
        tolerance: float = 1e-6,
        relaxation: Literal["F", "FCF"] = "F",
        coarse: Coarse = "mean",
        levels: int = 2,
        warm_start: bool = False,
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        _check(coarsening, iterations, tolerance, relaxation, coarse, levels)
        inner = build_part(word("solver", of), StepSolver)
        if isinstance(inner, LayerParallel) or inner.compile_step or (inner.steps, inner.dt) != (None, None):
            raise InvalidOption(
                f"solver 'layer_parallel': option of: got {of!r}, expected a step solver without steps, dt and "
                "compile; write {name: layer_parallel, of: rk4, steps: 64}"
            )
        self.of, self.inner = of, inner
        self.coarsening, self.coarse, self.levels, self.warm_start = coarsening, coarse, levels, warm_start
        self.rule = Rule(iterations, tolerance, relaxation == "FCF")
        self.order, self.slots, self.opaque, self.restart = inner.order, inner.slots, inner.opaque, inner.restart
        self.traits = tuple(dict.fromkeys(("step", *inner.traits)))
        self.history, self.group = History(), None
        self._kept: list[State] = []

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """That of the scheme."""
        return self.inner.init(field, t, x)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """A step of the scheme."""
        return self.inner.step(field, t, dt, x, memory)

    def grid(self, field: Field, times: Tensor) -> Grid:
        """That of the scheme, with the steps given here."""
        self.inner.steps, self.inner.dt = self.steps, self.dt
        return self.inner.grid(field, times)

    def solve(self, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The iteration; a backward pass through the states iterates the costates."""
        if stop is not None:
            raise InvalidOption(f"solver 'layer_parallel': no stop rules; write solver={self.of!r}")
        if transforming():
            raise Incompatible(
                "solver 'layer_parallel': got a transform of torch.func (grad, vjp, jvp, vmap), expected plain "
                f"autograd; write solver={self.of!r}"
            )
        times, x0 = check_times(times), check_state(x0)
        grid = self.grid(field, times)
        if not grid.spacing:
            return Solution(times, x0[None], field.stats)
        if self.group is not None and set(grid.outputs) != {0, len(grid.spacing)}:
            raise InvalidOption("solver 'layer_parallel': over ranks only the first and the last time can be had")
        try:
            states = self.iterate(Levels(self, field, grid, self.coarsening, self.coarse, self.levels, self.group), x0)
        except SolveFailed as failure:  # a step that knows that it failed
            return self.unfinished(Walk(self, field, grid, x0, None), times, failure)
        field.stats.accepted += len(grid.spacing)
        solution = Solution(times, states, field.stats)
        if finite(states[-1]) or x0.numel() == 0:
            return solution
        solution.status = Status.NON_FINITE
        if self.group is not None:  # no rank can walk alone to where it happened
            return self.failed(solution, float(times[-1].detach()), float(grid.spacing[-1]), x0.detach(), states[-1])
        return self.failed(solution, *Walk(self, field, grid, x0, None).locate())

    def iterate(self, levels: Levels, x0: Tensor) -> Tensor:
        """The states at the output nodes."""
        own = levels.spans[0]
        with torch.no_grad():
            like = levels.intervals[0].layout(own[0], x0.detach())
        chain, back = Chain(self.group, like=like), Chain(self.group, back=True, like=like)
        trace = Trace(levels, torch.is_grad_enabled())
        floor = 10 * torch.finfo(x0.dtype).eps if self.rule.tolerance else 0.0
        rule = Rule(self.rule.iterations, max(self.rule.tolerance, floor), self.rule.fcf)
        guess = self._kept if self.warm_start and _shapes(self._kept, like, len(own)) else []
        found = parareal((x0.detach(),), trace.fine, levels.cycle(trace.coarse, chain, rule.fcf), chain, rule, guess)
        self._kept = [tuple(v.detach() for v in z) for z in found.points[1:]] if self.warm_start else []
        self.history = History(found.jumps, [], (chain, back))
        known = x0.requires_grad or any(t.requires_grad for t in levels.tensors())
        if not trace.graph or not (known or trace.loose()):
            return outputs(trace, self.group, x0, [v for i in range(len(own)) for v in trace.tensors(i)])
        costates = Costates(trace, back, rule, self.history.costates)
        return Joined.apply(trace, costates, x0, *(v for i in range(len(own)) for v in trace.tensors(i)))


def _shapes(kept: list[State], like: State, count: int) -> bool:
    """Whether kept states serve as a first guess."""
    own = [(v.shape, v.dtype, v.device) for v in like]
    return len(kept) == count and all([(v.shape, v.dtype, v.device) for v in z] == own for z in kept)


def _check(
    coarsening: int, iterations: int | None, tolerance: float, relaxation: str, coarse: str, levels: int
) -> None:
    wrong = {
        "coarsening": (coarsening, coarsening >= 2, "at least 2 steps"),
        "iterations": (iterations, iterations is None or iterations >= 0, "none, or at least 0"),
        "tolerance": (tolerance, 0 <= tolerance < 1, "0 <= tolerance < 1"),
        "relaxation": (relaxation, relaxation in ("F", "FCF"), "'F' or 'FCF'"),
        "coarse": (coarse, coarse in ("mean", "pick"), "'mean' or 'pick'"),
        "levels": (levels, levels >= 2, "at least 2, the layers and one that is coarser"),
    }
    for option, (value, right, expected) in wrong.items():
        if not right:
            raise InvalidOption(f"solver 'layer_parallel': option {option}: got {value!r}, expected {expected}")
