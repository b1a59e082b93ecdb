"""Reversible."""

from odeframe.testing import SolverConformance


class TestReversibleMidpoint(SolverConformance):
    solver = "reversible_midpoint"
    test_exact_on_polynomials = None


class TestALF(SolverConformance):
    solver = "alf"


class TestDampedALF(SolverConformance):
    solver = {"name": "alf", "damping": 0.8}  # noqa: RUF012


class TestRestartedALF(SolverConformance):
    solver = {"name": "alf", "restart": "breakpoints"}  # noqa: RUF012


class TestReversibleHeun(SolverConformance):
    solver = "reversible_heun"
