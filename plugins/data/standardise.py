"""Scaling to mean 0 and standard deviation 1 by the training rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odeframe.errors import DataError

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling:
    """The affine map ``z = (x - mean) / std``, column by column.

    Attributes:
        mean: shape ``(columns,)``, in the column's unit.
        std: shape ``(columns,)``, in the column's unit; 1 for a column that is constant on the fitted rows.
        constant: which columns were constant, shape ``(columns,)``, bool.
    """

    mean: np.ndarray
    std: np.ndarray
    constant: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, names: Sequence[str]) -> Scaling:
        """The scaling that training rows ask for; population standard deviation.

        Args:
            values: shape ``(n, columns)``.
            names: the columns' names, for the message.

        Raises:
            DataError: where a column is too large for its standard deviation to be a float64.
        """
        # max == min and not std == 0: rounding of the mean leaves a constant column a std of about 1e-17.
        constant = values.max(0) == values.min(0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = values.mean(0), values.std(0)
        if not math.isfinite(float(std.sum())):
            worst = int(np.abs(values).max(0).argmax())
            raise DataError(
                f"column {names[worst]!r}: got values up to {np.abs(values[:, worst]).max():.3g}, expected "
                "numbers whose squares fit a float64; rescale the column"
            )
        return cls(mean, np.where(constant, 1.0, std), constant)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardised values, shape ``(n, columns)``, float64."""
        return (values - self.mean) / self.std

    def invert(self, scaled: np.ndarray) -> np.ndarray:
        """Values in their own units again, shape ``(n, columns)``."""
        return scaled * self.std + self.mean
