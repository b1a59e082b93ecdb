"""Symplectic."""

from odeframe.testing import SolverConformance


class TestSymplecticEuler(SolverConformance):
    solver = "symplectic_euler"


class TestSymplecticEulerSecond(SolverConformance):
    solver = {"name": "symplectic_euler", "starts": "second"}  # noqa: RUF012


class TestVerlet(SolverConformance):
    solver = "verlet"


class TestYoshida4(SolverConformance):
    solver = "yoshida4"
