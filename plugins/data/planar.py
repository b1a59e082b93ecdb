"""Classes of points in the plane, drawn anew: what such data sets share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import InvalidOption
from odeframe.options import check_not_negative
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_sizes, tensor_sets

__all__ = ["Planar"]


class Planar(DataModule):
    """Points ``(2,)`` of several classes.

    Training, validation and test are three draws of their own, of 70, 10 and 20 % of ``n`` points.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 10 a class.
        noise: standard deviation of the normal noise on each coordinate.
        seed: seed of the three draws, 0 or more.

    Attributes:
        word: the registry word.
        class_names: one a class.

    Raises:
        InvalidOption: where an option is outside its range.
    """

    word: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]

    def __init__(self, batch_size: int = 64, num_workers: int = 0, n: int = 1000, noise: float = 0.1, seed: int = 0):
        super().__init__(batch_size, num_workers)
        least = 10 * len(self.class_names)
        if n < least:
            raise InvalidOption(
                f"data {self.word!r}, option n: got {n}, expected {least} or more, for every class in each split"
            )
        check_not_negative(f"data {self.word!r}", noise=noise)
        if seed < 0:
            raise InvalidOption(f"data {self.word!r}, option seed: got {seed}, expected an integer >= 0")
        self.n, self.noise, self.seed = n, noise, seed

    def specify(self) -> DataSpec:
        """Classes in the plane."""
        return DataSpec(
            name=self.word,
            input_shape=(2,),
            target="class",
            num_classes=len(self.class_names),
            task="classification",
            class_names=self.class_names,
        )

    @abstractmethod
    def draw(self, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Points ``(size, 2)`` with their noise, and labels ``(size,)``."""

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        seeds = np.random.SeedSequence(self.seed).generate_state(len(SPLITS))
        sets: dict[str, Dataset] = {}
        for split, size, seed in zip(SPLITS, split_sizes(self.n), seeds, strict=True):
            points, labels = self.draw(size, int(seed))
            sets |= tensor_sets(points, labels, {split: np.arange(size)})
        return sets
