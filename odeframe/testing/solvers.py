"""What every solver must do, as a base class for pytest."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from odeframe.adaptive import AdaptiveSolver
from odeframe.registry import registered
from odeframe.solver import ReversibleSolver, StepSolver
from odeframe.testing.accuracy import AccuracyChecks
from odeframe.testing.contract import ContractChecks
from odeframe.testing.orders import OrderChecks
from odeframe.testing.problems import Decay
from odeframe.testing.stepwise import StepChecks


class SolverConformance(OrderChecks, AccuracyChecks, ContractChecks, StepChecks):
    """Set ``solver`` to a word, a class, or a function that takes options; ``order`` where the class declares none.

    Which checks apply follows from what the solver is: a step solver is held against the rules of step maps, an
    adaptive one against its tolerances, an order is checked where one is claimed.

    Example:
        >>> from odeframe.testing import SolverConformance
        >>> class TestRK4(SolverConformance):
        ...     solver = "rk4"
    """

    @staticmethod
    def implied_traits() -> Mapping[type, str]:
        """Step, adaptive and reversible solvers are found by these words."""
        return {StepSolver: "step", AdaptiveSolver: "adaptive", ReversibleSolver: "reversible"}

    def test_needs_are_declared(self) -> None:
        """A scheme that asks for parts of the dynamics says so where it is registered: else any field will do."""
        component = registered("solver", self.part)
        if component is None or any(need.startswith("dynamics:") for need in component.part.needs):
            return
        flow, x0 = self.flow(Decay(4), steps=4), torch.ones(3, 4, dtype=torch.float64, device=self.device)
        try:
            flow(x0)
        except AttributeError as error:
            pytest.fail(
                f"the scheme asks for a part of the dynamics ({error}), and the plugin's table does not say which; add "
                "e.g. needs = ('dynamics:separable',)"
            )
