"""Controls whose weights obey a constraint, around any open-loop control: one shape for stored and computed weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from odeframe import Control, InvalidOption
from odeframe.block import Block
from odeframe.control import ControlLaw, FunctionalLaw
from odeframe.network import offer
from odeframe.registry import word


class Constrained(Control):
    """``theta(t) = g(phi(t))`` with the open-loop control ``phi`` underneath and a map ``g`` of each weight matrix.

    Matrices and kernels of the dynamics are mapped, biases, norms and the solver's coefficients are not.  The trained
    parameters are those of ``phi``.  A subclass gives ``g``, and may say which parameters it is for.

    Args:
        of: a word for the control underneath.
        pieces: passed on to it, where it takes it.
    """

    word: ClassVar[str]
    traits: ClassVar[tuple[str, ...]] = ("constrained",)
    ordered: ClassVar[bool] = False
    """Whether ``g`` asks for the sign or the order of weights, which complex ones do not have."""

    def __init__(self, of: Any = "constant", pieces: int | None = None) -> None:
        super().__init__()
        self.of = of
        self.inner: Control = offer(word("control", of), **({} if pieces is None else {"pieces": pieces}))
        inherited = getattr(self.inner, "traits", ())
        if "closed_loop" in inherited:
            raise InvalidOption(
                f"control {self.word!r}: constrains the weights of an open-loop control, got a feedback; write it the "
                f"other way round: {{name: feedback, of: {self.word}}}"
            )
        self.traits = tuple(dict.fromkeys((*type(self).traits, *inherited)))  # type: ignore[misc]

    @abstractmethod
    def constrain(self, value: Tensor) -> Tensor:
        """``g``: a parameter from the one underneath, of its shape."""

    def applies_to(self, value: Tensor) -> bool:
        """Whether ``g`` applies to a parameter of the dynamics: to matrices ``(out, in)`` and kernels."""
        return value.dim() >= 2

    def build(self, block: Block, steps: int | None) -> None:
        """Attaches the control underneath."""
        self._names = [
            name
            for name, value in block.named_parameters()
            if value.requires_grad and not name.startswith("solver.") and self.applies_to(value)
        ]
        if not self._names:
            raise InvalidOption(
                f"control {self.word!r}: none of the parameters of {type(block.slots[0]).__name__} is one that it "
                f"constrains; write control={self.of!r}"
            )
        wrong = [name for name in self._names if self.ordered and block.get_parameter(name).is_complex()]
        if wrong:
            raise InvalidOption(
                f"control {self.word!r}: got complex weights ({wrong[0].removeprefix('slots.0.')}), expected real "
                "ones, which have a sign and an order; write control='spectral_norm' or 'antisymmetric', or a real "
                "field on torch.view_as_real(x)"
            )
        self.inner.attach(block, self.horizon, steps)
        self.project()

    @property
    def block(self) -> Block:
        """That of the control underneath."""
        return self.inner.block

    @property
    def pieces(self) -> int:
        """Those of the control underneath."""
        return self.inner.pieces

    @property
    def nodal(self) -> bool:
        """A box around this control is not a box around its weights."""
        return False

    def breakpoints(self) -> tuple[float, ...]:
        """Those of the control underneath."""
        return self.inner.breakpoints()

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The law underneath with its parameters mapped."""
        law = self.inner.on(t, t_next)

        def mapped(time: Tensor) -> dict[str, Tensor]:
            values = law.parameters(time)
            return {**values, **{name: self.constrain(values[name]) for name in self._names}}

        return FunctionalLaw(law.block, mapped, law.module, t, law.steady)

    @property
    def refinable(self) -> bool:
        """As the control underneath."""
        return self.inner.refinable

    def refine(self, factor: int) -> None:
        """Refines the control underneath."""
        self.inner.refine(factor)

    def coarsen(self, factor: int) -> None:
        """Coarsens the control underneath."""
        self.inner.coarsen(factor)

    def project(self) -> None:
        """Projects the control underneath."""
        self.inner.project()
