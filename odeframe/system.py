"""A controlled system: dynamics whose only unknown is the input, with the costs of an optimal control problem."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe.dynamics import Dynamics
from odeframe.options import check_positive

START = 0.1  # of the input's draw: small, but at an unstable rest an input of exactly zero would have no gradient


class ControlSystem(Dynamics):
    """``x' = f(t, x, u)`` with ``J = Phi(x(T)) + int_0^T L(t, x, u) dt`` to be minimised over the input ``u``.

    It has no weights.  Its one parameter is an input of ``control_size`` components, the shape of the control: an
    open-loop control makes it a function of time, ``u(t)``, and a feedback adds ``pi(t, x)`` to it, sample by sample.
    A drive ``(batch, *state)`` is a disturbance, added to ``dx/dt``.

    Subclasses give :meth:`velocity`, :meth:`lagrangian` and :meth:`terminal_cost`, and :meth:`value` where it is known.

    Args:
        control_size: components of ``u``.
        horizon: ``T``, the length of the interval, from time 0.

    Attributes:
        state_shape: of ``x``, without the batch.
        state_names: of the components of ``x``, for pictures.

    Shapes: ``t`` 0-d or ``(batch,)``, ``x`` ``(batch, *state)``, ``u`` ``(batch, control_size)``.

    Source: Fleming, Rishel 1975, Deterministic and Stochastic Optimal Control, II (the problem of Bolza).
    """

    traits: ClassVar[tuple[str, ...]] = ("control_system",)
    state_shape: tuple[int, ...] = ()
    state_names: tuple[str, ...] = ()

    def __init__(self, control_size: int, horizon: float) -> None:
        super().__init__()
        check_positive(type(self).__name__, horizon=horizon)
        self.control_size, self.horizon = control_size, float(horizon)
        self.u = nn.Parameter(torch.empty(control_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws a small input."""
        nn.init.normal_(self.u, std=START)

    @abstractmethod
    def velocity(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``f``, of the shape of ``x``."""

    @abstractmethod
    def lagrangian(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """``L``, ``(batch,)``."""

    @abstractmethod
    def terminal_cost(self, x: Tensor) -> Tensor:
        """``Phi``, ``(batch,)``."""

    def value(self, t: Tensor, x: Tensor) -> Tensor | None:
        """The value function ``V(t, x)``, ``(batch,)``: the least cost from ``x`` on; ``None`` where it is unknown.

        Of a system that looks at the whole batch it is each sample's share: the mean is that of the population.
        """
        return None

    def input(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """The input under the control, ``(batch, control_size)``."""
        own = self.u.expand(x.shape[0], -1)
        return own if u is None else own + u

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None, drive: Tensor | None = None) -> Tensor:
        """``f(t, x, u)``, and the disturbance."""
        velocity = self.velocity(t, x, self.input(t, x, u))
        return velocity if drive is None else velocity + drive

    def running_cost(self, t: Tensor, x: Tensor, u: Tensor | None = None) -> Tensor:
        """``L(t, x, u)`` under the control, ``(batch,)``."""
        return self.lagrangian(t, x, self.input(t, x, u))
