"""Symplectic splitting schemes for separable dynamics: each moves one half of the state at a time."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from odeframe import InvalidOption, Law, ReversibleSolver, SeparableDynamics
from odeframe.compiled import Compile
from odeframe.solver import Memory, OnFailure

Starts = Literal["first", "second"]


class Splitting(ReversibleSolver):
    """A composition of shears of ``y' = F(t, z)``, ``z' = G(t, y)``; a subclass lists its moves.

    ``y += a h F(t + c h, z)`` and ``z += b h G(t + c h, y)`` in turn.  Every shear is undone exactly by its negative,
    whatever ``F`` and ``G`` are, and is symplectic where they are the gradients of a Hamiltonian.  ``x`` is
    ``(batch, 2 n, ...)``, its halves along dimension 1.

    Args:
        steps: equal steps from the first to the last time.
        dt: step length instead.
        starts: which half moves first: ``"first"`` is ``y``, ``"second"`` is ``z``.
        on_failure: as for every solver.
        compile: as for every solver.

    Source: Hairer, Lubich, Wanner 2006, Geometric Numerical Integration, II.5 and VI.3.
    """

    traits: ClassVar[tuple[str, ...]] = ("step", "reversible", "partitioned", "symplectic")
    opaque: ClassVar[bool] = False
    #: ``(half, length, node)``: half 0 starts; lengths and the times ``c`` in units of the step
    moves: ClassVar[tuple[tuple[int, float, float], ...]] = ()

    def __init__(
        self,
        steps: int | None = None,
        dt: float | None = None,
        starts: Starts = "first",
        on_failure: OnFailure = "raise",
        compile: Compile = False,
    ) -> None:
        super().__init__(steps, dt, on_failure, compile)
        if starts not in ("first", "second"):
            raise InvalidOption(
                f"solver {type(self).__name__}: option starts: got {starts!r}, expected 'first' or 'second'"
            )
        self.starts = starts

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        sums = [sum(length for half, length, _ in cls.moves if half == which) for which in (0, 1)]
        if max(abs(total - 1) for total in sums) > 1e-14 or not all(0 <= node <= 1 for *_, node in cls.moves):
            raise TypeError(
                f"{cls.__name__}: the moves of each half add up to one step, at nodes within it, got {cls.moves}"
            )

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """All moves in turn."""
        return self.moved(field, t, dt, x, 1.0), ()

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """All moves taken back, the last one first."""
        return self.moved(field, t, dt, x, -1.0), ()

    def moved(self, field: Law, t: Tensor, dt: Any, x: Tensor, sign: float) -> Tensor:
        """The state after all moves, or before them where the sign is negative."""
        halves = list(SeparableDynamics.split(x))
        for half, length, node in self.moves if sign > 0 else reversed(self.moves):
            mover = half if self.starts == "first" else 1 - half
            rate = field.part(("first", "second")[mover], t + node * dt, halves[1 - mover])
            halves[mover] = halves[mover] + sign * length * dt * rate
        return torch.cat(halves, dim=1)


class SymplecticEuler(Splitting):
    """``y += h F(t, z)``, ``z += h G(t + h, y)``: order 1, RevNet's coupling.

    ``starts="second"`` moves ``z`` first.  On the oscillator stable for ``|h omega| < 2``.

    Source: Hairer, Lubich, Wanner 2006, I.1; Gomez et al. 2017, The Reversible Residual Network.
    """

    order = 1
    moves = ((0, 1.0, 0.0), (1, 1.0, 1.0))


def strang(*lengths: float) -> tuple[tuple[int, float, float], ...]:
    """The moves of Strang splittings one after the other, each with its time at its middle."""
    moves, start = [], 0.0
    for length in lengths:
        middle = start + length / 2
        moves += [(0, length / 2, middle), (1, length, middle), (0, length / 2, middle)]
        start += length
    return tuple(moves)


class Verlet(Splitting):
    """Stoermer-Verlet (Strang splitting): half a move of ``y``, a move of ``z``, half a move of ``y``; order 2.

    All at the time ``t + h/2``.  Symmetric: a step back is the step with ``-h``.  On the oscillator stable for
    ``|h omega| < 2``.

    Source: Hairer, Lubich, Wanner 2003, Geometric numerical integration illustrated by the Stoermer-Verlet method.
    """

    order = 2
    moves = strang(1.0)


_OUTER = 1 / (2 - 2 ** (1 / 3))


class Yoshida4(Splitting):
    """Three Stoermer-Verlet steps of lengths ``w h, (1 - 2 w) h, w h``, ``w = 1 / (2 - 2^(1/3))``: order 4.

    The middle one goes back.  Each takes time at its own middle, so that no evaluation leaves the step.

    Source: Yoshida 1990, Construction of higher order symplectic integrators.
    """

    order = 4
    moves = strang(_OUTER, 1 - 2 * _OUTER, _OUTER)
