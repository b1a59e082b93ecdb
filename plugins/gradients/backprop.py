"""Discretise, then optimise: the gradient of the steps that were taken."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from odeframe import Field, Gradient, Solution, Solver
from odeframe.solver import StopRule


class Backprop(Gradient):
    """Autograd through every step; exact for the discrete flow, memory O(steps)."""

    traits: ClassVar[tuple[str, ...]] = ("exact", "sharded")

    def solve(self, solver: Solver, field: Field, x0: Tensor, times: Any, stop: StopRule | None = None) -> Solution:
        """The plain solve; a backward pass counts one derivative for each evaluation."""
        solution = solver.solve(field, x0, times, stop)
        stats, evaluations = solution.stats, solution.stats.nfe

        def count(gradient: Tensor) -> None:
            stats.nfe_backward += evaluations

        if solution.states.requires_grad:
            solution.states.register_hook(count)
        return solution
