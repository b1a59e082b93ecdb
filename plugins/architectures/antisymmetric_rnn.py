"""The antisymmetric recurrent network: a flow of the hidden state that a sequence drives."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.drive import SequenceDrive
from odeframe.flow import Choice
from odeframe.network import Parts
from odeframe.options import check_not_negative, check_positive
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures import stages


class Reader(nn.Module):
    """A sequence ``(batch, length, features)`` to ``(h(0), drive)``: a state at rest, and what will drive it."""

    def __init__(self, width: int, horizon: tuple[float, float]) -> None:
        super().__init__()
        self.width, self.horizon = width, horizon

    def forward(self, x: Tensor) -> tuple[Tensor, SequenceDrive]:
        """``h(0) = 0`` ``(batch, width)``, and item k on the k-th of ``length`` intervals."""
        return x.new_zeros(x.shape[0], self.width), SequenceDrive(x, self.horizon)


class AntisymmetricRNN(Architecture):
    """``h_k = h_{k-1} + step tanh((W - W^T - gamma I) h_{k-1} + V w_k + b)``: forward Euler, a step an item.

    One set of weights for all times; a linear head reads the last state.  ``dynamics: elman_cell`` with ``step=1`` is
    the plain recurrent network.

    Args:
        width: size of the hidden state.
        step: length of Euler's step.
        gamma: shift of the spectrum to the left, at least 0.
        gated: whether a gate stands before the value; a word for the dynamics replaces both.

    Source: Chang, Chen, Haber, Chi 2019, AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "input_shapes": ((5, 2),),
        "solvers": ({"name": "rk4", "steps": 5}, "dopri5"),
    }
    defaults: ClassVar[dict[str, Choice]] = {"control": "constant", "solver": "euler"}

    def __init__(self, width: int = 64, step: float = 0.05, gamma: float = 0.01, gated: bool = False) -> None:
        if width < 1:
            raise InvalidOption(f"architecture 'antisymmetric_rnn': option width: got {width}, expected at least 1")
        check_positive("architecture 'antisymmetric_rnn'", step=step)
        check_not_negative("architecture 'antisymmetric_rnn'", gamma=gamma)
        self.width, self.step, self.gamma, self.gated = width, step, gamma, gated

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The antisymmetric cell."""
        if kind == "dynamics":
            return {"name": "antisymmetric_cell", "gamma": self.gamma, "gated": self.gated}
        return super().default(kind, spec)

    def state_trait(self, spec: NetworkSpec) -> str:
        """The hidden state is a vector; samples that are no sequences are refused."""
        if len(spec.input_shape) != 2:
            raise InvalidOption(
                f"architecture 'antisymmetric_rnn' takes sequences (length, features), got samples of shape "
                f"{spec.input_shape}; data digits_rows has them"
            )
        return "vector"

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Reader, one flow with a step an item, a linear head."""
        length, features = spec.input_shape
        horizon = (0.0, length * self.step)
        return Network(
            {
                "stem": Reader(self.width, horizon),
                "flow": parts.flow(horizon, steps=length, width=self.width, inputs=features),
                "head": nn.Sequential(
                    nn.Linear(self.width, stages.size(spec.output_shape)), stages.Reshape(spec.output_shape)
                ),
            }
        )
