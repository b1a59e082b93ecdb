"""Euler's step with a learned second-order term: a hypersolver, and how it is fitted to a flow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import Flow, Incompatible, InvalidOption, Law, Solver, StepSolver
from odeframe.drive import Drive, as_drive
from odeframe.field import FunctionField
from odeframe.registry import word
from odeframe.solver import Memory, OnFailure, check_state


class HyperEuler(StepSolver):
    """``x_{n+1} = x_n + h f + h^2 g_w(t_n, x_n, f)``, ``f = f(t_n, x_n)``, with a small trainable net ``g_w``.

    The order is 1 whatever ``g_w`` is; its error constant is that of Euler's method times the relative error with
    which ``g_w`` fits the residual ``(x(t + h) - x - h f) / h^2``.  One evaluation of ``f`` a step.  ``g_w`` is 0 at
    first, so an untrained hypersolver is Euler's method; :func:`fit_hypersolver` trains it, or the loss of the whole
    network does.  It is good along the trajectories it was fitted on, and no better than any net away from them.  Its
    weights are coefficients of the solver: the control drives them, one net a piece of a piecewise control.

    Args:
        width: size of the state along dimension 1.
        hidden: size of the two inner layers of ``g_w``.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, width, *)``; ``g_w`` sees each position of ``*`` for itself, with its ``x``, ``f``, ``t``.

    Source: Poli et al. 2020, Hypersolvers: Toward Fast Continuous-Depth Models, section 3.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned", "trainable")
    order = 1
    opaque = False  # g_w knows the state by its width: running costs are integrated beside it

    def __init__(
        self,
        width: int,
        hidden: int = 32,
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        for option, value in (("width", width), ("hidden", hidden)):
            if value < 1:
                raise InvalidOption(f"solver 'hyper_euler': option {option}: got {value}, expected at least 1")
        self.width = width
        self.net = nn.Sequential(
            nn.Linear(2 * width + 1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, width)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the last layer to zero: Euler's method."""
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)

    def correction(self, t: Tensor, x: Tensor, f: Tensor) -> Tensor:
        """``g_w(t, x, f)``, of the shape of ``x``, computed in the dtype of the weights."""
        if x.dim() < 2 or x.shape[1] != self.width:
            raise InvalidOption(
                f"solver 'hyper_euler': got a state of shape {tuple(x.shape)}, expected (batch, {self.width}, ...); "
                f"write width={x.shape[1] if x.dim() > 1 else '...'}"
            )
        time = t.to(x).reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape[0], 1, *x.shape[2:])
        features = torch.cat([x, f, time], dim=1).movedim(1, -1)
        return self.net(features.to(next(self.net.parameters()).dtype)).movedim(-1, 1).to(x.dtype)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation of the field and one of the net."""
        f = field(t, x)
        return x + dt * f + dt**2 * self.correction(t, x, f), ()


@dataclass
class _Samples:
    """What one net is fitted to: where steps start, and the residuals there."""

    net: HyperEuler
    t: list[Tensor]  # (batch,), a step each; the others (batch, width, *)
    x: list[Tensor]
    f: list[Tensor]
    residual: list[Tensor]

    def joined(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All steps as one batch."""
        return torch.cat(self.t), torch.cat(self.x), torch.cat(self.f), torch.cat(self.residual)


def fit_hypersolver(
    flow: Flow,
    x0: Tensor,
    fine: str | Mapping[str, Any] | Solver | None = None,
    iterations: int = 500,
    lr: float = 1e-2,
    drive: Drive | Tensor | None = None,
) -> float:
    """Trains ``g_w`` of a flow with solver ``hyper_euler`` on the residuals of a fine solver, the dynamics as they are.

    Minimises ``mean |g_w - R|^2``, ``R_k = (x(t_{k+1}) - x(t_k) - h f) / h^2``, over the steps of the flow's own grid,
    with ``x`` the fine solution from ``x0``, by Adam with a rate that falls to zero along a cosine.

    Args:
        flow: its solver is ``hyper_euler`` and its control owns modules (``constant``, ``piecewise_constant``).
        x0: ``(batch, width, *)`` to start from; what the fit is good for.
        fine: a solver that is exact beside Euler's method; default dopri5 with ``rtol=1e-8`` (in float32 as small as
            it may be).
        iterations: full-batch updates.
        lr: first learning rate.
        drive: exogenous input of the flow.

    Returns:
        The relative error of the fit, ``|g_w - R| / |R|``: by this factor the error constant falls.

    Raises:
        Incompatible: the solver is another one, or its coefficients are computed by the control.
        InvalidOption: ``x0`` is empty.
    """
    exact = word("solver", {"name": "dopri5", "rtol": 1e-8} if fine is None else fine).build()
    samples = _residuals(flow, check_state(x0), exact, as_drive(drive))
    batches = [(group.net, *group.joined()) for group in samples]
    scale = sum(float(residual.square().sum()) for *_, residual in batches)
    if not scale > 0:
        return 0.0  # Euler's method is exact here
    parameters = [p for group in samples for p in group.net.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, iterations))

    def loss() -> Tensor:
        errors = [(net.correction(t, x, f) - residual).square().sum() for net, t, x, f, residual in batches]
        return torch.stack(errors).sum() / scale

    with torch.enable_grad():
        for _ in range(iterations):
            gradients = torch.autograd.grad(loss(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            schedule.step()
    optimiser.zero_grad()
    with torch.no_grad():
        return float(loss().sqrt())


@torch.no_grad()
def _residuals(flow: Flow, x0: Tensor, fine: Solver, drive: Drive | None) -> list[_Samples]:
    """The residual of every step of the flow's grid along the fine solution, by the net that the step uses."""
    if not isinstance(flow.solver, HyperEuler):
        raise Incompatible(
            f"fit_hypersolver: the flow's solver is {type(flow.solver).__name__}, expected hyper_euler; write "
            "Flow(..., solver={'name': 'hyper_euler', 'width': ...})"
        )
    if x0.numel() == 0:
        raise InvalidOption(f"fit_hypersolver: x0 has the shape {tuple(x0.shape)}, expected samples to fit to")
    field, x = flow.field(drive), x0
    grid, samples = flow.solver.grid(field, flow.times(None)), dict[int, _Samples]()
    for k, (t, t_next) in enumerate(itertools.pairwise(grid.nodes)):
        law = field.on(t, t_next, step=k)
        net = law.stepper(flow.solver)
        if not isinstance(net, HyperEuler):
            raise Incompatible(
                f"fit_hypersolver: the control {type(flow.control).__name__} computes the solver's coefficients; fit "
                "under control='constant' or 'piecewise_constant'"
            )
        h, f = float(grid.spacing[k]), law(t, x)
        end = fine.solve(FunctionField(law), x, torch.stack([t, t_next])).final
        group = samples.setdefault(id(net), _Samples(net, [], [], [], []))
        group.t.append(t.to(x.device).expand(x.shape[0]))
        group.x.append(x)
        group.f.append(f)
        group.residual.append((end - x - h * f) / h**2)
        x = end
    return list(samples.values())
