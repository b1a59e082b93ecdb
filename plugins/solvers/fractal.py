"""Fractal steps: columns of ever finer Euler steps, joined by their mean wherever they meet."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from odeframe import InvalidOption, Law, StepSolver
from odeframe.solver import Memory, OnFailure
from odeframe_plugins.solvers.blocks import blocks_of


class Fractal(StepSolver):
    """One step through ``C`` columns; column ``j = 0 .. C-1`` takes ``2^j`` Euler steps of length ``h / 2^j``.

    Columns that end at the same time are joined by the mean of those that are active, and all columns that start there
    start from it.  This is FractalNet's rule ``f_1 = unit, f_{C+1}(z) = mean(unit(z), f_C(f_C(z)))`` with neighbouring
    joins merged and the identity written out, ``unit(z) = z + h_j f(t, z)``: ``2^C - 1`` blocks, depth ``2^(C-1)``.
    Each column alone, and their mean, is a discretisation of ``x' = f`` where the blocks are equal, of order 1; other
    weights make it a Runge-Kutta method (two columns with blocks ``0, 2 f, 2 f`` are Heun's, order 2).

    Drop-path, in training: ``"local"`` drops each input of a join with probability ``drop``, but never all of them;
    ``"global"`` leaves one column, the same at all steps; ``"mixed"`` is global for half of the samples and local for
    the others.  Every sample draws its own, keyed by (seed, sample, step).

    Args:
        columns: ``C``.
        drop_path: ``"none"``, ``"local"``, ``"global"`` or ``"mixed"``.
        drop: probability of a local drop.
        column: use this column alone, 0 (the shallowest) to ``C - 1``; the attribute may be set on a trained flow,
            ``flow.solver.column = 2``, and back to ``None``.
        steps, dt, on_failure: as for every step solver.

    Shapes: ``x`` ``(batch, *state)``.

    Source: Larsson, Maire, Shakhnarovich 2017, FractalNet: Ultra-Deep Neural Networks without Residuals, sections 2
    and 3; Lu et al. 2018, Beyond Finite Layer Neural Networks, section 2 (as a Runge-Kutta method).
    """

    opaque = False

    def __init__(
        self,
        columns: int = 3,
        drop_path: Literal["none", "local", "global", "mixed"] = "none",
        drop: float = 0.15,
        column: int | None = None,
        steps: int | None = None,
        dt: float | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(steps, dt, on_failure)
        if not 1 <= columns <= 12:
            raise InvalidOption(f"solver 'fractal': option columns: got {columns}, expected 1 to 12 (2^C - 1 blocks)")
        if drop_path not in ("none", "local", "global", "mixed"):
            raise InvalidOption(
                f"solver 'fractal': option drop_path: got {drop_path!r}, expected 'none', 'local', 'global' or 'mixed'"
            )
        if not 0 <= drop < 1:
            raise InvalidOption(f"solver 'fractal': option drop: got {drop}, expected 0 <= drop < 1")
        self.columns, self.drop_path, self.drop, self.slots = columns, drop_path, drop, 2**columns - 1
        draws = () if drop_path == "none" else ("stochastic",)  # as the table declares for these values
        self.traits = ("step", "partitioned", *draws)
        self.column = column

    @property
    def column(self) -> int | None:
        """The one column in use, or ``None`` for all."""
        return self._column

    @column.setter
    def column(self, column: int | None) -> None:
        if column is not None and not 0 <= column < self.columns:
            raise InvalidOption(
                f"solver 'fractal': option column: got {column}, expected 0 to {self.columns - 1}, or None for all"
            )
        self._column = column

    def step(self, field: Law, t: Tensor, dt: Any, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Row by row: the columns that end at each of ``2^(C-1)`` equal parts of the step, and their join."""
        laws, rows = blocks_of(field, self.slots), 2 ** (self.columns - 1)
        chosen = None if self._column is not None else self.chosen_columns(field, x)
        joined = {0: x}
        for row in range(1, rows + 1):
            ends = {}
            for j in self.ending(row):
                span = rows >> j
                start, length = row - span, dt / 2**j
                law = laws[2**j - 1 + start // span]
                ends[j] = joined[start] + length * law(t + (start // span) * length, joined[start])
            if ends:
                joined[row] = self.join(field, ends, row, chosen)
        return joined[rows], ()

    def ending(self, row: int) -> list[int]:
        """The columns in use that end at a row, the shallowest first."""
        rows = 2 ** (self.columns - 1)
        return [j for j in range(self.columns) if row % (rows >> j) == 0 and self._column in (None, j)]

    def chosen_columns(self, field: Law, x: Tensor) -> Tensor | None:
        """The column that global drop-path leaves each sample, -1 where it has local drop-path, ``(batch,)``."""
        if field.noise is None or self.drop_path not in ("global", "mixed"):
            return None
        draws = field.noise.shared.uniform(x.new_empty(x.shape[0], dtype=torch.float64), (2,))
        column = (draws[:, 0] * self.columns).long().clamp(max=self.columns - 1)
        return column if self.drop_path == "global" else torch.where(draws[:, 1] < 0.5, column, -1)

    def join(self, field: Law, ends: dict[int, Tensor], row: int, chosen: Tensor | None) -> Tensor:
        """The mean of the active columns; of all that end here, where drop-path leaves none of them."""
        like = next(iter(ends.values()))
        if len(ends) == 1:
            return like
        values = torch.stack(list(ends.values()), dim=1)
        if field.noise is None or self.drop_path == "none":
            return values.mean(1)
        draws = field.noise.uniform(like.new_empty(like.shape[0], dtype=torch.float64), (len(ends),), stream=row)
        active = (draws >= self.drop) | (draws == draws.amax(1, keepdim=True))
        if chosen is not None:
            alone = chosen[:, None] == torch.tensor(list(ends), device=chosen.device)
            alone = alone | ~alone.any(1, keepdim=True)
            active = torch.where(chosen[:, None] >= 0, alone, active)
        mask = active.reshape(*active.shape, *[1] * (like.dim() - 1))
        total = torch.where(mask, values, torch.zeros_like(values)).sum(1)
        return total / mask.sum(1).to(like.real.dtype)
