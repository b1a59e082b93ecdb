"""Weights that are a combination of functions of depth: what piecewise-linear and Galerkin controls share."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from odeframe import Control, Incompatible, InvalidOption
from odeframe.block import Block, empty, fresh_copy
from odeframe.control import ControlLaw, FunctionalLaw, check_factor
from odeframe.drive import equal_breakpoints, piece_index
from odeframe_plugins.controls.bases import Basis, transfer

Init = Literal["reset", "copy"]


class BasisControl(Control):
    """``theta(t) = sum_j phi_j(s) C_j``, ``s`` the share of the horizon that has passed; ``C_j`` shaped like the block.

    Only the functions that do not vanish on an interval are combined, and only their coefficients are what the law of
    the interval depends on: a step costs the same whatever the number of pieces.  One parameter a coefficient, so
    no gradient of the size of all of them is ever made.

    Subclasses choose the basis.
    """

    traits: ClassVar[tuple[str, ...]] = ("open_loop", "tied", "time_varying")
    word: ClassVar[str]
    basis: Basis

    def __init__(self, init: Init) -> None:
        super().__init__()
        if init not in ("reset", "copy"):
            raise InvalidOption(f"control {self.word!r}: option init: got {init!r}, expected 'reset' or 'copy'")
        self._init = init
        self.coefficients = nn.ModuleList()

    @abstractmethod
    def choose(self, steps: int | None) -> Basis:
        """The basis, for a solver with that many equal steps (``None``: it chooses them itself)."""

    def build(self, block: Block, steps: int | None) -> None:
        """Draws the coefficients and empties the block."""
        self.basis = self.choose(steps)
        fresh = [fresh_copy(block) if self._init == "reset" else None for _ in range(self.basis.count - 1)]
        values = empty(block)
        self._block, self._names = block, list(values)
        drawn = [values, *(values if twin is None else dict(twin.named_parameters()) for twin in fresh)]
        self.coefficients.extend(
            nn.ParameterList(value[name].detach() * self.share(j) for name in self._names)
            for j, value in enumerate(drawn)
        )

    def share(self, j: int) -> float:
        """What the draw of coefficient ``j`` is multiplied by at first."""
        return 1.0 if self.basis.nodal or j == 0 else 0.0 if self._init == "copy" else 1.0 / (j + 1)

    @property
    def block(self) -> Block:
        """The empty block."""
        return self._block

    @property
    def nodal(self) -> bool:
        """Whether bounds on the parameters are bounds on the weights at all times."""
        return self.basis.nodal

    @property
    def pieces(self) -> int:
        """The parts of the horizon between kinks."""
        return self.basis.pieces

    def breakpoints(self) -> tuple[float, ...]:
        """The times between pieces: a derivative of the weights jumps there, which lowers a scheme's order."""
        return equal_breakpoints(self.horizon, self.basis.pieces)

    def on(self, t: Tensor, t_next: Tensor) -> ControlLaw:
        """The combination on an interval."""
        piece = piece_index(t, t_next, self.horizon, self.basis.pieces)
        active = [self.coefficients[i] for i in self.basis.active(piece)]
        return FunctionalLaw(self._block, functools.partial(self.values, piece, active), nn.ModuleList(active), t)

    def values(self, piece: int, active: list[Any], t: Tensor) -> dict[str, Tensor]:
        """The parameters at a time, by name."""
        weights = self.basis.weights(share_of(t, self.horizon, self.word), piece)
        columns = zip(*active, strict=True)
        return {name: combined(weights, column) for name, column in zip(self._names, columns, strict=True)}

    def refine(self, factor: int) -> None:
        """The same function in a basis with ``factor`` times as many pieces, or functions."""
        check_factor(factor, f"control {self.word!r}: refine")
        self.change(self.basis.refined(factor))

    def coarsen(self, factor: int) -> None:
        """The nearest function, in least squares over depth, with ``factor`` times fewer pieces, or functions."""
        check_factor(factor, f"control {self.word!r}: coarsen")
        basis = self.basis.coarsened(factor)
        if basis is None:
            parts = f"{self.basis.pieces} pieces" if self.basis.pieces > 1 else f"{self.basis.count} basis functions"
            raise InvalidOption(f"control {self.word!r}: coarsen: got factor {factor}, expected a divisor of {parts}")
        self.change(basis)

    def change(self, basis: Basis) -> None:
        """Takes up another basis, with the coefficients of the nearest function."""
        matrix, old = transfer(self.basis, basis), [list(values) for values in self.coefficients]  # type: ignore[call-overload]
        with torch.no_grad():
            stacked = [torch.stack([v.detach() for v in column]) for column in zip(*old, strict=True)]
            mapped = [torch.tensordot(matrix.to(v.device), v.double(), dims=1).to(v.dtype) for v in stacked]
        self.basis = basis
        self.coefficients = nn.ModuleList(
            nn.ParameterList(column[j].clone() for column in mapped) for j in range(basis.count)
        )


def share_of(t: Tensor, horizon: tuple[float, float], word: str) -> Any:
    """``(t - t0) / (T - t0)``: a number, or a 0-d tensor where ``t`` carries a gradient.

    Raises:
        Incompatible: samples have times of their own.
    """
    if t.dim():
        raise Incompatible(
            f"control {word!r}: got times of shape {tuple(t.shape)}, one a sample, but the weights at a time are one "
            "set for the whole batch; write per_sample=False, or control='constant' or 'piecewise_constant'"
        )
    time = t if t.requires_grad or torch.compiler.is_compiling() else t.item()
    return (time - horizon[0]) / (horizon[1] - horizon[0])


def combined(weights: list[Any], values: Any) -> Tensor:
    """``sum_j weights_j values_j``."""
    total: Any = None
    for weight, value in zip(weights, values, strict=True):
        if torch.is_tensor(weight):
            term = weight.to(value) * value
            total = term if total is None else total + term
        else:
            total = weight * value if total is None else torch.add(total, value, alpha=weight)
    return total
