"""How d loss / d control is had from a solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from odeframe.field import Field
from odeframe.solution import Solution
from odeframe.solver import Solver, StopRule


class Gradient(ABC):
    """Wraps a solve so that a backward pass through its states gives the gradient.

    Quadratures ride in the state that a gradient sees, so a running cost needs nothing of its own.
    """

    traits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """``solver.solve(field, x0, times, stop)`` with this gradient attached to states, ``x0`` and field."""
