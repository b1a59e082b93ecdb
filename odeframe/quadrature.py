"""Running costs of the state, dq/dt = L(t, x, f), integrated with it and never fed back; costs of the control."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from odeframe.errors import Incompatible, SolveFailed
from odeframe.field import Field, Law
from odeframe.noise import Noise
from odeframe.solution import Status


class Quadrature(ABC):
    """A running cost ``dq/dt = L(t, x, dx/dt)``, ``q(t0) = 0``.

    Attributes:
        name: key in ``Solution.quadratures``.
        weight: its share in the objective ``J``; 0 integrates it without training on it.
        in_error_norm: whether an adaptive solver controls its error too.
        uses_velocity: whether ``L`` looks at ``dx/dt``, which a scheme of second order, or of several blocks a step,
            does not have.
        needs_jacobian: whether ``L`` differentiates the field, so that a graph is needed even under ``no_grad``.
        draws: whether ``L`` has random numbers of each sample, drawn once a solve.
    """

    name: str = "cost"
    weight: float = 0.0
    in_error_norm: bool = True
    needs_jacobian: bool = False
    uses_velocity: bool = True
    draws: bool = False

    @abstractmethod
    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """``L``, shape ``(batch,)``, at state ``x`` with velocity ``dx``, both ``(batch, *state)``."""

    def along(self, law: Law, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """``L`` under the law of an interval: :meth:`rate`, but for a cost that sees the control."""
        return self.rate(t, x, dx)

    def drawn(self, noise: Noise | None, x: Tensor) -> Quadrature:
        """The cost with the random numbers of one solve, for states like ``x``; itself where it has none."""
        return self


class PackedLaw(Law):
    """``d(x, q)/dt`` on one vector ``(batch, D + num_quadratures)``."""

    def __init__(self, inner: Law, field: PackedField) -> None:
        self.inner, self._field = inner, field
        self.t, self.t_next, self.noise = inner.t, inner.t_next, inner.noise
        # What is watched names the number of a sample in the whole batch.
        self.samplewise = inner.samplewise and not (field.watched or any(q.draws for q in field.quadratures))
        self.horizon = inner.horizon

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Those of the inner law."""
        return self.inner.tensors

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """The field and its running costs at one point."""
        x, _ = self._field.unpack(z)
        dx, rates = self._field.rates(self.inner, t, x)
        return torch.cat([columns(dx), rates], dim=1)

    def part(self, name: str, *args: Any) -> Any:
        """Refused: a scheme that asks for parts of the dynamics gets the inner law, by :class:`EndpointRule`."""
        raise Incompatible(
            f"the scheme asks for the part {name!r} of the dynamics but says opaque = True, so running costs were "
            "packed into its state; write opaque = False in the solver's class"
        )

    def stepper(self, solver: Any) -> Any:
        """The driven solver where it treats the state as one vector, else its steps with a rule for the rest."""
        return self.inner.stepper(solver) if solver.opaque else EndpointRule(solver, self._field)


class PackedField(Field):
    """A field together with its quadratures, as one vector that any opaque solver integrates."""

    def __init__(self, inner: Field, quadratures: Sequence[Quadrature], state: torch.Size) -> None:
        self.inner, self.state, self.stats = inner, tuple(state), inner.stats
        self.quadratures = sorted(quadratures, key=lambda q: not q.in_error_norm)  # those in the norm come first
        size = 1
        for length in self.state:
            size *= length
        self.watched = False  # whether costs that are not finite are named, see :func:`blame`
        self._size, self._normed = size, size + sum(q.in_error_norm for q in quadratures)

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The inner law with its running costs."""
        return PackedLaw(self.inner.on(t, t_next, step), self)

    def breakpoints(self) -> tuple[float, ...]:
        """Those of the inner field."""
        return self.inner.breakpoints()

    def cut(self) -> Field:
        """The inner field's."""
        inner = self.inner.cut()
        if inner is self.inner:
            return self
        made = copy.copy(self)
        made.inner = inner
        return made

    def error_norm(self, ratio: Tensor) -> Tensor:
        """Root mean square over the state and the quadratures that ask for it."""
        return super().error_norm(ratio[:, : self._normed])

    def sample_norm(self, ratio: Tensor) -> Tensor:
        """The same over every sample alone."""
        return super().sample_norm(ratio[:, : self._normed])

    def pack(self, x: Tensor) -> Tensor:
        """State and zero quadratures, ``(batch, D + num_quadratures)``."""
        return torch.cat([columns(x), x.new_zeros(x.shape[0], len(self.quadratures))], dim=1)

    def unpack(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` ``(..., batch, *state)`` and ``q`` ``(..., batch, num_quadratures)``."""
        x, q = z.split([self._size, len(self.quadratures)], dim=-1)
        return x.reshape(*z.shape[:-1], *self.state), q

    def stop_rule(self, rule: Callable[[Tensor, Tensor, Any], Tensor]) -> Callable[[Tensor, Tensor, Any], Tensor]:
        """A rule ``(t, x, memory) -> mask`` as one on packed states; the memory stays as the scheme has it."""
        return lambda t, z, memory: rule(t, self.unpack(z)[0], memory)

    def rates(self, law: Law, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """``dx/dt`` and the running costs, ``(batch, num_quadratures)``."""
        dx, rates = self._rates(law, t, x)
        if self.watched:
            self._check(t, x, rates)
        return dx, rates

    def _check(self, t: Tensor, x: Tensor, rates: Tensor) -> None:
        """Raises ``SolveFailed`` with the name of a cost that is not finite where the state is."""
        x, rates = columns(x.detach()), rates.detach()
        finite = torch.isfinite(x).all(1)
        for quadrature, rate in zip(self.quadratures, rates.unbind(1), strict=True):
            bad = finite & ~torch.isfinite(rate)
            if bool(bad.any()):
                sample = int(bad.nonzero()[0])
                time = float(t if t.dim() == 0 else t[sample])
                raise SolveFailed(
                    f"the running cost {quadrature.name!r} is {rate[sample].item()}, and the state is finite there; "
                    "have it return a finite number (clamp before a root, a logarithm or a division)",
                    status=Status.NON_FINITE,
                    t=time,
                    worst_sample=sample,
                )

    def _rates(self, law: Law, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if not any(q.needs_jacobian for q in self.quadratures):
            dx = law(t, x)
            return dx, torch.stack([q.along(law, t, x, dx) for q in self.quadratures], dim=1)
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            dx = law(t, x)
            rates = torch.stack([q.along(law, t, x, dx) for q in self.quadratures], dim=1)
        return (dx, rates) if training else (dx.detach(), rates.detach())


@torch.no_grad()
def blame(failure: SolveFailed, solver: Any, field: PackedField, x0: Tensor, times: Tensor) -> None:
    """Raises in place of a failure one with the name of the cost that made it, where the state alone is solved.

    Args:
        failure: what the solve with its costs raised.
        solver: the flow's.
        field: the field with its costs.
        x0: ``(batch, *state)``.
        times: checked times.

    Raises:
        SolveFailed: from ``failure``, where a cost is to blame.
    """
    x0, times = x0.detach(), times.detach()
    try:
        solver.solve(field.inner, x0, times)
    except SolveFailed:
        return
    field.watched = True
    try:
        solver.solve(field, field.pack(x0), times)
    except SolveFailed as named:
        raise named from failure
    finally:
        field.watched = False


class EndpointRule:
    """Integrates quadratures beside a step solver that treats parts of the state apart.

    ``q += dt/2 (L_0 + L_1)`` for schemes of order <= 2; for higher order Simpson's rule with the midpoint state from
    the cubic Hermite interpolant, ``x_m = (x_0 + x_1)/2 + dt/8 (f_0 - f_1)``, which keeps order 4.
    """

    def __init__(self, solver: Any, field: PackedField) -> None:
        self._solver, self._field = solver, field
        self.simpson = (solver.order or 1) > 2

    def init(self, law: PackedLaw, t: Tensor, z: Tensor) -> Any:
        """The inner starter on the state."""
        x, _ = self._field.unpack(z)
        return law.inner.stepper(self._solver).init(law.inner, t, x)

    def step(self, law: PackedLaw, t: Tensor, dt: Any, z: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The inner step, and the rule on its end points."""
        x0, q = self._field.unpack(z)
        x1, memory = law.inner.stepper(self._solver).step(law.inner, t, dt, x0, memory)
        return torch.cat([columns(x1), q + self.increment(law, t, dt, x0, x1)], dim=1), memory

    def reverse_step(self, law: PackedLaw, t: Tensor, dt: Any, z: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The inner inverse, with the increment taken back."""
        x1, q = self._field.unpack(z)
        x0, memory = law.inner.stepper(self._solver).reverse_step(law.inner, t, dt, x1, memory)
        return torch.cat([columns(x0), q - self.increment(law, t, dt, x0, x1)], dim=1), memory

    def increment(self, law: PackedLaw, t: Tensor, dt: Any, x0: Tensor, x1: Tensor) -> Tensor:
        """The integral of the rates over one step."""
        f0, r0 = self._field.rates(law.inner, t, x0)
        f1, r1 = self._field.rates(law.inner, t + dt, x1)
        if not self.simpson:
            return 0.5 * dt * (r0 + r1)
        middle = 0.5 * (x0 + x1) + dt / 8 * (f0 - f1)
        _, rm = self._field.rates(law.inner, t + 0.5 * dt, middle)
        return dt / 6 * (r0 + 4 * rm + r1)


def columns(x: Tensor) -> Tensor:
    """A state ``(batch, *state)`` as ``(batch, D)``; one of shape ``(batch,)`` is a column."""
    return x.flatten(1) if x.dim() > 1 else x[:, None]


class ControlCost(ABC):
    """A cost of the control itself, added to the objective once, not for each sample: weight decay, smoothness.

    Attributes:
        name: what it is called in messages.
        weight: its share in the objective ``J``.
    """

    name: str = "control_cost"
    weight: float = 0.0

    @abstractmethod
    def __call__(self, control: nn.Module) -> Tensor:
        """The cost without its weight, a 0-d tensor, of a flow's control."""
