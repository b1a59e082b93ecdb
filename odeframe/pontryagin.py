"""Pontryagin's maximum principle on step maps: states forward, costates backward, one step's graph at a time.

With ``z_{k+1} = M_k(z_k, u_k)`` and ``J = Phi(z_N)`` (running costs ride in ``z``), in maximum form:

    H_k(u) = <p_{k+1}, M_k(z_k, u)>,    p_N = -dJ/dz_N,    p_k = dH_k/dz_k,    dH_k/du = -dJ/du_k

for every scheme, its starter, contexts, stem and head.  A cost ``R(u)`` of the control enters as ``-R(u)``.  The
objective is a mean over the samples, so costates carry its ``1 / batch``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odeframe.errors import Incompatible, InvalidOption
from odeframe.inference import ordinary
from odeframe.network import Network
from odeframe.stepmap import FlowStep, SolverStep, State, StepMap
from odeframe.task import Task

Terminal = Callable[[State], Tensor]
"""``J`` of the last state ``(output, *running costs)``, 0-d."""


@dataclass(frozen=True)
class Sweep:
    """One pass forward and one backward.  Memory: as many states and costates as steps, and one step's graph.

    Attributes:
        steps: the step maps ``M_0 ... M_{N-1}``.
        states: ``z_0 ... z_N``, each a tuple of tensors ``(batch, ...)``, detached.
        costates: ``p_0 ... p_N``, shaped like the states.
        gradients: ``dH_k/du_k`` of each step, by the names of :meth:`StepMap.read`.
        objective: ``J``, 0-d, without a cost of the control.
    """

    steps: Sequence[StepMap]
    states: list[State]
    costates: list[State]
    gradients: list[dict[str, Tensor]]
    objective: Tensor

    def ascent(self) -> dict[nn.Parameter, Tensor]:
        """``sum_k dH_k/du`` by parameter, over all steps that share it: ``-dJ/du``."""
        total: dict[nn.Parameter, Tensor] = {}
        for step, gradient in zip(self.steps, self.gradients, strict=True):
            for name, parameter in trainable(step).items():
                total[parameter] = total[parameter] + gradient[name] if parameter in total else gradient[name]
        return total


@torch.inference_mode(False)
def sweep(steps: Sequence[StepMap], z: State, terminal: Terminal) -> Sweep:
    """States, costates and Hamiltonian gradients; in Lightning's inference mode too.

    Args:
        steps: the step maps, of ``Network.steps(x)`` or ``Flow.steps()``, or modules of one's own from a tuple of
            tensors to a tuple of tensors: ``odeframe.stepmap.ModuleStep(layer)`` makes one of a layer.
        z: the first state, ``(x,)`` for a network.
        terminal: ``J`` of the last state.

    Raises:
        Incompatible: a step map has a layer whose result depends on how often it is asked.
        InvalidOption: a state is no tuple of tensors, or ``J`` no real number.
    """
    check_repeatable(steps)
    states = forward(steps, z)
    objective, p = final_costate(states[-1], terminal)
    costates, gradients = [p], []
    for step, before in zip(reversed(steps), reversed(states[:-1]), strict=True):
        p, gradient = pull_back(step, before, p)
        costates.append(p)
        gradients.append(gradient)
    return Sweep(steps, states, costates[::-1], gradients[::-1], objective)


def of_batch(network: Network, task: Task, batch: Any) -> tuple[list[StepMap], State, Terminal]:
    """Step maps, first state and ``J = mean_i [Phi(x_i(T), y_i) + q_i(T)]`` of a batch, as :func:`sweep` takes them."""
    x, target = task.split(batch)

    def terminal(z: State) -> Tensor:
        cost: Any = task.cost(z[0], target)
        return sum(z[1:], start=cost).mean()

    return network.steps(x), (x,), terminal


def forward(steps: Sequence[StepMap], z: State) -> list[State]:
    """``z_0 ... z_N``, without a graph."""
    states = [_detached(z, "the first state z")]
    with torch.no_grad():
        for k, step in enumerate(steps):
            states.append(_detached(step(states[-1]), f"what step {k} ({type(step).__name__}) returned"))
    return states


def _detached(z: State, what: str) -> State:
    if not isinstance(z, tuple):  # a tensor would be taken apart along its batch
        raise InvalidOption(f"{what}: got a {type(z).__name__}, expected a tuple of tensors; write (x,) for one alone")
    return tuple(value.detach() for value in z)


@torch.inference_mode(False)
def final_costate(z: State, terminal: Terminal) -> tuple[Tensor, State]:
    """``J``, 0-d, and ``p_N = -dJ/dz_N``."""
    leaves = _leaves(z)
    with torch.enable_grad():
        J = terminal(leaves)
    if not isinstance(J, Tensor) or J.dim() or not J.is_floating_point():
        got = f"{J.dtype} of shape {tuple(J.shape)}" if isinstance(J, Tensor) else type(J).__name__
        raise InvalidOption(f"terminal: got {got}, expected J, one real number as a tensor; write e.g. .mean()")
    return J.detach(), tuple(-slope for slope in _slopes(J, leaves))


@torch.inference_mode(False)
def pull_back(step: StepMap, z: State, p: State) -> tuple[State, dict[str, Tensor]]:
    """``dH/dz`` and ``dH/du`` of ``H = <p, M(z, u)>``.

    Args:
        step: the map ``M``.
        z: the state before it.
        p: the costate after it.
    """
    leaves, control = _leaves(z), trainable(step)
    with torch.enable_grad():
        H = inner(tuple(map(ordinary, p)), step(leaves))
    found = _slopes(H, (*leaves, *control.values()))
    return found[: len(z)], dict(zip(control, found[len(z) :], strict=True))


def inner(p: State, z: State) -> Tensor:
    """``<p, z>`` over the whole tuple, 0-d: the Hamiltonian of a step whose result is ``z``."""
    total: Any = sum((a * b).sum() for a, b in zip(p, z, strict=True))
    return total


def trainable(step: StepMap) -> dict[str, nn.Parameter]:
    """The control of a step, without frozen parameters, by name."""
    return {name: parameter for name, parameter in step.named_parameters() if parameter.requires_grad}


def _leaves(z: State) -> State:
    return tuple(ordinary(value).detach().requires_grad_(value.is_floating_point()) for value in z)


def _slopes(value: Tensor, inputs: Sequence[Tensor]) -> State:
    asked = [each for each in inputs if each.requires_grad] if value.requires_grad else []
    found = torch.autograd.grad(value, asked, allow_unused=True) if asked else ()
    slopes = dict(zip(map(id, asked), found, strict=True))
    return tuple(torch.zeros_like(each) if slopes.get(id(each)) is None else slopes[id(each)] for each in inputs)


def check_repeatable(steps: Sequence[nn.Module]) -> None:
    """Refuses layers that count, or draw, anew in each evaluation: a Hamiltonian is evaluated many times.

    Raises:
        Incompatible: names the layer.
    """
    for step in steps:
        for name, layer in step.named_modules():
            if not layer.training:
                continue
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise Incompatible(
                    "the maximum principle evaluates a layer many times a batch, and batch norm in training mode "
                    f"({type(layer).__name__} {name!r}) would count each of them: use nn.GroupNorm, or freeze it by "
                    "eval()"
                )
            if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
                raise Incompatible(
                    "the maximum principle evaluates a layer many times a batch, and dropout in training mode "
                    f"({type(layer).__name__} {name!r}) would draw another mask in each: write p = 0"
                )


def step_length(step: StepMap) -> float:
    """``h`` of a solver's step; 1 for stem, starter, transition and head."""
    return abs(float(step.dt)) if isinstance(step, SolverStep) else 1.0


def cost_slots(steps: Sequence[StepMap], states: Sequence[State]) -> list[frozenset[int]]:
    """For each state ``z_1 ... z_N``, which of its tensors are running costs: they are fed back into nothing."""
    found, carried = [], 0
    for step, z in zip(steps, states[1:], strict=True):
        slots = set(range(len(z) - carried, len(z)))
        if isinstance(step, FlowStep) and step.frame.flow.quadratures:
            context = 0 if step.frame.drive is None else len(step.frame.drive.tensors)
            last = isinstance(step, SolverStep) and step.last
            slots.add(len(z) - carried - 1 - (0 if last else context))
            carried += last
        found.append(frozenset(slots))
    return found


def hamiltonians(swept: Sweep) -> dict[int, Tensor]:
    """``H`` between the nodes of the flows, by the index of the solver's step, 0-d: ``mean_i [p . f - L]``.

    ``H_{k+1/2} = <(p_k + p_{k+1}) / 2, x_{k+1} - x_k> / h - (q_{k+1} - q_k) . w / h``, accurate to ``h^2`` for schemes
    of order 2 without memory.  Along an exact solution it is constant where dynamics and control do not depend on time,
    whatever the control's quality; it jumps where the control does, unless that is optimal.
    """
    found = {}
    slots = cost_slots(swept.steps, swept.states)
    for k, step in enumerate(swept.steps):
        if not isinstance(step, SolverStep):
            continue
        (before, after), p, p_next = swept.states[k : k + 2], swept.costates[k], swept.costates[k + 1]
        H = (0.5 * (p[0] + p_next[0]) * (after[0] - before[0])).sum()
        if step.frame.flow.quadratures:
            own, (q,) = min(slots[k]), step.frame.split(before[1:])[1]  # costs of earlier flows come after it
            H = H + (p_next[own] * (after[own] - (step.frame.flow.weighted(q) if step.last else q))).sum()
        found[k] = H / float(step.dt)
    return found


def costate_norms(swept: Sweep) -> list[Tensor]:
    """``|p_k|`` of each sample's objective in ``x``, root mean square over the samples, 0-d, for ``z_0 ... z_N``."""
    return [p[0].abs().square().sum().mul(p[0].shape[0]).sqrt() for p in swept.costates]


def residuals(swept: Sweep, cost_gradients: Mapping[nn.Parameter, Tensor] | None = None) -> list[Tensor]:
    """``|dH/du|`` of each step, 0-d; zero everywhere is Pontryagin's condition of first order.

    A control that several steps share is stationary as a whole: its steps all show the norm of the sum.

    Args:
        swept: the sweep.
        cost_gradients: ``dR/du`` by parameter, where the control has a cost.
    """
    total = swept.ascent()
    for parameter, slope in (cost_gradients or {}).items():
        if parameter in total:
            total[parameter] = total[parameter] - slope
    zero = swept.objective.new_zeros(())
    return [
        torch.sqrt(sum((total[parameter].abs().square().sum() for parameter in trainable(step).values()), start=zero))
        for step in swept.steps
    ]
