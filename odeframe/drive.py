"""Exogenous input w of dx/dt = f(t, x, u; w), defined on intervals like a control."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odeframe.errors import InvalidOption


class Drive(ABC):
    """What reaches the field from outside: a sequence, a control path, an observation, a summary.

    Its tensors are *context* of the steps: they pass through every step map unchanged and get their own costate.
    """

    tensors: tuple[Tensor, ...]

    @abstractmethod
    def on(self, t: Tensor, t_next: Tensor) -> Callable[[Tensor], Tensor]:
        """The input as a function of time between two times that no breakpoint separates."""

    @abstractmethod
    def replace(self, tensors: Sequence[Tensor]) -> Drive:
        """The same drive made from other tensors, in the order of ``tensors``."""

    def breakpoints(self) -> tuple[float, ...]:
        """Times where the input jumps."""
        return ()

    def tensors_on(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, ...]:
        """What the input between two times is made from, the same objects at every call; by default all ``tensors``.

        A gradient that goes through the intervals one by one differentiates these alone.
        """
        return tuple(self.tensors)


class ConstantDrive(Drive):
    """One value for all times, ``(batch, ...)``: a skip to the input, an observation, a summary."""

    def __init__(self, value: Tensor) -> None:
        self.tensors = (value,)

    def on(self, t: Tensor, t_next: Tensor) -> Callable[[Tensor], Tensor]:
        """The value."""
        return lambda time: self.tensors[0]

    def replace(self, tensors: Sequence[Tensor]) -> ConstantDrive:
        """A constant drive of another value."""
        return ConstantDrive(tensors[0])


class SequenceDrive(Drive):
    """A sequence held constant on equal intervals: item k on the k-th of ``length`` parts of the horizon.

    Args:
        sequence: ``(batch, length, ...)``.
        horizon: first and last time.
    """

    def __init__(self, sequence: Tensor, horizon: tuple[float, float] = (0.0, 1.0)) -> None:
        if sequence.dim() < 2 or sequence.shape[1] == 0:
            raise InvalidOption(
                f"a sequence drive has shape (batch, length, ...) with length >= 1, got {tuple(sequence.shape)}"
            )
        self.tensors, self.horizon = (sequence,), (float(horizon[0]), float(horizon[1]))
        self._items = tuple[Tensor, ...]()

    def on(self, t: Tensor, t_next: Tensor) -> Callable[[Tensor], Tensor]:
        """The item of the interval."""
        (item,) = self.tensors_on(t, t_next)
        return lambda time: item

    def tensors_on(self, t: Tensor, t_next: Tensor) -> tuple[Tensor, ...]:
        """The item alone: a gradient of the whole sequence at every item would cost the square of its length."""
        sequence = self.tensors[0]
        if not self._items or self._items[0].requires_grad != sequence.requires_grad:
            with torch.enable_grad():  # with a graph, also where an adjoint makes its laws without one
                self._items = sequence.unbind(1)
        return (self._items[piece_index(t, t_next, self.horizon, sequence.shape[1])],)

    def replace(self, tensors: Sequence[Tensor]) -> SequenceDrive:
        """The same intervals with another sequence."""
        return SequenceDrive(tensors[0], self.horizon)

    def breakpoints(self) -> tuple[float, ...]:
        """The times between items."""
        return equal_breakpoints(self.horizon, self.tensors[0].shape[1])


def piece_index(t: Tensor, t_next: Tensor, horizon: tuple[float, float], pieces: int) -> int:
    """Which of ``pieces`` equal parts of the horizon holds the interval, by its midpoint (safe from round-off)."""
    low, high = (t, t_next) if t.dim() == 0 == t_next.dim() else (t.detach().min(), t_next.detach().max())
    middle = 0.5 * (low.item() + high.item())
    start, end = horizon
    place = (middle - start) / (end - start)
    if not -1e-9 <= place <= 1 + 1e-9:
        raise InvalidOption(
            f"got an interval about t = {middle:g}, outside the horizon {horizon} whose equal parts a control or drive "
            "has; give a drive the horizon of the flow: SequenceDrive(sequence, flow.horizon)"
        )
    return min(max(int(place * pieces), 0), pieces - 1)


@functools.lru_cache(maxsize=64)  # asked for in every solve
def equal_breakpoints(horizon: tuple[float, float], pieces: int) -> tuple[float, ...]:
    """The interior boundaries of ``pieces`` equal parts of the horizon."""
    start, end = horizon
    return tuple(start + (end - start) * (k / pieces) for k in range(1, pieces))


def as_drive(value: Drive | Tensor | None) -> Drive | None:
    """A drive, or a tensor ``(batch, ...)`` held constant in time."""
    if value is None or isinstance(value, Drive):
        return value
    if torch.is_tensor(value):
        return ConstantDrive(value)
    raise InvalidOption(
        f"drive: got {type(value).__name__}, expected a Drive or a tensor (batch, ...) that is constant in time"
    )
