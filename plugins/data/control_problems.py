"""Initial states of the library's optimal control problems."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch.utils.data import Dataset, TensorDataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import InvalidOption
from odeframe.options import check_not_negative
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_sizes

__all__ = ["DoubleIntegrator", "InitialStates", "LinearQuadratic", "MeanFieldLinearQuadratic", "PendulumSwingUp"]


class InitialStates(DataModule):
    """``x0 = centre + spread xi``, ``xi`` standard normal: one start, or disturbed ones.

    Training, validation and test are three draws of their own, of 70, 10 and 20 % of ``n`` states.  There is no target:
    the task is ``control``, of the dynamics of the same name.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: states altogether, at least 10.
        spread: standard deviation of each component; 0 for one start.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: an option is outside its range.
    """

    word: ClassVar[str]
    centre: ClassVar[tuple[float, ...]]

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, n: int = 640, spread: float = 0.3, seed: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers)
        if n < 10:
            raise InvalidOption(f"data {self.word!r}, option n: got {n}, expected 10 or more, for three sets")
        check_not_negative(f"data {self.word!r}", spread=spread)
        if seed < 0:
            raise InvalidOption(f"data {self.word!r}, option seed: got {seed}, expected an integer >= 0")
        self.n, self.spread, self.seed = n, spread, seed

    def specify(self) -> DataSpec:
        """Starts of the dynamics of the same name."""
        return DataSpec(name=self.word, input_shape=(len(self.centre),), task="control", dynamics=self.word)

    def load(self) -> dict[str, Dataset]:
        """The three sets, each ``(n, state)``."""
        generator = torch.Generator().manual_seed(self.seed)
        sets: dict[str, Dataset] = {}
        for split, size in zip(SPLITS, split_sizes(self.n), strict=True):
            disturbance = torch.randn(size, len(self.centre), generator=generator)
            sets[split] = TensorDataset(torch.tensor(self.centre) + self.spread * disturbance)
        return sets


class LinearQuadratic(InitialStates):
    """Starts of an inverted pendulum about its upper rest: angle 1, speed 0, disturbed."""

    word, centre = "linear_quadratic", (1.0, 0.0)


class DoubleIntegrator(InitialStates):
    """Starts of a mass to be brought to rest at 0: position 1, velocity 0, disturbed."""

    word, centre = "double_integrator", (1.0, 0.0)


class PendulumSwingUp(InitialStates):
    """Starts of a hanging pendulum: angle pi, speed 0, disturbed."""

    word, centre = "pendulum_swing_up", (math.pi, 0.0)

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, n: int = 640, spread: float = 0.05, seed: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers, n, spread, seed)


class MeanFieldLinearQuadratic(InitialStates):
    """A population on the line, of mean 1 and standard deviation 0.5; a batch is the population."""

    word, centre = "mean_field_linear_quadratic", (1.0,)

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, n: int = 640, spread: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers, n, spread, seed)
