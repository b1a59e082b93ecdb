"""Stochastic depth and shake-shake: networks whose steps are random in training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from odeframe import InvalidOption
from odeframe.flow import Choice
from odeframe.registry import word
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.staged import Staged


class StochasticDepth(Staged):
    """``x_{k+1} = x_k + eta_k h f(x_k, theta_k)``, ``eta_k ~ Bernoulli(p_k)`` for each sample, in training.

    ``p_k = 1 - (k / N)(1 - p_L)`` falls linearly with the depth within a stage; evaluation takes the mean,
    ``x_k + p_k h f``.  A step has mean ``x + p h f`` and variance ``p (1 - p) h^2 f^2``: Euler's step for
    ``dx/dt = p f`` with noise that vanishes with ``h``, not the scheme of a stochastic differential equation; that is
    ``scaling="sde"``.

    Args:
        survival: ``p_L``, the probability that the last block of a stage is there.
        schedule: ``"linear"`` or ``"constant"``.
        scaling: ``"depth"``, ``"inverted"`` or ``"sde"``, as for the solver ``bernoulli_euler``.
        width, blocks, stages, step: as for ``resnet``.

    A word for the solver replaces the first three.

    Source: Huang et al. 2016, Deep Networks with Stochastic Depth, section 3; Lu et al. 2018, Beyond Finite Layer
    Neural Networks, section 3.
    """

    name = "stochastic_depth"
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu", "preactivate": True}

    def __init__(
        self,
        survival: float = 0.5,
        schedule: Literal["linear", "constant"] = "linear",
        scaling: Literal["depth", "inverted", "sde"] = "depth",
        width: int = 16,
        blocks: int = 4,
        stages: int | None = None,
        step: float = 1.0,
    ) -> None:
        super().__init__(width, blocks, stages, step)
        options = {"survival": survival, "schedule": schedule, "scaling": scaling}
        self.scheme: dict[str, Any] = {"name": "bernoulli_euler", **options}
        word("solver", self.scheme).build()  # holds the options against the solver's

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The scheme with these options."""
        return self.scheme if kind == "solver" else super().default(kind, spec)


class ShakeShake(Staged):
    """``x_{k+1} = x_k + h sum_i w_i f_i(x_k)`` with random weights on the simplex for each sample, in training.

    Of two branches ``w = (eta, 1 - eta)``, ``eta ~ U(0, 1)``; evaluation takes their mean.  A step has mean
    ``x + h (f_1 + f_2) / 2`` and variance ``h^2 (f_1 - f_2)^2 / 12``.

    Args:
        branches: how many, at least 2.
        surrogate: draws other weights for the backward pass, as the paper does: no gradient of what was computed.
        width, blocks, stages, step: as for ``resnet``.

    A word for the dynamics replaces ``branches``, one for the solver ``surrogate``.

    Source: Gastaldi 2017, Shake-Shake regularization; Lu et al. 2018, Beyond Finite Layer Neural Networks, section 3.
    """

    name = "shake_shake"
    vector_block: ClassVar[Choice] = "branched_mlp"
    image_block: ClassVar[Choice] = "branched_conv"

    def __init__(
        self,
        branches: int = 2,
        surrogate: bool = False,
        width: int = 16,
        blocks: int = 2,
        stages: int | None = None,
        step: float = 1.0,
    ) -> None:
        super().__init__(width, blocks, stages, step)
        if branches < 2:
            raise InvalidOption(f"{self.named}: option branches: got {branches}, expected at least 2")
        self.branches, self.surrogate = branches, surrogate

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The branches and their mixture."""
        if kind == "solver":
            return {"name": "shake", "surrogate": self.surrogate}
        if kind == "dynamics":
            return {"name": super().default(kind, spec), "branches": self.branches}
        return super().default(kind, spec)
