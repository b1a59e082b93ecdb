"""What data sets of handwritten digits share: splits, scale, and shapes."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import limited, split_rows, tensor_sets

__all__ = ["Handwritten"]


class Handwritten(DataModule):
    """Square images of the digits 0 to 9, labels int64, split 70/10/20, stratified, seed 0.

    Pixels are given as ``(pixel - mean) / std`` with one mean and one standard deviation over all pixels of the whole
    training split, so that ``limit`` does not move them.

    Attributes:
        word: the registry word.
        side: pixels a side.
        mean: of the training split's pixels.
        std: their standard deviation.
        white: the greatest number of a pixel in the file; the least is 0.
    """

    word: ClassVar[str]
    side: ClassVar[int]
    mean: ClassVar[float]
    std: ClassVar[float]
    white: ClassVar[float]

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, flat: bool = False, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.flat, self.limit = flat, limit

    @abstractmethod
    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels ``(samples, side^2)`` and labels ``(samples,)``, as they are in the file."""

    def specify(self) -> DataSpec:
        """Ten classes, ``(1, side, side)`` or flat."""
        return DataSpec(
            name=self.word,
            input_shape=(self.side**2,) if self.flat else (1, self.side, self.side),
            target="class",
            num_classes=10,
            task="classification",
            class_names=tuple("0123456789"),
            input_range=(-self.mean / self.std, (self.white - self.mean) / self.std),
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        pixels, labels = self.read()
        parts = split_rows(len(labels), labels=labels, name=self.word)
        parts["train"] = limited(self.word, parts["train"], self.limit)
        images = (pixels - self.mean) / self.std
        return tensor_sets(self.shaped(images), labels, parts)

    def shaped(self, images: np.ndarray) -> np.ndarray:
        """Pixels ``(samples, side^2)`` as samples ``(samples, *input_shape)``."""
        return images.reshape(-1, *self.spec.input_shape)
