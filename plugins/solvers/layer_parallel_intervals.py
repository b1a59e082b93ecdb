"""The coarse intervals of a grid: their fine layers, and one coarse step under the mean of their weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from odeframe import Field, Incompatible, Law
from odeframe.control import ControlLaw, FunctionalLaw
from odeframe.field import FlowLaw
from odeframe.grid import Grid

State = tuple[Tensor, ...]
Coarse = Literal["mean", "pick"]


class Intervals:
    """``F_m``: the steps of the m-th run of ``coarsening`` steps; ``G_m``: one step across it.

    Args:
        solver: whose steps they are.
        field: what it solves.
        grid: its nodes; the last interval may have fewer steps.
        coarsening: steps of an interval.
        coarse: the law of ``G_m``: the mean of the control over the interval, or the control at its middle.
    """

    def __init__(self, solver: Any, field: Field, grid: Grid, coarsening: int, coarse: Coarse) -> None:
        self.solver, self.field, self.grid, self.coarse_kind = solver, field, grid, coarse
        steps = len(grid.spacing)
        self.bounds = [*range(0, steps, coarsening), steps]
        self.outputs = frozenset(grid.outputs)
        self._laws: dict[int, Law] = {}

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def layout(self, m: int, x: Tensor) -> State:
        """A state of interval ``m`` with the memory that the scheme begins with: what shapes ``z`` has."""
        k = self.bounds[m]
        law = self.field.on(self.grid.nodes[k], self.grid.nodes[k + 1], k)
        return (x, *law.stepper(self.solver).init(law, self.grid.nodes[k], x))

    def fine(self, m: int, z: State) -> tuple[State, dict[int, Tensor]]:
        """``F_m(z)``, and the states at those nodes strictly inside at which an output is wanted."""
        x, memory, inside = z[0], tuple(z[1:]), dict[int, Tensor]()
        for k in range(self.bounds[m], self.bounds[m + 1]):
            t = self.grid.nodes[k]
            law = self.field.on(t, self.grid.nodes[k + 1], k)
            stepper = law.stepper(self.solver)
            if self.fresh(k):
                memory = stepper.init(law, t, x)
            x, memory = stepper.step(law, t, self.grid.spacing[k], x, memory)
            if k + 1 in self.outputs and k + 1 < self.bounds[m + 1]:
                inside[k + 1] = x
        return (x, *memory), inside

    def coarse(self, m: int, z: State) -> State:
        """``G_m(z)``."""
        first, last = self.bounds[m], self.bounds[m + 1]
        if m not in self._laws:
            with torch.no_grad():
                self._laws[m] = self.coarse_law(first, last)
        law, t = self._laws[m], self.grid.nodes[first].detach()
        stepper = law.stepper(self.solver)
        memory = stepper.init(law, t, z[0]) if self.fresh(first) else tuple(z[1:])
        dt = sum(float(torch.as_tensor(h).detach()) for h in self.grid.spacing[first:last])
        x, memory = stepper.step(law, t, dt, z[0], memory)
        return (x, *memory)

    def fresh(self, k: int) -> bool:
        """Whether the memory starts anew at step ``k``."""
        return k == 0 or k in self.grid.restarts

    def coarse_law(self, first: int, last: int) -> Law:
        """The law of ``G`` on steps ``first`` to ``last - 1``: a stochastic scheme is its mean there."""
        nodes = [node.detach() for node in self.grid.nodes[first : last + 1]]
        law = self.field.on(nodes[0], nodes[-1], (first + last) // 2)
        jumps = any(first < k < last for k in self.grid.jumps)
        mean = self.mean_control(first, nodes) if jumps and self.coarse_kind == "mean" else None
        return _relaw(law, mean)

    def mean_control(self, first: int, nodes: Sequence[Tensor]) -> ControlLaw | None:
        """The weights' mean over the steps; ``None`` where the control gives no weights (a feedback)."""
        laws = [_innermost(self.field.on(a, b, first + i)) for i, (a, b) in enumerate(itertools.pairwise(nodes))]
        if not all(isinstance(law, FlowLaw) for law in laws):
            return None
        controls = [law.control for law in laws if isinstance(law, FlowLaw)]
        try:
            weights = [c.parameters(0.5 * (a + b)) for c, a, b in zip(controls, nodes, nodes[1:], strict=False)]
        except Incompatible:  # its law is no set of weights
            return None
        if not weights[0].keys() <= _names(controls[0].block):  # a policy's are not weights of the block
            return None
        whole = float(nodes[-1] - nodes[0])
        shares = [float(b - a) / whole for a, b in itertools.pairwise(nodes)]
        mean = {
            name: sum(
                (s * w[name].detach() for s, w in zip(shares[1:], weights[1:], strict=True)), shares[0] * value.detach()
            )
            for name, value in weights[0].items()
        }
        return FunctionalLaw(controls[0].block, lambda t: mean, controls[0].module, nodes[0], steady=True)


def _names(block: nn.Module) -> set[str]:
    """The names of a block's parameters, also of those that its control holds."""
    return {f"{at}.{name}".lstrip(".") for at, module in block.named_modules() for name in module._parameters}


def _innermost(law: Law) -> Law:
    inner = getattr(law, "inner", None)
    return _innermost(inner) if isinstance(inner, Law) else law


def _relaw(law: Law, control: ControlLaw | None) -> Law:
    """A copy without noise and, where there is one, with another control; laws that hold another one likewise."""
    twin, inner = copy.copy(law), getattr(law, "inner", None)
    twin.noise = None
    if isinstance(inner, Law):
        twin.inner = _relaw(inner, control)
    elif control is not None and isinstance(twin, FlowLaw):
        return twin.under(control)
    return twin
