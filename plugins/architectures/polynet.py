"""PolyNet: a polynomial of residual blocks a step, read as truncated backward Euler."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from odeframe import InvalidOption
from odeframe.flow import Choice
from odeframe.specification import NetworkSpec
from odeframe_plugins.architectures.staged import Staged

Form = Literal["poly2", "poly3", "mpoly2", "mpoly3", "two_way", "three_way", "truncated_backward_euler"]


class PolyNet(Staged):
    """``x_{k+1} = x_k + F(x_k) + F(F(x_k))``, ``F = h f(., theta_k)``, or another polynomial of blocks.

    For a linear block ``poly2`` is ``(I - F)^{-1}``, backward Euler's step, up to ``O(h^3)``, and ``poly3`` up to
    ``O(h^4)``.  For any other block it is no better than forward Euler, and where ``f(0)`` is not zero it is no
    discretisation of ``f``; the form ``truncated_backward_euler`` is one.

    Args:
        form: the solver: ``"poly2"``, ``"poly3"``, ``"mpoly2"`` (``F`` and ``G F``), ``"mpoly3"``, ``"two_way"`` (``F``
            and ``G``), ``"three_way"`` or ``"truncated_backward_euler"``; a word for the solver replaces it.
        width, blocks, stages, step: as for ``resnet``.

    Source: Zhang et al. 2017, PolyNet: A Pursuit of Structural Diversity in Very Deep Networks, section 3; Lu et al.
    2018, Beyond Finite Layer Neural Networks, section 2.
    """

    name = "polynet"
    vector_block: ClassVar[Choice] = {"name": "mlp", "activation": "relu", "preactivate": True}

    def __init__(
        self, form: Form = "poly2", width: int = 16, blocks: int = 2, stages: int | None = None, step: float = 1.0
    ) -> None:
        super().__init__(width, blocks, stages, step)
        if form not in get_args(Form):
            raise InvalidOption(f"{self.named}: option form: got {form!r}, expected one of {', '.join(get_args(Form))}")
        self.form = form

    def default(self, kind: str, spec: NetworkSpec) -> Choice:
        """The form as a solver."""
        return self.form if kind == "solver" else super().default(kind, spec)
