"""What a solver sees: the dynamics with control, drive and noise inserted, one law an interval."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from odeframe.errors import Incompatible, InvalidOption
from odeframe.noise import StepNoise
from odeframe.solution import Stats

if TYPE_CHECKING:
    from odeframe.control import Control, ControlLaw
    from odeframe.drive import Drive
    from odeframe.noise import Noise

State = tuple[Tensor, tuple[Tensor, ...]]


class Law(ABC):
    """``dx/dt = law(t, x)`` on one interval ``[t, t_next]``, where the control has no jump.

    Attributes:
        t: first time of the interval.
        t_next: last time of the interval.
        tensors: what the law depends on besides ``t`` and ``x``; an adjoint integrates these alone.
        noise: the draws of this step, or ``None`` where the flow is deterministic (evaluation).
        horizon: first and last time of the flow, of which this is a part; ``None`` where nobody said.
        samplewise: whether the law of some of the samples is the law itself on their states: it has no data for each
            sample and nothing that joins them.
    """

    t: Tensor
    t_next: Tensor
    tensors: tuple[Tensor, ...] = ()
    noise: StepNoise | None = None
    horizon: tuple[float, float] | None = None
    samplewise: bool = False

    @abstractmethod
    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """``dx/dt``, of the shape of ``x``."""

    def part(self, name: str, *args: Any) -> Any:
        """A named part of the dynamics, e.g. ``law.part("first", t, z)`` of a separable system."""
        raise Incompatible(
            f"the scheme asks for the part {name!r} of the dynamics, and a bare function has none; use a Dynamics "
            "subclass that has it (odeframe.SeparableDynamics, BranchedDynamics, SemilinearDynamics)"
        )

    def observe(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """What a method ``(t, x, u)`` of the dynamics says under the control; no part of ``dx/dt``, and not counted."""
        raise Incompatible(f"a running cost asks the dynamics for {name!r}, and a bare function has none; use a Flow")

    @property
    def slots(self) -> Sequence[Law]:
        """One law for each block that a step uses; a scheme with ``slots = 1`` needs only the law itself."""
        return (self,)

    def stepper(self, solver: Any) -> Any:
        """The solver whose trainable coefficients are those of this interval."""
        return solver

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """Itself: a law is a field restricted to an interval."""
        return self


class Field(ABC):
    """A right-hand side for every interval, and the times that no step may straddle."""

    stats: Stats

    @abstractmethod
    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The law between two times; ``step`` counts steps from the first time and keys the noise."""

    def breakpoints(self) -> tuple[float, ...]:
        """Times where the law jumps."""
        return ()

    def cut(self) -> Field:
        """The same field without the graph that made its drive: a derivative of a law ends at ``law.tensors``.

        Where a drive was computed from the weights that the field depends on too, a derivative that goes on past the
        drive would count those weights twice.
        """
        return self

    def taken(self, index: int, t: Any, dt: Any, before: State, after: State) -> None:
        """Told of every step that a solve took; nothing to do, unless somebody watches.

        Args:
            index: of the law: the step's number on a grid, that of the piece with adaptive steps.
            t: where the step began.
            dt: its signed length.
            before: ``(x, memory)`` that the step was given.
            after: ``(x, memory)`` that it returned.
        """
        return

    def error_norm(self, ratio: Tensor) -> Tensor:
        """Root mean square of error / tolerance over everything: one step size serves the whole batch."""
        return torch.linalg.vector_norm(ratio) / max(ratio.numel(), 1) ** 0.5

    def sample_norm(self, ratio: Tensor) -> Tensor:
        """The same over every sample alone, ``(batch,)``, for steps that each sample chooses."""
        flat = ratio.reshape(ratio.shape[0], -1)
        return torch.linalg.vector_norm(flat, dim=1) / max(flat.shape[1], 1) ** 0.5


class FunctionLaw(Law):
    """A bare function as a law."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...], stats: Stats) -> None:
        self._function, self.tensors, self._stats = function, tensors, stats

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """``function(t, x)``, counted."""
        self._stats.nfe += 1
        return same_shape(self._function(t, x), x, "the field")


def same_shape(dx: Any, x: Tensor, what: str) -> Tensor:
    """``dx`` where it has the shape of the state; anything else would be broadcast to a wrong result in silence.

    What autocast computed in bfloat16 or float16 comes back as float32, so that differences of stages keep its digits.
    """
    if not isinstance(dx, Tensor) or dx.shape != x.shape or dx.device != x.device:
        if isinstance(dx, Tensor) and dx.device != x.device:
            raise InvalidOption(f"{what} returned a tensor on {dx.device} for a state on {x.device}; move one of them")
        got = f"shape {tuple(dx.shape)}" if isinstance(dx, Tensor) else type(dx).__name__
        raise InvalidOption(f"{what} returned {got} for a state of shape {tuple(x.shape)}; dx/dt has the state's shape")
    return dx.to(x.dtype) if dx.dtype != x.dtype and half_in_autocast(dx) else dx


def half_in_autocast(x: Tensor) -> bool:
    """Whether a tensor has the few digits that autocast computes with, which are too few to add up steps in."""
    return x.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(x.device.type)


class FunctionField(Field):
    """A function ``f(t, x)`` of time and state, the same for all times."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        breakpoints: Sequence[float] = (),
        horizon: tuple[float, float] | None = None,
    ) -> None:
        tensors = tuple(function.parameters()) if isinstance(function, nn.Module) else ()
        self.stats, self._breakpoints, self._horizon = Stats(), tuple(breakpoints), horizon
        self._law = FunctionLaw(function, tensors, self.stats)

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """The function on an interval."""
        law = FunctionLaw(self._law._function, self._law.tensors, self.stats)
        law.t, law.t_next, law.horizon = t, t_next, self._horizon
        return law

    def breakpoints(self) -> tuple[float, ...]:
        """The times given."""
        return self._breakpoints


class FlowLaw(Law):
    """The dynamics under the control, drive and noise of one interval."""

    def __init__(
        self,
        control: ControlLaw,
        interval: tuple[Tensor, Tensor],
        drive: Callable[[Tensor], Tensor] | None,
        noise: StepNoise | None,
        context: tuple[Tensor, ...],
        stats: Stats,
        slot: int = 0,
    ) -> None:
        self.control, self.noise, self._context = control, noise, context
        self.t, self.t_next = interval
        self._drive, self._stats, self._slot, self._forward = drive, stats, slot, control.forward(slot)
        self.samplewise = drive is None

    @property
    def tensors(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Those of the control and of the drive, looked up when asked for: most steps do not ask."""
        return tuple(self.control.tensors) + self._context

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """``f(t, x, u)`` with the drive's value as keyword ``drive``."""
        self._stats.nfe += 1
        dx = self._forward(t, x) if self._drive is None else self._forward(t, x, drive=self._drive(t))
        return same_shape(dx, x, "the dynamics")

    def part(self, name: str, *args: Any) -> Any:
        """A named part of the dynamics, counted as one call; a drive has no way into it and is refused."""
        if self._drive is not None:
            raise Incompatible(
                f"the scheme asks for the part {name!r} of the dynamics, and parts take no drive; use a solver that "
                "treats the state as one vector, e.g. solver='rk4'"
            )
        self._stats.nfe += 1
        return self.control.call(self._slot, name, *args)

    def observe(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """A method of the dynamics under the control; a drive has no say in it."""
        return self.control.call(self._slot, name, t, x)

    @property
    def slots(self) -> Sequence[Law]:
        """One law for each slot of the control."""
        interval = (self.t, self.t_next)
        laws = [
            FlowLaw(self.control, interval, self._drive, self.noise, self._context, self._stats, slot)
            for slot in range(self.control.num_slots)
        ]
        for law in laws:
            law.horizon = self.horizon
        return laws

    def under(self, control: ControlLaw) -> FlowLaw:
        """The same law under another control."""
        made = copy.copy(self)
        made.control, made._forward = control, control.forward(self._slot)
        return made

    def stepper(self, solver: Any) -> Any:
        """The solver with the coefficients that the control has here."""
        return self.control.stepper(solver)


class FlowField(Field):
    """Dynamics with control, drive and noise inserted.

    Args:
        control: attached to the dynamics.
        drive: exogenous input.
        noise: source of the draws of each step, ``None`` in evaluation.
    """

    def __init__(self, control: Control, drive: Drive | None = None, noise: Noise | None = None) -> None:
        self.control, self.drive, self.noise, self.stats = control, drive, noise, Stats()

    def on(self, t: Tensor, t_next: Tensor, step: int = 0) -> Law:
        """Control, drive and noise of one interval."""
        drive = None
        context: tuple[Tensor, ...] = ()
        if self.drive is not None:
            drive, context = self.drive.on(t, t_next), self.drive.tensors_on(t, t_next)
        noise = None if self.noise is None else self.noise.on(step)
        law = FlowLaw(self.control.on(t, t_next), (t, t_next), drive, noise, context, self.stats)
        law.horizon = self.control.horizon
        return law

    def breakpoints(self) -> tuple[float, ...]:
        """Jumps of the control and of the drive, in order."""
        own = tuple(self.control.breakpoints())
        return merge_times(own if self.drive is None else own + tuple(self.drive.breakpoints()))

    def cut(self) -> Field:
        """The drive made from leaves."""
        if self.drive is None or not any(tensor.requires_grad for tensor in self.drive.tensors):
            return self
        made = copy.copy(self)
        made.drive = self.drive.replace([v.detach().requires_grad_(v.requires_grad) for v in self.drive.tensors])
        return made


@functools.lru_cache(maxsize=32)  # those of a network are the same in every solve
def merge_times(times: tuple[float, ...], tolerance: float = 1e-12) -> tuple[float, ...]:
    """Sorted times without those that differ from their neighbour by round-off alone."""
    merged: list[float] = []
    for time in sorted(times):
        if not merged or time - merged[-1] > tolerance * max(1.0, abs(time)):
            merged.append(time)
    return tuple(merged)


def per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A time or step for arithmetic with a state: ``(batch,)`` gets trailing axes, a number or 0-d passes through."""
    if isinstance(value, Tensor) and value.dim() == 1:
        return value.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
    return value
