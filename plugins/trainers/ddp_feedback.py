"""Differential dynamic programming on the layers: an optimiser's step with feedback from the layers before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import ControlTrainer
from odeframe.options import check_not_negative, check_positive
from odeframe.pontryagin import check_repeatable, final_costate, forward, of_batch, trainable
from odeframe.reduction import average
from odeframe.stepmap import State, StepMap, sharing_groups
from odeframe.trainer import Trained, optimizer_step
from odeframe_plugins.trainers.curvature import inverse_curvature

Solve = Callable[[Tensor, Tensor], Tensor]


class DDPFeedback(ControlTrainer):
    """``du_k = -Q_uu^{-1} (Q_u + Q_ux dx_k)``: layer by layer, with ``dx_k`` the new minus the old input of layer k.

    Bellman's backward pass through the step maps ``M_k``, in the Gauss-Newton form: the curvature of ``J`` over the
    state is the outer product of each sample's gradient with itself, which a layer passes on as such, so that no
    matrix of state by state, or of weights by state, is ever formed.  With ``phi_i`` the cost of sample i,
    ``q_i = d phi_i/dx_k`` by the chain rule, ``g_i = d phi_i/du_k`` and ``S`` samples::

        V_xx = q_i q_i^T / S      Q_ux = g_i q_i^T / S      V_x = c_i q_i / S
        c_i  = 1 at the end; before layer k, less by g_i . Q_uu^{-1} Q_u,  with  Q_u = mean_i c_i g_i
        du_k = -Q_uu^{-1} mean_i e_i g_i,                           with  e_i = c_i + q_i . dx_i

    So the feedback weighs samples: by how much the layers before have changed a sample's cost already
    (``q_i . dx_i``), and by how much the layers behind are about to (``c_i``).  ``Q_uu^{-1}`` is the module's
    optimiser: ``SGD`` is ``lr``; ``RMSprop``, ``Adam`` and ``AdamW`` are ``lr / (sqrt(v) + eps)`` with their average
    ``v`` of squared gradients.  It makes the step too, with its momentum and decay.  Steps that share parameters are
    one layer, whose input is that of the first.

    What is approximated: second derivatives of the layers, and of the cost over the output, are left out but for the
    outer products; ``V_xx`` has no part between samples; what it loses by a layer's own step, a share ``1/S``, is left
    out.  The weights ``c_i`` and ``e_i`` are kept within ``1 - limit`` to ``1 + limit``.

    Three passes forward and two backward a batch, and with feedback a third backward that is differentiated again;
    memory is that of the states, and of one layer's graph.

    Args:
        gain: factor of all feedback, at least 0; with 0 the rule *is* the optimiser.
        limit: bound of the change of a sample's weight, > 0; up to 1, no sample's gradient is turned round.

    Raises:
        InvalidOption: an option is outside its range; the optimiser's curvature is not known.
        Incompatible: batch norm or dropout, whose results differ from pass to pass (before a fit).

    Source: Liu, Chen, Theodorou 2021, DDPNOpt: Differential Dynamic Programming Neural Optimizer, sections 3 and 4,
    without its Kronecker factors and regularisations.
    """

    automatic_optimization: ClassVar[bool] = False
    traits: ClassVar[tuple[str, ...]] = ("ddp",)

    def __init__(self, gain: float = 1.0, limit: float = 1.0) -> None:
        check_not_negative("trainer 'ddp_feedback'", gain=gain)
        check_positive("trainer 'ddp_feedback'", limit=limit)
        self.gain, self.limit = gain, limit

    def setup(self, module: Trained) -> None:
        """Refuses layers that a repeated evaluation would change."""
        check_repeatable([module.network])
        for flow in module.network.flows:
            flow.steps()  # refuses a solver without step maps

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """One pass backward, one forward that moves each layer when its new input is known; returns ``J`` before."""
        steps, z, terminal = of_batch(module.network, module.task, batch)
        layers = in_layers(steps)
        optimizer = module.optimizers().optimizer
        solve = inverse_curvature(optimizer)
        states = forward(layers, z)
        J, p = final_costate(states[-1], terminal)
        cost = module.control_cost()
        pass_back = _Backward(layers, states, _gradients_of(cost, layers), self)
        slopes, weights = pass_back.run(tuple(-each for each in p), solve)
        new = states[0]
        for k, layer in enumerate(layers):
            moved = _inner(slopes[k], tuple(a - b for a, b in zip(new, states[k], strict=True)))
            share = self.bounded(weights[k + 1] + self.gain * len(moved) * moved)
            for parameter, gradient in pass_back.gradient(k, slopes[k + 1], share).items():
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                new = layer(new)
        optimizer_step(module)
        return J + cost.detach()

    def bounded(self, weights: Tensor) -> Tensor:
        """Weights of samples within ``1 - limit`` to ``1 + limit``."""
        return weights.clamp(1 - self.limit, 1 + self.limit)


class _Backward:
    """Gradients layer by layer, at the states before the step."""

    def __init__(
        self,
        layers: Sequence[Any],
        states: Sequence[State],
        costs: Mapping[nn.Parameter, Tensor],
        rule: DDPFeedback,
    ) -> None:
        self.layers, self.states, self.costs, self.rule = layers, states, costs, rule

    def run(self, last: State, solve: Solve) -> tuple[list[State], list[Tensor]]:
        """``q_k / S`` before each layer and at the end, and ``c`` of the same places, ``(batch,)`` each."""
        slopes, weights = [last], [last[0].new_ones(len(last[0]))]
        for k in reversed(range(len(self.layers))):
            slope, weight = self._layer(k, slopes[0], weights[0], solve)
            slopes.insert(0, slope)
            weights.insert(0, weight)
        return slopes, weights

    def gradient(self, k: int, after: State, weight: Tensor) -> dict[nn.Parameter, Tensor]:
        """``mean_i weight_i g_i`` of layer k over all ranks, with the cost of the control."""
        control = list(trainable(self.layers[k]).values())
        with torch.enable_grad():
            value = (weight * _inner(after, self.layers[k](self.states[k]))).sum()
        return self._reduced(control, _gradients(value, control))

    def _layer(self, k: int, after: State, weight: Tensor, solve: Solve) -> tuple[State, Tensor]:
        leaves = tuple(value.detach().requires_grad_(value.is_floating_point()) for value in self.states[k])
        control = list(trainable(self.layers[k]).values())
        share = weight.clone().requires_grad_()
        with torch.enable_grad():
            products = _inner(after, self.layers[k](leaves))
            slope = _gradients(products.sum(), leaves, retain_graph=True)
            if not (self.rule.gain and control):
                return slope, weight
            found = _gradients((share * products).sum(), control, create_graph=True)
            step = self._reduced(control, [each.detach() for each in found])
            towards: Any = sum((solve(u, step[u]) * each).sum() for u, each in zip(control, found, strict=True))
        (decrease,) = _gradients(towards, [share])
        return slope, self.rule.bounded(weight - self.rule.gain * len(weight) * decrease)

    def _reduced(self, control: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> dict[nn.Parameter, Tensor]:
        found = dict(zip(control, average(gradients), strict=True))
        return {u: found[u] + self.costs[u] if u in self.costs else found[u] for u in control}


class Layer(nn.Module):
    """Step maps that share parameters, one after the other: what moves at once.

    No step map itself: it may hold a block twice (a flow's start and its first step), which ``functional_call`` does
    not put back.
    """

    def __init__(self, steps: Sequence[StepMap]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, z: State) -> State:
        """The last one's state."""
        for step in self.steps:
            z = step(z)
        return z


def in_layers(steps: Sequence[StepMap]) -> list[Any]:
    """Runs of steps that share parameters, and whatever stands between them, as one map each."""
    layers: list[list[StepMap]] = []
    end = -1
    ends = {first: last for first, *_, last in ([*group, group[-1]] for group in sharing_groups(steps))}
    for k, step in enumerate(steps):
        if k > end:
            layers.append([])
        layers[-1].append(step)
        end = max(end, ends.get(k, k))
    return [layer[0] if len(layer) == 1 else Layer(layer) for layer in layers]


def _inner(slope: State, z: State) -> Tensor:
    """``<slope_i, z_i>`` of each sample, ``(batch,)``."""
    terms = [(a * b).flatten(1).sum(1) if a.dim() > 1 else a * b for a, b in zip(slope, z, strict=True)]
    total: Any = sum(terms)
    return total


def _gradients(value: Tensor, inputs: Sequence[Tensor], **options: Any) -> State:
    asked = [each for each in inputs if each.requires_grad] if value.requires_grad else []
    found = torch.autograd.grad(value, asked, allow_unused=True, **options) if asked else ()
    by_id = dict(zip(map(id, asked), found, strict=True))
    return tuple(torch.zeros_like(each) if by_id.get(id(each)) is None else by_id[id(each)] for each in inputs)


def _gradients_of(cost: Tensor, layers: Sequence[Any]) -> dict[nn.Parameter, Tensor]:
    """The gradient of a cost of the control, where there is one."""
    control = [u for layer in layers for u in trainable(layer).values()]
    return dict(zip(control, _gradients(cost, control), strict=True)) if cost.requires_grad else {}
