"""Step maps: a network as a finite composition z_{k+1} = M_k(z_k, u_k) on the whole state, for Pontryagin's principle.

The state ``z`` is a tuple of tensors: ``x`` first, then the scheme's memory, the running costs ``q`` and the context
``c`` (tensors of a drive), all with a leading batch dimension.  With ``H_k = sum <p_{k+1}, z_{k+1}>`` over the whole
tuple, ``p_k = dH_k/dz_k`` and ``p_N = -dJ/dz_N``, the gradient of ``H_k`` over ``u_k`` is minus that of ``J``: costs
and contexts need no rule of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from odeframe.errors import InvalidOption
from odeframe.quadrature import columns

if TYPE_CHECKING:
    from odeframe.drive import Drive
    from odeframe.field import Law
    from odeframe.flow import Flow
    from odeframe.grid import Grid
    from odeframe.noise import Noise
    from odeframe.solution import Stats

State = tuple[Tensor, ...]


class StepMap(nn.Module, ABC):
    """One map ``z -> z`` whose parameters are its control ``u``."""

    @abstractmethod
    def forward(self, z: State) -> State:
        """The map under the control it has."""

    def step(self, z: State, u: Mapping[str, Tensor] | None = None) -> State:
        """The map under a control ``u``, by default its own; differentiable in both."""
        return self(z) if u is None else functional_call(self, dict(u), (z,))

    def read(self) -> dict[str, Tensor]:
        """A detached copy of the control."""
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def write(self, u: Mapping[str, Tensor]) -> None:
        """Sets the control; names and shapes must be those of :meth:`read`."""
        own = dict(self.named_parameters())
        if own.keys() != u.keys():
            raise InvalidOption(f"step map write: got the names {sorted(u)}, expected {sorted(own)}")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != u[name].shape:
                    raise InvalidOption(
                        f"step map write: {name} has shape {tuple(parameter.shape)}, got {tuple(u[name].shape)}"
                    )
                parameter.copy_(u[name])


class ModuleStep(StepMap):
    """A plain module on ``x``: stem, transition or head; what else is in ``z`` passes through.

    A module that returns ``(x, drive)`` puts the drive's tensors into ``z`` as context of the flow that follows.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: State) -> State:
        """``(x, ...) -> (module(x), ...)``."""
        made = self.module(z[0])
        if isinstance(made, tuple):
            x, drive = made
            return (x, *drive.tensors, *z[1:])
        return (made, *z[1:])


@dataclass(frozen=True)
class Frame:
    """What all steps of one flow have in common; ``carried`` counts the running costs of earlier flows in ``z``."""

    flow: Flow
    grid: Grid
    stats: Stats
    drive: Drive | None = None
    noise: Noise | None = None
    carried: int = 0

    def split(self, rest: State, has_costs: bool = True) -> tuple[State, State, State, State]:
        """``(memory, costs, context, carried)`` of what follows ``x`` in ``z``."""
        context = 0 if self.drive is None else len(self.drive.tensors)
        costs = int(has_costs and bool(self.flow.quadratures))
        cuts = [len(rest) - self.carried - context - costs, len(rest) - self.carried - context]
        last = len(rest) - self.carried
        return rest[: cuts[0]], rest[cuts[0] : cuts[1]], rest[cuts[1] : last], rest[last:]


class FlowStep(StepMap):
    """What the start and the steps of one flow share.

    Layout of ``z`` inside a flow: ``(x, *memory, q, *context, *carried)``, with ``q`` ``(batch, num_quadratures)``
    only where the flow has quadratures.
    """

    def __init__(self, frame: Frame, k: int) -> None:
        super().__init__()
        grid = frame.grid
        self.t, self.t_next, self.dt, self.k = grid.nodes[k], grid.nodes[k + 1], grid.spacing[k], k
        self.frame = frame  # no module: only the driven module's parameters are this map's
        self.driven = frame.flow.control.on(self.t, self.t_next).module

    def law(self, x: Tensor, context: State) -> Law:
        """The law of the step, its drive made from the context in ``z``."""
        frame = self.frame
        drive = None if frame.drive is None else frame.drive.replace(context)
        field = frame.flow.field(drive, frame.noise)
        field.stats = frame.stats
        return frame.flow.packed(field, x).on(self.t, self.t_next, self.k)


class InitStep(FlowStep):
    """The start of a flow: ``(x, *context, *carried) -> (x, *memory, q, *context, *carried)``."""

    def forward(self, z: State) -> State:
        """Makes the memory of the scheme and zero running costs."""
        x, frame, flow = z[0], self.frame, self.frame.flow
        expected = 1 + frame.carried + (0 if frame.drive is None else len(frame.drive.tensors))
        if len(z) != expected:
            raise InvalidOption(
                f"the start of a flow takes z = (x, *drive.tensors, *costs of earlier flows): got {len(z)} tensors, "
                f"expected {expected}; give flow.steps(drive=..., carried=...) what z brings"
            )
        _, _, context, carried = frame.split(z[1:], has_costs=False)
        costs = (x.new_zeros(x.shape[0], len(flow.quadratures)),) if flow.quadratures else ()
        law = self.law(x, context)
        memory = law.stepper(flow.solver).init(law, self.t, _join(x, costs))
        return (x, *memory, *costs, *context, *carried)


class SolverStep(FlowStep):
    """One step of the scheme; the last one drops memory and context and leaves the weighted cost ``(batch,)``."""

    def __init__(self, frame: Frame, k: int) -> None:
        super().__init__(frame, k)
        self.last = k == len(frame.grid.spacing) - 1
        self.restart = k in frame.grid.restarts

    def forward(self, z: State) -> State:
        """``z_{k+1}``."""
        x, flow = z[0], self.frame.flow
        memory, costs, context, carried = self.frame.split(z[1:])
        stats, law = self.frame.stats, self.law(x, context)
        before, stepper, packed = stats.nfe, law.stepper(flow.solver), _join(x, costs)
        if self.restart:
            memory = stepper.init(law, self.t, packed)
        packed, memory = stepper.step(law, self.t, self.dt, packed, memory)
        _count_derivatives(packed, stats, stats.nfe - before)
        if costs:
            size = packed.shape[1] - costs[0].shape[1]
            packed, costs = packed[:, :size].reshape(packed.shape[0], *x.shape[1:]), (packed[:, size:],)
        if self.last:
            return (packed, *(flow.weighted(q) for q in costs), *carried)
        return (packed, *memory, *costs, *context, *carried)


def _count_derivatives(x: Tensor, stats: Stats, evaluations: int) -> None:
    """Counts one derivative for each evaluation, whenever a gradient comes back through ``x``."""

    def count(gradient: Tensor) -> None:
        stats.nfe_backward += evaluations

    if x.requires_grad and not torch._C._are_functorch_transforms_active():
        x.register_hook(count)


def _join(x: Tensor, costs: State) -> Tensor:
    return torch.cat([columns(x), *costs], dim=1) if costs else x


def sharing_groups(steps: Sequence[StepMap]) -> list[list[int]]:
    """Indices of steps that share parameters, directly or through others; steps without parameters stand alone."""
    parent = list(range(len(steps)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    owner: dict[int, int] = {}
    for i, step in enumerate(steps):
        for parameter in step.parameters():
            parent[root(i)] = root(owner.setdefault(id(parameter), i))
    groups: dict[int, list[int]] = {}
    for i in range(len(steps)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
