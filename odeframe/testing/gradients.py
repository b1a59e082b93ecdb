"""What every gradient must do, as a base class for pytest."""

from __future__ import annotations

from odeframe.testing.derivatives import DerivativeChecks
from odeframe.testing.surroundings import SurroundingChecks


class GradientConformance(DerivativeChecks, SurroundingChecks):
    """Set ``gradient`` to a word, a class, or a function that takes options; ``solvers`` where it needs special ones.

    A gradient with the trait ``"exact"`` is that of the steps that were taken, so it is held against differences of the
    same steps; one of the differential equation agrees with them up to the solver's error, so solvers are fine here:
    32 steps of order 4, or tolerances of 1e-10.

    Example:
        >>> from odeframe.testing import GradientConformance
        >>> class TestMine(GradientConformance):
        ...     gradient = "adjoint"
    """
