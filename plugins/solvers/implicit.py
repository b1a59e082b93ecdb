"""Implicit one-step methods on a grid: Euler, trapezoid, midpoint."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from odeframe import InvalidOption, Law, ReversibleSolver, SolveFailed, Status, StepSolver
from odeframe.field import per_sample
from odeframe.quadrature import columns
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers.implicit_function import check_state, solve_stages
from odeframe_plugins.solvers.newton import Kind, corrector_for, iterate, resolve
from odeframe_plugins.solvers.stages import Coupling, StageSystem

KINDS = ("auto", "exact", "krylov", "anderson")


class ImplicitStep(StepSolver):
    """A step that solves one equation ``z = dt a f(t + c dt, r + z)``; subclasses say which.

    Gradients come from the implicit function theorem, at the cost of one more evaluation a step.

    Args:
        steps: see :class:`odeframe.StepSolver`.
        dt: see there.
        newton: ``"exact"``: Jacobians of every sample, taken anew where convergence is slow; ``"krylov"``: matrix-free
            Newton with GMRES; ``"anderson"``: accelerated fixed point, without derivatives; ``"auto"``: exact up to 128
            components a sample, else krylov.
        newton_tol: relative error at which the iteration stops; default 100 machine epsilons.
        max_newton: corrections a step.
        on_failure: see :class:`odeframe.Solver`.

    Raises:
        SolveFailed: the iteration did not converge; the step is too long for it.
    """

    coupling: ClassVar[Coupling]

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        newton: Kind = "auto",
        newton_tol: float | None = None,
        max_newton: int = 50,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        check_newton(type(self).__name__, newton, newton_tol, max_newton)
        self.newton, self.newton_tol, self.max_newton = newton, newton_tol, max_newton

    def stage(self, field: Law, t: Tensor, dt: Any, base: Tensor) -> Tensor:
        """The increment ``z`` ``(batch, *state)`` over ``base``."""
        check_state(type(self).__name__, base)
        if base.numel() == 0:
            return torch.zeros_like(base)
        system, kind = StageSystem(field, t, dt, base[:, None], self.coupling), resolve(self.newton, base)
        tolerance = self.newton_tol or 100 * torch.finfo(base.dtype).eps
        tiny, flat = torch.finfo(base.dtype).tiny, columns(base.detach())

        def size(delta: Tensor, z: Tensor) -> Tensor:
            scale = torch.maximum(flat.abs().amax(1), columns(z + delta).abs().amax(1))
            return columns(delta).square().mean(1).sqrt() / scale.clamp_min(tiny)

        corrector = corrector_for(kind, system, None, 1e-4)
        start = torch.zeros_like(base.detach())[:, None]
        z, outcome = solve_stages(
            system, lambda: iterate(corrector, start, size, tolerance, self.max_newton, patient=True), kind
        )
        if not outcome.converged.all():
            wrong = int((~outcome.converged).argmax())
            moment, length = (float(torch.as_tensor(v).detach().expand(base.shape[0])[wrong]) for v in (t, dt))
            raise SolveFailed(status=Status.NEWTON_FAILED, t=moment, dt=length, worst_sample=wrong)
        return z[:, 0]


def check_newton(name: str, newton: str, newton_tol: float | None, max_newton: int) -> None:
    """Refuses options of the iteration that cannot be.

    Raises:
        InvalidOption: naming the option.
    """
    if newton not in KINDS:
        raise InvalidOption(f"solver {name}: option newton: got {newton!r}, expected one of {', '.join(KINDS)}")
    if newton_tol is not None and not 0 < newton_tol < 1:
        raise InvalidOption(f"solver {name}: option newton_tol: got {newton_tol}, expected a number between 0 and 1")
    if max_newton < 2:
        raise InvalidOption(f"solver {name}: option max_newton: got {max_newton}, expected at least 2")


class ImplicitEuler(ImplicitStep):
    """``x_{n+1} = x_n + dt f(t_{n+1}, x_{n+1})``, order 1, ``R(z) = 1 / (1 - z)``: L-stable, monotone, damping.

    Source: Hairer, Wanner 1996, IV.3.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "implicit")
    order, coupling = 1, Coupling([[1.0]], [1.0])

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``x + z``."""
        return x + self.stage(field, t, dt, x), ()


class Trapezoid(ImplicitStep, ReversibleSolver):
    """``x_{n+1} = x_n + dt/2 (f(t_n, x_n) + f(t_{n+1}, x_{n+1}))``, order 2, ``R(z) = (1 + z/2) / (1 - z/2)``.

    A-stable with ``|R(inf)| = 1``: stiff components oscillate and are not damped.  Symmetric: a step with ``-dt``
    undoes it, exactly but for the iteration's tolerance.

    Source: Hairer, Wanner 1996, IV.3; Hairer, Lubich, Wanner 2006, II.3 (symmetric methods).
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "implicit", "reversible")
    order, coupling = 2, Coupling([[0.5]], [1.0])

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Half a step of forward Euler, half a step of backward Euler."""
        base = x + 0.5 * per_sample(dt, x) * field(t, x)
        return base + self.stage(field, t, dt, base), ()

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The step from ``t + dt`` by ``-dt``."""
        return self.step(field, t + dt, -dt, x, ())


class ImplicitMidpoint(ImplicitStep, ReversibleSolver):
    """``x_{n+1} = x_n + dt f(t_n + dt/2, (x_n + x_{n+1}) / 2)``, order 2, ``R(z) = (1 + z/2) / (1 - z/2)``.

    A-stable with ``|R(inf)| = 1``.  Symplectic, and so it keeps every quadratic invariant; symmetric: a step with
    ``-dt`` undoes it, exactly but for the iteration's tolerance.

    Source: Hairer, Lubich, Wanner 2006, IV.2 (quadratic invariants), VI.4 (symplecticity), II.3 (symmetry).
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "implicit", "symplectic", "reversible")
    order, coupling = 2, Coupling([[0.5]], [0.5])

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The middle is ``x + z``, the end ``x + 2 z``."""
        return x + 2 * self.stage(field, t, dt, x), ()

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """The step from ``t + dt`` by ``-dt``."""
        return self.step(field, t + dt, -dt, x, ())
