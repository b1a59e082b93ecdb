"""The linear-quadratic problem of a population, each member of which is moved and judged by the mean too."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from odeframe import InvalidOption
from odeframe.options import check_positive
from odeframe.system import ControlSystem
from odeframe_plugins.dynamics.riccati import riccati


class MeanFieldLinearQuadratic(ControlSystem):
    """``x_i' = a x_i + a_mean m + b u_i`` with the mean ``m`` of the batch, and the cost of the whole population.

    ``L_i = (q x_i^2 + q_spread (x_i - m)^2 + r u_i^2) / 2``, ``Phi_i = (s x_i^2 + s_spread (x_i - m)^2) / 2``.  A
    planner minimises the mean over ``i``.  Deviations and mean part: with the Riccati solutions ``P`` of
    ``(a, b, q + q_spread, r, s + s_spread)`` and ``G`` of ``(a + a_mean, b, q, r, s)`` the optimum is
    ``u_i = -(b / r) (P (x_i - m) + G m)``, and ``V = (P Var x + G m^2) / 2``, for any number of members.

    The batch is the population, so that a batch of another size is another problem.

    Args:
        a: how a member moves by itself.
        a_mean: how the mean moves it.
        b: what the input does.
        q: cost of the position.
        q_spread: cost of the distance to the mean.
        r: cost of the input.
        s: terminal cost of the position.
        s_spread: terminal cost of the distance to the mean.
        horizon: ``T``.

    Source: Yong 2013, Linear-Quadratic Optimal Control Problems for Mean-Field SDEs; Carmona, Delarue 2018,
    Probabilistic Theory of Mean Field Games I, 6.7; E, Han, Li 2019, A Mean-Field Optimal Control Formulation of Deep
    Learning.
    """

    traits: ClassVar[tuple[str, ...]] = ("control_system", "mean_field")
    state_names = ("$x$",)
    state_shape = (1,)

    def __init__(
        self,
        a: float = 0.5,
        a_mean: float = 0.3,
        b: float = 1.0,
        q: float = 0.5,
        q_spread: float = 2.0,
        r: float = 1.0,
        s: float = 1.0,
        s_spread: float = 1.0,
        horizon: float = 1.5,
    ) -> None:
        super().__init__(1, horizon)
        check_positive("dynamics 'mean_field_linear_quadratic'", r=r)
        if b == 0 or min(q, q + q_spread, s, s + s_spread) < 0:
            raise InvalidOption(
                "dynamics 'mean_field_linear_quadratic': expected b other than 0, and q, q + q_spread, s and "
                f"s + s_spread >= 0, got b={b}, q={q}, q_spread={q_spread}, s={s}, s_spread={s_spread}"
            )
        self.a, self.a_mean, self.b, self.q, self.q_spread = a, a_mean, b, q, q_spread
        self.r, self.s, self.s_spread = r, s, s_spread

    def velocity(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``a x + a_mean m + b u``."""
        return self.a * x + self.a_mean * x.mean(0, keepdim=True) + self.b * u

    def lagrangian(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``(q x^2 + q_spread (x - m)^2 + r u^2) / 2``."""
        spread = (x - x.mean(0, keepdim=True)).square()
        return 0.5 * (self.q * x.square() + self.q_spread * spread + self.r * u.square()).sum(1)

    def terminal_cost(self, x: Tensor) -> Tensor:
        """``(s x^2 + s_spread (x - m)^2) / 2``."""
        spread = (x - x.mean(0, keepdim=True)).square()
        return 0.5 * (self.s * x.square() + self.s_spread * spread).sum(1)

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        """Each member's share of ``(P Var x + G m^2) / 2``, ``(batch,)``."""
        deviation, whole = (each.to(x) for each in self.riccati(t))
        mean = x.mean(0, keepdim=True)
        return 0.5 * (deviation * (x - mean).square() + whole * mean.square()).sum(1)

    def riccati(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``P(t)`` and ``G(t)``, each like ``t``, or ``(batch, 1)``, in float64."""
        numbers = (
            (self.a, self.q + self.q_spread, self.s + self.s_spread),
            (self.a + self.a_mean, self.q, self.s),
        )
        left = (self.horizon - t).double()
        solved = []
        for drift, cost, final in numbers:
            A, B, Q, R, S = (left.new_full((1, 1), value) for value in (drift, self.b, cost, self.r, final))
            solved.append(riccati(A, B, Q, R, S, left)[..., 0])
        return solved[0], solved[1]
