"""What implicit schemes with adaptive steps share: Jacobians that are kept while they serve, and Newton's tolerance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from odeframe import AdaptiveSolver, Law, Status
from odeframe.adaptive import Attempt
from odeframe.field import per_sample
from odeframe.quadrature import columns
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers.implicit import check_newton
from odeframe_plugins.solvers.implicit_function import check_state, solve_stages
from odeframe_plugins.solvers.newton import Kind, Outcome, corrector_for, iterate, per_sample_mask, resolve, smoothed
from odeframe_plugins.solvers.stages import Coupling, Factors, StageSystem, stage_columns, velocity_and_jacobian

#: What a kept Jacobian is: to be taken again, of an earlier step, of this state.
EXPIRED, KEPT, CURRENT = 0, 1, 2


@dataclass
class Trial:
    """One try of a step, while it is made.

    Attributes:
        law, t, dt, x: the step.
        slope: ``f(t, x)``.
        past: what the scheme carries besides it.
        kind: how stages are solved.
        weight: ``(batch, 1, D)`` one over the tolerance of each component and the root of their number.
        tolerance: of the iteration, as a share of those.
        limit: corrections a stage.
        factors: of the iteration's matrix, ``None`` where there is none.
    """

    law: Law
    t: Tensor
    dt: Any
    x: Tensor
    slope: Tensor
    past: Sequence[Tensor]
    kind: Kind
    weight: Tensor
    tolerance: float
    limit: int
    factors: Factors | None

    def __post_init__(self) -> None:
        self.converged = np.ones(self.x.shape[0], dtype=bool)
        self.slow = np.zeros(self.x.shape[0], dtype=bool)

    def solve(self, base: Tensor, coupling: Coupling, guess: Tensor) -> Tensor:
        """The increments ``(batch, s, *state)`` over ``base`` ``(batch, 1, *state)``; notes who did not converge."""
        system = StageSystem(self.law, self.t, self.dt, base, coupling)
        start, corrector = guess.detach(), corrector_for(self.kind, system, self.factors, 0.1 * self.tolerance)

        def find() -> Outcome:
            return iterate(corrector, start, self.size, self.tolerance * start.shape[1] ** 0.5, self.limit)

        z, outcome = solve_stages(system, find, self.kind)
        self.converged = self.converged & outcome.converged
        self.slow |= (outcome.rate > 1e-3) & (outcome.iterations > 2)
        return z

    def size(self, delta: Tensor, z: Tensor) -> Tensor:
        """The root mean square of a correction over tolerance, ``(batch,)``, times the root of the number of stages."""
        return torch.linalg.vector_norm(stage_columns(delta) * self.weight, dim=(1, 2))

    def smooth(self, error: Tensor, coupling: Coupling) -> Tensor:
        """``(I - dt gamma J)^-1 error``, ``gamma`` the real eigenvalue of ``A``: bounded where ``dt J`` is not."""
        if self.factors is not None:
            return self.factors.filter(error)
        gamma = next(value.real for value, _, _ in coupling.modes if not isinstance(value, complex))
        system = StageSystem(self.law, self.t, self.dt, self.x[:, None], coupling)
        return smoothed(system, gamma, self.x, error)


@dataclass
class Step:
    """A finished try.

    Attributes:
        x: the new state.
        error: its estimated error.
        slope: ``f`` at the new state.
        past: what the next step's first guess is made from.
        stages: what interpolation needs.
    """

    x: Tensor
    error: Tensor
    slope: Tensor
    past: tuple[Tensor, ...]
    stages: Any


class ImplicitAdaptive(AdaptiveSolver):
    """A stiffly accurate implicit scheme with an error estimate.

    A Jacobian is taken where the last step converged slowly (rate above 1e-3), or where this one does not with an older
    one; a step whose iteration fails even so is rejected.  The memory is ``(f, J, age of J, *past)``.

    Args:
        rtol, atol, max_steps, first_step, on_failure, per_sample, controller: see :class:`odeframe.AdaptiveSolver`.
        newton: ``"exact"``: Jacobians of every sample; ``"krylov"``: matrix-free Newton with GMRES; ``"anderson"``:
            accelerated fixed point; ``"auto"``: exact up to 128 components a sample, else krylov.
        newton_tol: error of a stage as a share of the tolerances; default ``min(0.03, sqrt(rtol))``.
        max_newton: corrections of a stage.
    """

    #: an order is seen where the iteration ends far below the error of a step
    conformance: ClassVar[dict[str, Any]] = {"options": {"newton_tol": 1e-7, "max_newton": 20}}
    per_sample_steps: ClassVar[bool] = True
    lost_status: ClassVar[Status] = Status.NEWTON_FAILED
    coupling: ClassVar[Coupling]

    def __init__(
        self,
        rtol: float | None = None,
        atol: float | None = None,
        max_steps: int = 10_000,
        first_step: float | None = None,
        on_failure: OnFailure = "raise",
        per_sample: bool = False,
        controller: str = "pi",
        newton: Kind = "auto",
        newton_tol: float | None = None,
        max_newton: int = 6,
    ) -> None:
        super().__init__(rtol, atol, max_steps, first_step, on_failure, per_sample, controller=controller)
        check_newton(type(self).__name__, newton, newton_tol, max_newton)
        self.newton, self.newton_tol, self.max_newton = newton, newton_tol, max_newton

    @abstractmethod
    def past(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the scheme carries before the first step."""

    @abstractmethod
    def run(self, trial: Trial) -> Step:
        """All stages of one try."""

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """Slope and Jacobian at the start of an interval without breakpoints."""
        check_state(type(self).__name__, x)
        age = torch.full((x.shape[0],), CURRENT, device=x.device)
        size = columns(x).shape[1] if resolve(self.newton, x) == "exact" else 0
        jacobian = velocity_and_jacobian(field, t, x)[1] if size else x.new_zeros(x.shape[0], 0, 0)
        return (field(t, x), jacobian, age, *self.past(x))

    def slope(self, field: Law, t: Tensor, x: Tensor, memory: Memory) -> Tensor:
        """``f(t, x)``, which is known."""
        return memory[0]

    def attempt(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> Attempt:
        """Tries a step; a sample whose stages were not found has an infinite error."""
        slope, jacobian, age, *past = memory
        if x.numel() == 0:
            return Attempt(x, torch.zeros_like(x), memory, None)
        exact = resolve(self.newton, x) == "exact"
        if exact:
            jacobian, age = renewed(field, t, x, jacobian, age, age == EXPIRED)
        trial = self.trial(field, t, dt, x, (slope, past), jacobian if exact else None)
        step = self.run(trial)
        if exact and not trial.converged.all():
            old = (age == KEPT) & ~torch.from_numpy(trial.converged).to(x.device)
            if bool(old.any()):
                jacobian, age = renewed(field, t, x, jacobian, age, old)
                trial = self.trial(field, t, dt, x, (slope, past), jacobian)
                step = self.run(trial)
        error = step.error
        if not trial.converged.all():
            found = per_sample_mask(torch.from_numpy(trial.converged).to(x.device), error)
            error = torch.where(found, error, torch.full_like(error, float("inf")))
        age = torch.where(torch.from_numpy(trial.slow), EXPIRED, KEPT).to(x.device)
        return Attempt(step.x, error, (step.slope, jacobian, age, *step.past), step.stages)

    def trial(
        self,
        field: Law,
        t: Tensor,
        dt: Any,
        x: Tensor,
        known: tuple[Tensor, Sequence[Tensor]],
        jacobian: Tensor | None,
    ) -> Trial:
        """A try under these tolerances."""
        rtol, atol = self.tolerances(x.dtype)
        least = 10 * torch.finfo(x.dtype).eps / rtol
        tolerance = self.newton_tol or max(least, min(0.03, rtol**0.5))
        size = columns(x.detach()).abs()
        weight = (size.mul_(rtol).add_(atol).mul_(size.shape[1] ** 0.5)).reciprocal_()[:, None]
        factors = None if jacobian is None else Factors(jacobian, dt, self.coupling)
        kind = "exact" if jacobian is not None else resolve(self.newton, x)
        slope, past = known
        return Trial(field, t, dt, x, slope, past, kind, weight, tolerance, self.max_newton, factors)


def renewed(law: Law, t: Tensor, x: Tensor, jacobian: Tensor, age: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobians and their ages with those of the samples ``which`` ``(batch,)`` taken at ``x``."""
    if not bool(which.any()):
        return jacobian, age
    _, fresh = velocity_and_jacobian(law, t, x)
    return torch.where(which[:, None, None], fresh, jacobian), torch.where(which, torch.full_like(age, CURRENT), age)


def lagrange(nodes: Sequence[float], theta: Any) -> list[Any]:
    """``L_j(theta)`` of distinct nodes, at a number or a tensor."""
    values = []
    for j, node in enumerate(nodes):
        value: Any = 1.0
        for k, other in enumerate(nodes):
            if k != j:
                value = value * ((theta - other) / (node - other))
        values.append(value)
    return values


def divided(x: Tensor, dt: Any) -> Tensor:
    """``x / dt``, and ``x`` where a sample's step is zero: it has arrived and waits for the others."""
    if torch.is_tensor(dt):
        dt = torch.where(dt == 0, torch.ones_like(dt), dt)
    return x / per_sample(dt, x)


def weighted(weights: Sequence[Any], vectors: Sequence[Tensor]) -> Tensor:
    """``sum_j w_j v_j`` with numbers or per-sample weights ``(batch,)``."""
    total = None
    for weight, vector in zip(weights, vectors, strict=True):
        term = per_sample(weight, vector) * vector
        total = term if total is None else total + term
    assert total is not None
    return total
