"""The steps of a solve, taken again: without a graph, or with one to pull costates back through them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Field, Incompatible, Law, OdeframeError, Solver, StepSolver
from odeframe.field import State
from odeframe.grid import inside
from odeframe_plugins.gradients.dependence import check_dependence, check_places

#: index of an output time and the state there
Output = tuple[int, Tensor]


class GridSteps:
    """The steps of a step solver over ``times``.

    Args:
        solver: the solver.
        field: what it solved.
        times: the output times, without gradient.
    """

    def __init__(self, solver: StepSolver, field: Field, times: Tensor) -> None:
        self.solver, self.field, self.grid = solver, field, solver.grid(field, times)
        self.outputs: dict[int, list[int]] = {}
        for index, node in enumerate(self.grid.outputs):
            self.outputs.setdefault(node, []).append(index)

    def __len__(self) -> int:
        return len(self.grid.spacing)

    def fresh(self, k: int) -> bool:
        """Whether the memory starts anew at step ``k``."""
        return k == 0 or k in self.grid.restarts

    def law(self, k: int, nodes: Sequence[Tensor] | None = None) -> Law:
        """The law of step ``k``; ``nodes`` stand for those of the grid where times carry a gradient."""
        nodes = nodes or self.grid.nodes
        return self.field.on(nodes[k], nodes[k + 1], step=k)

    def span(self, k: int, nodes: Sequence[Tensor] | None = None) -> tuple[Tensor, Any]:
        """Start and length of step ``k``."""
        return (nodes[k], nodes[k + 1] - nodes[k]) if nodes else (self.grid.nodes[k], self.grid.spacing[k])

    def take(self, k: int, law: Law, state: State, nodes: Sequence[Tensor] | None = None) -> tuple[State, list[Output]]:
        """State after step ``k``, and the outputs at its end."""
        (x, memory), (t, dt) = state, self.span(k, nodes)
        stepper = law.stepper(self.solver)
        if self.fresh(k):
            memory = stepper.init(law, t, x)
        x, memory = stepper.step(law, t, dt, x, memory)
        return (x, memory), [(index, x) for index in self.outputs.get(k + 1, ())]


class AdaptiveSteps:
    """The accepted steps of an adaptive solver, their lengths frozen.

    Args:
        solver: the solver.
        field: what it solved.
        times: the output times, without gradient.
        accepted: ``(piece, t, dt)`` of every step, as the field was told.
    """

    def __init__(
        self, solver: AdaptiveSolver, field: Field, times: Tensor, accepted: Sequence[tuple[int, float, float]]
    ) -> None:
        self.solver, self.field, self.accepted, self.times = solver, field, accepted, times.tolist()
        self.cuts = [self.times[0], *inside(field.breakpoints(), times), self.times[-1]]
        self.ends = [t for _, t, _ in accepted[1:]] + [self.times[-1]]

    def __len__(self) -> int:
        return len(self.accepted)

    def fresh(self, k: int) -> bool:
        """Whether step ``k`` is the first of its piece."""
        return k == 0 or self.accepted[k][0] != self.accepted[k - 1][0]

    def law(self, k: int, nodes: Sequence[Tensor] | None = None) -> Law:
        """The law of the piece that step ``k`` lies in."""
        piece = self.accepted[k][0]
        ends = torch.tensor(self.cuts[piece : piece + 2], dtype=torch.float64)
        return self.field.on(ends[0], ends[1], step=piece)

    def take(self, k: int, law: Law, state: State, nodes: Sequence[Tensor] | None = None) -> tuple[State, list[Output]]:
        """State after step ``k``, and the outputs within it."""
        (x, memory), (_, t, dt) = state, self.accepted[k]
        stepper, start = law.stepper(self.solver), torch.tensor(t, dtype=torch.float64)
        if self.fresh(k):
            memory = stepper.init(law, start, x)
        attempt = stepper.attempt(law, start, dt, x, memory)
        attempt.law, attempt.t = law, start
        end, found = self.ends[k], []
        for index, time in enumerate(self.times):
            if index and (time - t) * dt > 0 and (time - end) * dt <= 0:
                made = attempt.x if time == end else self.solver.interpolate((time - t) / dt, dt, x, attempt)
                found.append((index, made))
        return (attempt.x, attempt.memory), found


class Sweep:
    """Costates on the way back, and the gradients that they leave behind.

    Args:
        steps: the steps.
        grads: ``dJ/dstates``, ``(num_times, batch, *state)``.
        tensors: what the gradient is asked for, beside the start.
        autocast: enters the autocast state of the forward pass.
        with_nodes: whether times carry a gradient.
        name: of the gradient, for errors.
    """

    def __init__(
        self,
        steps: GridSteps | AdaptiveSteps,
        grads: Tensor,
        tensors: Sequence[Tensor],
        autocast: Callable[[], AbstractContextManager[Any]],
        with_nodes: bool,
        name: str,
    ) -> None:
        self.steps, self.grads, self.autocast, self.name = steps, grads, autocast, name
        self.places = {id(tensor): i for i, tensor in enumerate(tensors)}
        self.gradients: list[Tensor | None] = [None] * len(tensors)
        self.costates: list[Tensor | None] = []  # of x and memory, those of steps that were pulled through
        self.nodes = [0.0 * node for node in steps.grid.nodes] if with_nodes and isinstance(steps, GridSteps) else None
        self.checked = False

    def pull(self, first: int, last: int, state: State) -> None:
        """Takes steps ``first`` to ``last - 1`` from their state with a graph, and the costates back through them."""
        with torch.enable_grad(), self.autocast():
            x, memory = state
            leaves = [_leaf(v) for v in (x, *(() if self.steps.fresh(first) else memory))]
            nodes = self.leaf_nodes(first, last)
            laws = [self.steps.law(k, nodes) for k in range(first, last)]
            tensors = {id(v): v for law in laws for v in law.tensors if v.requires_grad}
            check_places(list(tensors.values()), self.places, self.name)
            now: State = (leaves[0], tuple(leaves[1:]))
            found: list[Output] = []
            before = self.evaluations
            for k, law in zip(range(first, last), laws, strict=True):
                now, outputs = self.steps.take(k, law, now, nodes)
                found += outputs
            self.steps.field.stats.nfe_backward += self.evaluations - before  # one derivative for each evaluation
        pulled = itertools.zip_longest((now[0], *now[1]), self.costates)
        every = [*pulled, *((v, self.grads[index]) for index, v in found)]
        pairs = [(v, p) for v, p in every if p is not None and v.requires_grad]
        inputs = [*leaves, *tensors.values(), *(nodes[first : last + 1] if nodes else ())]
        if not self.checked:
            self.checked = True
            check_dependence([v for v, _ in pairs], [*inputs, *(v for law in laws for v in law.tensors)], self.name)
        self.collect(first, list(tensors), inputs, pairs, len(leaves))

    def collect(
        self, first: int, keys: list[int], inputs: list[Tensor], pairs: list[tuple[Tensor, Tensor]], leaves: int
    ) -> None:
        """Differentiates the pairs of result and costate, and adds up what belongs to tensors and nodes."""
        got: tuple[Tensor | None, ...] = (None,) * len(inputs)
        if pairs:
            results, costates = zip(*pairs, strict=True)
            asked = [v for v in inputs if v.requires_grad]  # a count in the memory has no gradient
            pulled = zip(asked, torch.autograd.grad(results, asked, costates, allow_unused=True), strict=True)
            by_input = {id(v): gradient for v, gradient in pulled}
            got = tuple(by_input.get(id(v)) for v in inputs)
        self.costates = list(got[:leaves])
        for key, gradient in zip(keys, got[leaves:], strict=False):
            if gradient is not None:
                place = self.places[key]
                old = self.gradients[place]
                self.gradients[place] = gradient if old is None else old + gradient
        if self.nodes is not None:
            for k, gradient in enumerate(got[leaves + len(keys) :], start=first):
                if gradient is not None:
                    self.nodes[k] = self.nodes[k] + gradient

    def leaf_nodes(self, first: int, last: int) -> list[Tensor] | None:
        """The grid's nodes with those of the steps as leaves, where times carry a gradient."""
        if self.nodes is None or not isinstance(self.steps, GridSteps):
            return None
        nodes = list(self.steps.grid.nodes)
        nodes[first : last + 1] = [_leaf(node) for node in nodes[first : last + 1]]
        return nodes

    @property
    def evaluations(self) -> int:
        """Calls of the field so far."""
        return self.steps.field.stats.nfe

    def start(self) -> Tensor:
        """``dJ/dx0``, with the output at the first time."""
        costate = self.costates[0] if self.costates else None
        return self.grads[0] if costate is None else costate + self.grads[0]

    def times(self, times: Tensor) -> Tensor | None:
        """``dJ/dtimes`` from the gradients of the nodes, which are linear in the times."""
        if self.nodes is None or not isinstance(self.steps, GridSteps):
            return None
        with torch.enable_grad():
            leaf = _leaf(times)
            nodes = torch.stack(self.steps.solver.grid(self.steps.field, leaf).nodes)
        return torch.autograd.grad(nodes, leaf, torch.stack(self.nodes))[0]


def check_solver(solver: Solver, name: str) -> None:
    """Refuses a solver whose steps cannot be taken one by one."""
    if not isinstance(solver, StepSolver | AdaptiveSolver):
        raise Incompatible(
            f"gradient {name!r} takes the solver's steps again one by one, and {type(solver).__name__} shows none; use "
            "a solver with the trait 'step' or 'adaptive', e.g. 'rk4' or 'dopri5', or write gradient='backprop'"
        )


def check_versions(tensors: Sequence[Tensor], versions: Sequence[int], name: str) -> None:
    """Refuses a backward pass after what it depends on was changed in place."""
    if [tensor._version for tensor in tensors] != list(versions):
        raise OdeframeError(
            f"gradient {name!r}: a parameter was changed in place between the forward and the backward pass (an "
            "optimiser's step?), so the steps cannot be taken again; call backward first"
        )


def refuse_second(name: str) -> None:
    """Refuses ``create_graph=True``: a gradient that is computed without a graph has no derivative."""
    if torch.is_grad_enabled():
        raise Incompatible(
            f"gradient {name!r} cannot be differentiated twice: got create_graph=True; write gradient='backprop'"
        )


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.is_floating_point() or value.is_complex())
