"""Recurrent cells as dynamics that a sequence drives: one Euler step an item is the recurrence."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from odeframe import Dynamics, Incompatible, InvalidOption
from odeframe.options import check_not_negative
from odeframe_plugins.dynamics.operators import Dense


class Recurrent(Dynamics):
    """``dh/dt = f(h, w)`` on hidden states ``(batch, width)``, driven by items ``w`` ``(batch, inputs)``.

    Args:
        width: size of the hidden state.
        inputs: features of an item.
    """

    traits: ClassVar[tuple[str, ...]] = ("driven",)

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        for option, value in (("width", width), ("inputs", inputs)):
            if value < 1:
                raise InvalidOption(f"dynamics {type(self).__name__}: option {option}: got {value}, expected >= 1")
        self.read = nn.Linear(inputs, width)

    def forward(self, t: Tensor, x: Tensor, u: Tensor | None = None, drive: Tensor | None = None) -> Tensor:
        """``dh/dt``, ``(batch, width)``."""
        if drive is None:
            raise Incompatible(
                f"dynamics {type(self).__name__} is driven by a sequence and got none: use an architecture that makes "
                "one (antisymmetric_rnn), or flow(x0, drive=SequenceDrive(sequence, flow.horizon))"
            )
        return self.rate(x, drive)

    @abstractmethod
    def rate(self, h: Tensor, w: Tensor) -> Tensor:
        """``f(h, w)``, ``(batch, width)``."""


class AntisymmetricCell(Recurrent):
    """``f(h, w) = tanh((W - W^T - gamma I) h + V w + b)``, or with a gate
    ``sigmoid((W - W^T - gamma I) h + V_z w + b_z) * tanh((W - W^T - gamma I) h + V w + b)``.

    The recurrent matrix is shared by gate and value.  The Jacobian in ``h`` has eigenvalues with real parts of at most
    0 without a gate: gradients through a long sequence neither explode nor vanish exponentially for small steps.
    The derivative of ``sigmoid tanh`` is negative where the value is near -1: there a gate turns the shift by ``gamma``
    into growth.

    Args:
        width: size of the hidden state.
        inputs: features of an item.
        gamma: shift of the spectrum to the left, at least 0: forward Euler is stable for
            ``step <= 2 gamma / (omega^2 + gamma^2)``.
        gated: whether the gate stands before the value.

    Source: Chang, Chen, Haber, Chi 2019, AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks,
    (9) and (11).
    """

    def __init__(self, width: int, inputs: int, gamma: float = 0.01, gated: bool = False) -> None:
        super().__init__(width, inputs)
        check_not_negative("dynamics 'antisymmetric_cell'", gamma=gamma)
        self.operator, self.gamma = Dense(width, width), gamma
        self.gate = nn.Linear(inputs, width) if gated else None

    def rate(self, h: Tensor, w: Tensor) -> Tensor:
        """``dh/dt``."""
        turned = self.operator(h) - self.operator.transpose(h) - self.gamma * h
        value = torch.tanh(turned + self.read(w))
        return value if self.gate is None else torch.sigmoid(turned + self.gate(w)) * value


class ElmanCell(Recurrent):
    """``f(h, w) = tanh(W h + V w + b) - h``: Euler's step of length 1 is the plain recurrent network.

    Args:
        width: size of the hidden state.
        inputs: features of an item.

    Source: Elman 1990, Finding Structure in Time.
    """

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__(width, inputs)
        self.operator = Dense(width, width)

    def rate(self, h: Tensor, w: Tensor) -> Tensor:
        """``dh/dt``."""
        return torch.tanh(self.operator(h) + self.read(w)) - h
