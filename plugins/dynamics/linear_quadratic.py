"""The linear-quadratic problem, and the double integrator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from odeframe import InvalidOption
from odeframe.options import check_not_negative
from odeframe.system import ControlSystem
from odeframe_plugins.dynamics.riccati import quadratic, riccati

Matrix = Sequence[Sequence[float]]


class LinearQuadratic(ControlSystem):
    """``x' = A x + B u``, ``L = (x^T Q x + u^T R u) / 2``, ``Phi = x^T S x / 2``.

    The optimum is the feedback ``u = -K(t) x``, ``K = R^{-1} B^T P``, with the Riccati matrix ``P``; the value function
    is ``V = x^T P(t) x / 2``.  By default an inverted pendulum about its upper rest, ``x = (angle, speed)``, on a
    horizon over which a disturbance grows sevenfold if nothing answers it.

    Args:
        A: ``(n, n)``, by rows.
        B: ``(n, m)``.
        Q: ``(n, n)``, symmetric positive semi-definite; default the identity.
        R: ``(m, m)``, symmetric positive definite; default the identity.
        S: ``(n, n)``, as ``Q``; default the identity.
        horizon: ``T``.

    Source: Kalman 1960, Contributions to the Theory of Optimal Control; Anderson, Moore 1990, 2.3.
    """

    traits: ClassVar[tuple[str, ...]] = ("control_system",)
    state_shape = (2,)  # of the default matrices
    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor
    S: Tensor

    def __init__(
        self,
        A: Matrix = ((0.0, 1.0), (1.0, 0.0)),
        B: Matrix = ((0.0,), (1.0,)),
        Q: Matrix | None = None,
        R: Matrix | None = None,
        S: Matrix | None = None,
        horizon: float = 2.0,
    ) -> None:
        n, m = len(A), len(B[0]) if len(B) and isinstance(B[0], Sequence) else 0
        super().__init__(max(m, 1), horizon)
        sizes = {"A": (n, n), "B": (n, m), "Q": (n, n), "R": (m, m), "S": (n, n)}
        for name, given in {"A": A, "B": B, "Q": Q, "R": R, "S": S}.items():
            rows, columns = sizes[name]
            value = torch.eye(rows) if given is None else _matrix(name, given)
            if value.shape != (rows, columns) or 0 in value.shape:
                raise InvalidOption(
                    f"dynamics 'linear_quadratic': option {name}: got the shape {tuple(value.shape)}, expected "
                    f"{(rows, columns)}, with A (n, n) and B (n, m)"
                )
            if name in ("Q", "R", "S"):
                _check_definite(name, value, strictly=name == "R")
            self.register_buffer(name, value)
        self.state_shape = (n,)
        self.state_names = tuple(f"$x_{i + 1}$" for i in range(n))

    def velocity(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``A x + B u``."""
        return x @ self.A.mT + u @ self.B.mT

    def lagrangian(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``(x^T Q x + u^T R u) / 2``."""
        return quadratic(self.Q, x) + quadratic(self.R, u)

    def terminal_cost(self, x: Tensor) -> Tensor:
        """``x^T S x / 2``."""
        return quadratic(self.S, x)

    def value(self, t: Tensor, x: Tensor) -> Tensor:
        """``x^T P(t) x / 2``."""
        return quadratic(self.riccati(t).to(x), x)

    def riccati(self, t: Tensor) -> Tensor:
        """``P(t)``, ``(n, n)`` or ``(batch, n, n)``, in float64."""
        return riccati(self.A, self.B, self.Q, self.R, self.S, self.horizon - t)

    def gain(self, t: Tensor) -> Tensor:
        """``K(t) = R^{-1} B^T P(t)``, ``(m, n)``, in float64: the optimal input is ``-K x``."""
        return torch.linalg.solve(self.R.double(), self.B.double().mT @ self.riccati(t))


class DoubleIntegrator(LinearQuadratic):
    """``position'' = u``, brought to rest at 0 by the least energy: ``L = u^2 / 2``, ``Phi = weight |x|^2 / 2``.

    As ``weight`` grows, the least cost from ``(p, v)`` tends to ``6 p^2 / T^3 + 6 p v / T^2 + 2 v^2 / T``, that of the
    transfer which ends at rest exactly.

    Args:
        weight: of the terminal cost.
        horizon: ``T``.

    Source: Bryson, Ho 1975, Applied Optimal Control, 5.3.
    """

    def __init__(self, weight: float = 100.0, horizon: float = 1.0) -> None:
        check_not_negative("dynamics 'double_integrator'", weight=weight)
        zero, final = ((0.0, 0.0), (0.0, 0.0)), ((weight, 0.0), (0.0, weight))
        super().__init__(((0.0, 1.0), (0.0, 0.0)), ((0.0,), (1.0,)), zero, None, final, horizon)
        self.state_names = ("position", "velocity")


def _matrix(name: str, rows: Matrix) -> Tensor:
    try:
        return torch.tensor([list(row) for row in rows], dtype=torch.get_default_dtype())
    except (TypeError, ValueError) as error:
        raise InvalidOption(
            f"dynamics 'linear_quadratic': option {name}: got {rows!r}, expected rows of equal length: "
            "[[0.0, 1.0], [1.0, 0.0]]"
        ) from error


def _check_definite(name: str, value: Tensor, strictly: bool) -> None:
    least = float(torch.linalg.eigvalsh(value.double()).min()) if torch.allclose(value, value.mT) else -1.0
    if least < (1e-12 if strictly else -1e-9):
        kind = "definite" if strictly else "semi-definite"
        raise InvalidOption(
            f"dynamics 'linear_quadratic': option {name}: got {value.tolist()}, expected symmetric positive {kind}"
        )
