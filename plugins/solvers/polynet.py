"""Truncated backward Euler: the powers of a block, as in PolyNet, and the nested form that stays a discretisation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from odeframe import InvalidOption, Law, StepSolver
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers.blocks import blocks_of


class _Polynomial(StepSolver):
    """``x + F_1(x) + F_2(F_1(x)) + ...`` (a chain) or ``x + F_1(x) + F_2(x) + ...`` (ways), ``F = h f(t_n, .)``."""

    traits: ClassVar[tuple[str, ...]] = ("step", "partitioned")
    opaque = False  # f is evaluated at h f(x), which is no state: running costs have no meaning there
    terms: ClassVar[int]
    shape: ClassVar[Literal["chain", "ways"]] = "chain"

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One evaluation of each term."""
        laws = blocks_of(field, self.slots) if self.slots > 1 else [field] * self.terms
        total, power = x, x
        for law in laws:
            power = dt * law(t, power if self.shape == "chain" else x)
            total = total + power
        return total, ()


class Poly2(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + F(F(x_n))`` with ``F = h f(t_n, .)``: poly-2.

    For linear ``f`` it is backward Euler's ``(I - F)^{-1}`` up to ``O(h^3)``.  For other ``f`` it has order 1 where
    ``f(t, 0) = 0`` and is no better than forward Euler; where ``f(t, 0) != 0`` (biases) it solves
    ``dx/dt = f(t, x) + f(t, 0)`` instead, so no order is claimed.  ``truncated_backward_euler`` has one.

    Shapes: ``x`` ``(batch, *state)``.

    Source: Zhang et al. 2017, PolyNet: A Pursuit of Structural Diversity in Very Deep Networks, section 3; Lu et al.
    2018, Beyond Finite Layer Neural Networks, section 2.
    """

    terms = 2


class Poly3(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + F(F(x_n)) + F(F(F(x_n)))``: poly-3; linear ``f`` up to ``O(h^4)``, else as ``poly2``.

    Source: Zhang et al. 2017, PolyNet, section 3.
    """

    terms = 3


class MPoly2(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + G(F(x_n))`` with two blocks a step: mpoly-2.

    Source: Zhang et al. 2017, PolyNet, section 3.
    """

    slots = terms = 2


class MPoly3(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + G(F(x_n)) + H(G(F(x_n)))`` with three blocks a step: mpoly-3.

    Source: Zhang et al. 2017, PolyNet, section 3.
    """

    slots = terms = 3


class TwoWay(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + G(x_n)`` with two blocks a step: Euler's step for the sum of two fields.

    Source: Zhang et al. 2017, PolyNet, section 3.
    """

    slots = terms = 2
    shape = "ways"


class ThreeWay(_Polynomial):
    """``x_{n+1} = x_n + F(x_n) + G(x_n) + H(x_n)`` with three blocks a step.

    Source: Zhang et al. 2017, PolyNet, section 3.
    """

    slots = terms = 3
    shape = "ways"


class TruncatedBackwardEuler(StepSolver):
    """Backward Euler by a fixed number of fixed-point iterations: ``y_0 = x_n``, ``y_{k+1} = x_n + h f(t_{n+1}, y_k)``.

    For linear ``f`` the result is ``(I + F + ... + F^m) x_n``, the same polynomial as ``poly2`` and ``poly3``, and it
    is a discretisation of every ``f``: order 1.  It is explicit, and the series converges for ``|F| < 1`` alone: on
    ``x' = -l x`` it is stable for ``h l <= 2, 1, 1.35, 1, 1.21, 1`` with 1 to 6 terms.

    Args:
        terms: ``m``, evaluations a step; 1 is Euler's step with the field of the step's end.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``.

    Source: Lu et al. 2018, Beyond Finite Layer Neural Networks, section 2 (PolyNet as truncated backward Euler).
    """

    traits: ClassVar[tuple[str, ...]] = ("step",)
    order = 1

    def __init__(
        self, terms: int = 2, steps: int | None = None, dt: float | None = None, on_failure: OnFailure = "raise"
    ) -> None:
        super().__init__(steps, dt, on_failure)
        if terms < 1:
            raise InvalidOption(f"solver 'truncated_backward_euler': option terms: got {terms}, expected at least 1")
        self.terms = terms

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``terms`` evaluations at the step's end."""
        y = x
        for _ in range(self.terms):
            y = x + dt * field(t + dt, y)
        return y, ()
