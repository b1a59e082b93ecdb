"""How far a control is from optimal: the residuals of Hamilton-Jacobi-Bellman and of Pontryagin along its own path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from odeframe import Incompatible, InvalidOption
from odeframe.costs import LagrangeTerm
from odeframe.flow import Flow
from odeframe.inference import ordinary
from odeframe.stepmap import SolverStep, State
from odeframe.system import ControlSystem

POINTS = 64
"""Parts of the horizon at whose middles the equation is held; no multiple of usual numbers of pieces."""


@torch.inference_mode(False)
def bellman_residual(flow: Flow, x0: Tensor, points: int = POINTS) -> Tensor:
    """``int mean_i [V_t + L(x, u) + <V_x, f(x, u)>]_i dt / mean_i V(0, x0_i)`` along the paths under the control.

    The integrand is never negative, and 0 where ``u`` is optimal in its state: ``V`` solves
    ``V_t + min_u [L + <V_x, f>] = 0``.  Its integral is ``J - V``, so that the residual is the relative gap, had
    without looking at the cost.  For a population the derivative in the measure is ``N`` times that in one member, and
    the same formula is the equation on the space of measures.

    Args:
        flow: of an ``odeframe.ControlSystem`` with a value function.
        x0: ``(batch, *state)``.
        points: midpoints of the rule that integrates.

    Returns:
        0-d, without unit.

    Raises:
        Incompatible: the value function is not known.
        InvalidOption: there are no samples, or no points.

    Source: Fleming, Rishel 1975, IV.4 (verification); E, Han, Li 2019, A Mean-Field Optimal Control Formulation of Deep
    Learning, section 3 (measures).
    """
    system, x0 = _system(flow), _samples(x0)
    if points < 1:
        raise InvalidOption(f"bellman_residual, option points: got {points}, expected at least 1")
    start, end = flow.horizon
    dt = (end - start) / points
    middles = [start + (k + 0.5) * dt for k in range(points)]
    with torch.no_grad():
        states = flow.solve(x0, [start, *middles, end]).states[1:-1]
    total = x0.new_zeros(())
    for middle, x in zip(middles, states, strict=True):
        t = torch.tensor(middle, dtype=torch.float64)
        u = _input(flow, t, x, 1e-6 * dt)
        rate, slope = _value_derivatives(system, t, x)
        change = (slope * system.velocity(t, x, u)).flatten(1).sum(1)
        total = total + dt * (rate + (change + system.lagrangian(t, x, u)).sum()).detach() / len(x)
    optimum = system.value(torch.tensor(start, dtype=torch.float64), x0)
    assert optimum is not None
    return (total / optimum.mean()).detach()


def _value_derivatives(system: ControlSystem, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_i dV_i/dt``, 0-d, and ``d sum_i V_i / dx``, ``(batch, *state)``."""
    with torch.inference_mode(False), torch.enable_grad():
        time, state = t.clone().requires_grad_(True), x.clone().requires_grad_(True)
        value = system.value(time, state)
        if value is None:
            raise Incompatible(f"{type(system).__name__} does not know its value function")
        rate, slope = torch.autograd.grad(value.sum(), (time, state))
    return rate.to(x), slope


@torch.inference_mode(False)
def pontryagin_residual(flow: Flow, x0: Tensor) -> Tensor:
    """How far ``dH/du`` is from 0 along the paths, ``H = <p, f(x, u)> - L(x, u)``; a share, from 0 to 1.

    ``sqrt(mean |f_u^T p - L_u|^2)`` over the same of ``f_u^T p`` and of ``L_u``, added, at the middle of every step.
    The costate ``p_k = -dJ/dx_k`` is that of the step maps, for the system's own costs alone.  A feedback is
    held sample by sample; an open-loop control,
    one for all samples, by the mean over them, which is the mean-field principle ``u in argmax E[H]``.

    Args:
        flow: of an ``odeframe.ControlSystem`` with a one-step solver.
        x0: ``(batch, *state)``.

    Returns:
        0-d, without unit.

    Raises:
        InvalidOption: there are no samples.

    Source: Pontryagin et al. 1962; E, Han, Li 2019, section 4.
    """
    system, closed = _system(flow), "closed_loop" in getattr(flow.control, "traits", ())
    parts, x0 = [], _samples(x0)
    for t, dt, x, p in _path_and_costates(flow, x0):
        u = _input(flow, t, x, 1e-6 * dt)
        with torch.inference_mode(False), torch.enable_grad():
            u = u.detach().clone().requires_grad_(True)
            velocity, cost = system.velocity(t, x, u), system.lagrangian(t, x, u).sum()
            (pulled,) = torch.autograd.grad((velocity * p).sum(), u)
            slope = torch.autograd.grad(cost, u, allow_unused=True)[0] if cost.requires_grad else None
        parts.append((pulled, torch.zeros_like(pulled) if slope is None else slope))
    pulled, slope = (torch.stack(each) for each in zip(*parts, strict=True))  # (steps, batch, control_size)
    if not closed:
        pulled, slope = pulled.mean(1), slope.mean(1)
    size = _root_mean_square(pulled) + _root_mean_square(slope)
    return _root_mean_square(pulled - slope) / size.clamp(min=torch.finfo(size.dtype).tiny)


def _path_and_costates(flow: Flow, x0: Tensor) -> Iterator[tuple[Tensor, float, Tensor, Tensor]]:
    """Middle time, length, state and costate of every step; states and costates are means of those at its ends."""
    system = _system(flow)
    with torch.inference_mode(False), torch.enable_grad(), _own_cost(flow):
        steps = flow.steps()
        z: State = (x0.clone().requires_grad_(True),)
        states: list[Tensor] = []
        for step in steps:
            if isinstance(step, SolverStep):
                states.append(z[0])
            z = step(z)
        states.append(z[0])
        objective = (system.terminal_cost(z[0]) + z[1]).sum()
        costates = [-each for each in torch.autograd.grad(objective, states, materialize_grads=True)]
    maps = [step for step in steps if isinstance(step, SolverStep)]
    for k, step in enumerate(maps):
        middle, dt = 0.5 * (step.t + step.t_next), float(step.t_next - step.t)
        yield middle, dt, (0.5 * (states[k] + states[k + 1])).detach(), 0.5 * (costates[k] + costates[k + 1])


@contextmanager
def _own_cost(flow: Flow) -> Iterator[None]:
    """The system's own running cost alone, without those that a user has added."""
    before, flow.quadratures = flow.quadratures, (LagrangeTerm(),)
    try:
        yield
    finally:
        flow.quadratures = before


def _input(flow: Flow, t: Tensor, x: Tensor, margin: float) -> Tensor:
    """``u`` under the control at a time between breakpoints, ``(batch, control_size)``."""
    with torch.no_grad():
        return flow.field().on(t - margin, t + margin).observe("input", t, x)


def _samples(x0: Tensor) -> Tensor:
    """The states themselves; of Lightning's inference mode, a copy that autograd takes."""
    if not len(x0):
        raise InvalidOption("the residuals of optimality are means over samples: got none, expected x0 (batch, *state)")
    return ordinary(x0)


def _root_mean_square(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()


def _system(flow: Flow) -> ControlSystem:
    if not isinstance(flow.dynamics, ControlSystem):
        raise Incompatible(
            f"the residuals of optimality are those of an odeframe.ControlSystem, got {type(flow.dynamics).__name__}"
        )
    return flow.dynamics
