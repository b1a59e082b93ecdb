"""Two interleaved half circles."""

from __future__ import annotations

import math

import numpy as np
from sklearn.datasets import make_moons
from torch.utils.data import Dataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_sizes, tensor_sets

__all__ = ["TwoMoons"]


class TwoMoons(DataModule):
    """Two classes of noisy points ``(2,)``, on half circles that interlock.

    The circles are ``(cos a, sin a)`` and ``(1 - cos a, 1/2 - sin a)`` for a in [0, pi].
    Training, validation and test are three draws of their own, of 70, 10 and 20 % of ``n`` points. Within a
    draw the angles are equally spaced, the noise alone is random; coordinates are not rescaled.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 20.
        noise: standard deviation of the normal noise on each coordinate, in units of the circles' radius.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: where an option is outside its range.

    Source:
        scikit-learn's ``make_moons``.
    """

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, n: int = 1000, noise: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers)
        if n < 20:
            raise InvalidOption(
                f"data 'two_moons', option n: got {n}, expected 20 or more, for both classes in each split"
            )
        if not (math.isfinite(noise) and noise >= 0):
            raise InvalidOption(f"data 'two_moons', option noise: got {noise}, expected a finite number >= 0")
        if seed < 0:
            raise InvalidOption(f"data 'two_moons', option seed: got {seed}, expected an integer >= 0")
        self.n, self.noise, self.seed = n, noise, seed

    def specify(self) -> DataSpec:
        """Two classes in the plane."""
        return DataSpec(
            name="two_moons",
            input_shape=(2,),
            target="class",
            num_classes=2,
            task="classification",
            class_names=("upper", "lower"),
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        seeds = np.random.SeedSequence(self.seed).generate_state(len(SPLITS))
        sets: dict[str, Dataset] = {}
        for split, size, seed in zip(SPLITS, split_sizes(self.n), seeds, strict=True):
            points, labels = make_moons(size, noise=self.noise, random_state=int(seed))
            sets |= tensor_sets(points, labels, {split: np.arange(size)})
        return sets
