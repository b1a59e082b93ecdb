"""The Hamiltonian of a group of steps as a function of the control that they share, on a frozen trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from odeframe.pontryagin import Sweep, cost_slots, inner, step_length, trainable
from odeframe.reduction import average
from odeframe.stepmap import sharing_groups

ControlCosts = Callable[[], Tensor]
"""``R(u)`` of the parameters as they are, 0-d."""


class ControlHamiltonian:
    """``H~(u) = sum_k H~_k(u) - R(u)`` over a group's parameters, with everything else frozen.

        H~_k(u) = <p_{k+1}, M_k(z_k, u)> - rho / (2 h S) |z_{k+1} - M_k(z_k, u)|^2
                                         - rho S / (2 h) |p_k - d/dz <p_{k+1}, M_k(z_k, u)>|^2

    with ``S`` samples, since ``p`` carries ``1 / S``, and ``h = 1`` for stem and head.  ``z_{k+1}`` and ``p_k`` are
    those of the trajectory, so that both penalties vanish at its own control; running costs, which are fed back into
    nothing, are left out of them.  With ``rho = 0`` it is the Hamiltonian.  Over ranks, values and slopes are means.

    Args:
        swept: the trajectory.
        group: indices of the steps.
        rho: weight of the penalties.
        costs: ``R``, where the control has a cost.

    Attributes:
        parameters: the control that the group shares.
        evaluations: how often it has been evaluated.

    Source: Li, Chen, Tai, E 2018, Maximum Principle Based Algorithms for Deep Learning, (15).
    """

    def __init__(self, swept: Sweep, group: Sequence[int], rho: float = 0.0, costs: ControlCosts | None = None) -> None:
        self._swept, self._group, self.rho, self._costs = swept, group, rho, costs
        self._slots = cost_slots(swept.steps, swept.states)
        named = {id(p): p for k in group for p in trainable(swept.steps[k]).values()}
        self.parameters: list[nn.Parameter] = list(named.values())
        self.evaluations = 0

    def __call__(self) -> tuple[float, list[Tensor]]:
        """``H~`` and ``dH~/du`` at the values that the parameters have, the same on all ranks."""
        self.evaluations += 1
        with torch.enable_grad():
            total = torch.stack([self._step(k) for k in self._group]).sum()
            if self._costs is not None:
                total = total - self._costs()
        slopes: Sequence[Tensor] = [torch.zeros_like(p) for p in self.parameters]
        if total.requires_grad:
            slopes = torch.autograd.grad(total, self.parameters, allow_unused=True, materialize_grads=True)
        value, *slopes = average([total.detach(), *slopes])
        return float(value), slopes

    def value(self) -> float:
        """``H~`` alone."""
        self.evaluations += 1
        with torch.enable_grad():  # the costate's penalty differentiates
            total = torch.stack([self._step(k) for k in self._group]).sum().detach()
        if self._costs is not None:
            total = total - self._costs().detach()
        return float(average([total])[0])

    def _step(self, k: int) -> Tensor:
        swept, step = self._swept, self._swept.steps[k]
        z, after, p, p_next = swept.states[k], swept.states[k + 1], swept.costates[k], swept.costates[k + 1]
        if not self.rho:
            return inner(p_next, step(z))
        leaves = tuple(value.detach().requires_grad_(True) for value in z)
        made = step(leaves)
        H, size, zero = inner(p_next, made), z[0].shape[0], after[0].new_zeros(())
        slopes: Sequence[Tensor] = [torch.zeros_like(value) for value in leaves]
        if H.requires_grad:
            slopes = torch.autograd.grad(H, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
        moved = (_square(a - b) for i, (a, b) in enumerate(zip(after, made, strict=True)) if i not in self._slots[k])
        turned = (_square(a - b) for a, b in zip(p, slopes, strict=True))
        penalty = sum(moved, start=zero) / size + sum(turned, start=zero) * size
        return H - 0.5 * self.rho / step_length(step) * penalty


def _square(value: Tensor) -> Tensor:
    return value.abs().square().sum()


def groups_of(swept: Sweep) -> list[list[int]]:
    """The steps that have one control in common, as far as it is trained; their order is that of depth."""
    return [group for group in sharing_groups(swept.steps) if any(trainable(swept.steps[k]) for k in group)]
