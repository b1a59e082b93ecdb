"""The backward pass of a layer-parallel solve: costates by the iteration of the states, from the last layer back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from odeframe import Incompatible
from odeframe.transforms import autocast_state
from odeframe_plugins.solvers.layer_parallel_chain import Chain
from odeframe_plugins.solvers.layer_parallel_iteration import Rule, State, parareal
from odeframe_plugins.solvers.layer_parallel_levels import Levels


class Trace:
    """The fine layers of each interval, on graphs of their own that begin at the states between them.

    Args:
        levels: the intervals, and those coarser ones that they make up.
        graph: whether to record graphs.
    """

    def __init__(self, levels: Levels, graph: bool) -> None:
        self.levels, self.graph = levels, graph
        self.intervals, self.own = levels.intervals[0], levels.spans[0]
        self.starts: dict[int, State] = {}
        self.ends: dict[int, State] = {}
        self.inside: dict[int, dict[int, Tensor]] = {}

    def fine(self, i: int, z: State) -> State:
        """``F`` of the i-th own interval, on a fresh graph; what comes back has none."""
        if self.graph:
            z = tuple(leaf(v) for v in z)
        with torch.set_grad_enabled(self.graph):
            end, inside = self.intervals.fine(self.own[i], z)
        self.starts[i], self.ends[i], self.inside[i] = z, end, inside
        return tuple(v.detach() for v in end)

    def coarse(self, level: int, i: int, z: State) -> State:
        """``G`` of the i-th own interval of a coarse level, without a graph."""
        with torch.no_grad():
            return self.levels.intervals[level].coarse(self.levels.spans[level][i], z)

    def end_node(self, i: int) -> int:
        """The node at which the i-th own interval ends."""
        return self.intervals.bounds[self.own[i] + 1]

    def tensors(self, i: int) -> list[Tensor]:
        """What the i-th own interval gave: its end, then the outputs inside."""
        return [*self.ends[i], *self.inside[i].values()]

    def loose(self) -> bool:
        """Whether the layers depend on anything with a gradient but the states they start from."""
        if not self.graph:
            return False
        with torch.enable_grad():
            plain = [
                self.intervals.fine(m, tuple(v.detach() for v in self.starts[i]))[0] for i, m in enumerate(self.own)
            ]
        return any(v.requires_grad for end in plain for v in end)


def leaf(v: Tensor) -> Tensor:
    """The value as the begin of a graph."""
    return v.detach().requires_grad_(v.is_floating_point() or v.is_complex())


class Costates:
    """``p_m = F_m^T p_{m+1} + dJ/dV_m``, ``F^T`` the transpose of a fine map's Jacobian, by parareal with ``G^T``.

    Args:
        trace: the graphs of the states' last sweep.
        chain: the processes in the direction of the costates.
        rule: when the iteration ends.
        jumps: where to leave its history.
    """

    def __init__(self, trace: Trace, chain: Chain, rule: Rule, jumps: list[float]) -> None:
        self.trace, self.chain, self.rule, self.jumps = trace, chain, rule, jumps
        self.outer: dict[int, Tensor] = {}
        self._rough: dict[tuple[int, int], tuple[State, State]] = {}
        self._autocast = autocast_state(trace.starts[0][0].device.type)

    def solve(self, outer: dict[int, Tensor]) -> tuple[list[State], State]:
        """Costates at the ends of the own intervals, in the order of depth, and at the start of the first.

        Args:
            outer: the loss's gradient at the nodes of outputs.
        """
        self.outer, count = outer, len(self.trace.own)
        layout = self.trace.ends[count - 1]
        start = tuple(torch.zeros_like(v) for v in layout)
        start = (start[0] + outer[self.trace.end_node(count - 1)], *start[1:]) if self.chain.place == 0 else start
        cycle = self.trace.levels.cycle(self.coarse, self.chain, self.rule.fcf, back=True)
        found = parareal(start, self.fine, cycle, self.chain, self.rule)
        self.jumps[:] = found.jumps
        return found.points[:count][::-1], found.ends[-1]

    def fine(self, j: int, p: State) -> State:
        """``F_m^T p``, with the loss's gradient at outputs inside and at the start of the interval."""
        i = len(self.trace.own) - 1 - j
        costs = [*p, *(self.outer[node] for node in self.trace.inside[i])]
        return self.with_start(i, pull(self.trace.tensors(i), self.trace.starts[i], costs))

    def coarse(self, level: int, j: int, p: State) -> State:
        """``G_m^T p`` of a coarse level at the states of the forward pass, and the loss's gradient as in ``fine``."""
        levels = self.trace.levels
        i = len(levels.spans[level]) - 1 - j
        first = levels.lowest(level, i)
        if (level, i) not in self._rough:
            starts = tuple(leaf(v) for v in self.trace.starts[first])
            with torch.enable_grad(), self._autocast():
                self._rough[level, i] = starts, levels.intervals[level].coarse(levels.spans[level][i], starts)
        starts, ends = self._rough[level, i]
        return self.with_start(first, pull(ends, starts, list(p)))

    def with_start(self, i: int, p: State) -> State:
        """Adds the loss's gradient at the node where the i-th own interval starts; that of ``x0`` is added last."""
        node = self.trace.intervals.bounds[self.trace.own[i]]
        return (p[0] + self.outer[node], *p[1:]) if node and node in self.outer else p


def pull(ends: Any, starts: State, costs: list[Tensor]) -> State:
    """The vector-Jacobian product of a graph that is kept."""
    pairs = [(end, cost) for end, cost in zip(ends, costs, strict=True) if end.requires_grad]
    wanted = [v for v in starts if v.requires_grad]
    slopes = torch.autograd.grad(
        [end for end, _ in pairs], wanted, [cost for _, cost in pairs], retain_graph=True, allow_unused=True
    )
    found = iter(slopes)
    values = [next(found) if v.requires_grad else None for v in starts]
    return tuple(torch.zeros_like(v) if p is None else p for v, p in zip(starts, values, strict=True))


class Joined(torch.autograd.Function):
    """The outputs of a solve whose intervals have graphs of their own; its derivative hands each its costate."""

    @staticmethod
    def forward(ctx: Any, trace: Trace, costates: Costates, x0: Tensor, *tensors: Tensor) -> Tensor:
        ctx.trace, ctx.costates = trace, costates
        return outputs(trace, costates.chain.group, x0, tensors)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise Incompatible(
                "solver 'layer_parallel' cannot be differentiated twice: got create_graph=True; write solver="
                f"{ctx.trace.intervals.solver.of!r}"
            )
        trace, costates, chain = ctx.trace, ctx.costates, ctx.costates.chain
        stats, outer = trace.intervals.field.stats, dict[int, Tensor]()
        for node, grad in zip(trace.intervals.grid.outputs, grads, strict=True):
            outer[node] = outer[node] + grad if node in outer else grad
        evaluations = stats.nfe
        points, start = costates.solve({**{trace.end_node(len(trace.own) - 1): torch.zeros_like(grads[0])}, **outer})
        stats.nfe_backward, stats.nfe = stats.nfe_backward + stats.nfe - evaluations, evaluations
        handed: list[Tensor] = []
        for i, p in enumerate(points):
            handed += [*p, *(outer[node] for node in trace.inside[i])]
        first = chain.from_last(start[0])
        return (None, None, first + outer[0] if 0 in outer else first, *handed)


def outputs(trace: Trace, group: Any, x0: Tensor, tensors: Any) -> Tensor:
    """The states at the output nodes ``(num_times, batch, *state)``, from what the intervals gave."""
    found, rest = {0: x0.detach()}, list(tensors)
    for i in range(len(trace.own)):
        end, *others = (rest.pop(0) for _ in trace.tensors(i))
        found[trace.end_node(i)] = end
        found.update(zip(trace.inside[i], others[len(trace.ends[i]) - 1 :], strict=True))
    last = trace.intervals.bounds[-1]
    found[last] = Chain(group).from_last(found.get(last, x0))
    return torch.stack([found[node].detach() for node in trace.intervals.grid.outputs])
