"""Leapfrog for second-order flows: the field is a force."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

from torch import Tensor

from odeframe import Field, InvalidOption, Law, ReversibleSolver
from odeframe.grid import Grid
from odeframe.solver import Memory


class Leapfrog(ReversibleSolver):
    """``x'' = f(t, x)``, ``x'(t_0) = 0``, by ``x_{n+1} = 2 x_n - x_{n-1} + h^2 f(t_n, x_n)``; order 2, reversible.

    What the dynamics return is read as a force (``SecondOrderDynamics``): the same block makes a parabolic network with
    ``euler`` and a hyperbolic one with ``leapfrog``.  The first step is ``x_1 = x_0 + h^2 f(t_0, x_0) / 2``, which
    keeps order 2 (``x_{-1} = x_0`` would lose it).  The memory is the velocity at the half step, ``(batch, *state)``:
    ``v_{n+1/2} = v_{n-1/2} + h f(t_n, x_n)``, ``x_{n+1} = x_n + h v_{n+1/2}``; it is carried across jumps of the
    control, and the order holds within pieces.  Running costs see the force in the place of ``dx/dt``.

    On ``x'' = -omega^2 x`` stable for ``h omega < 2``; a force with eigenvalues off the negative real axis grows.

    Raises:
        InvalidOption: steps of different lengths, since the velocity lies between the nodes.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 3; Ruthotto, Haber 2020, Deep
    Neural Networks Motivated by Partial Differential Equations (the hyperbolic network).
    """

    order = 2
    traits: ClassVar[tuple[str, ...]] = ("step", "reversible", "second_order")
    opaque: ClassVar[bool] = False

    def grid(self, field: Field, times: Tensor) -> Grid:
        """Equal steps, or an error."""
        grid = super().grid(field, times)
        lengths = [abs(float(b - a)) for a, b in itertools.pairwise(node.detach() for node in grid.nodes)]
        if lengths and max(lengths) - min(lengths) > 1e-9 * max(lengths):
            raise InvalidOption(
                f"solver 'leapfrog' takes equal steps: got lengths from {min(lengths):g} to {max(lengths):g}; choose "
                "steps so that every output time is a node"
            )
        return grid

    def init(self, field: Law, t: Tensor, x: Tensor) -> Memory:
        """``v_{-1/2} = -h f_0 / 2``, so that the velocity at the first time is zero."""
        return (-0.5 * (field.t_next - t) * field(t, x),)

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Kick, then drift."""
        velocity = memory[0] + dt * field(t, x)
        return x + dt * velocity, (velocity,)

    def reverse_step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Drift back, then kick back."""
        before = x - dt * memory[0]
        return before, (memory[0] - dt * field(t, before),)
