"""What data sets of handwritten digits share: splits, scale, and shapes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.errors import InvalidOption
from odeframe.noise import Noise, sample_numbers
from odeframe.specification import DataSpec
from odeframe_plugins.data.shifted import drawn_shifts, shifted
from odeframe_plugins.data.splits import limited, split_rows, tensor_sets

__all__ = ["Handwritten"]

NOISE_SEED = 0
"""Of the noise that makes grey levels continuous, as the splits' seed is 0."""


class Handwritten(DataModule):
    """Square images of the digits 0 to 9, labels int64, split 70/10/20, stratified, seed 0.

    Pixels are given as ``(pixel - mean) / std`` with one mean and one standard deviation over all pixels of the whole
    training split, so that ``limit`` does not move them.

    ``dequantise`` adds to each pixel a number that is uniform on (0, 1), a function of a seed, of the image's place in
    the file and of the draw.  A density ``p`` of such inputs bounds the probability ``P`` of an image of grey levels:
    ``log P >= E log p + d log quantum``, where ``quantum = 1 / std`` is a grey level in the unit of the inputs.

    ``shift`` moves each image of a training batch by a whole number of pixels, at most so many up or down and to either
    side, black where nothing was; a function of the order's seed, the batch and the place in it, so that a resumed fit
    moves as the whole one would.  Validation and test images stay.

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
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        flat: bool = False,
        limit: int | None = None,
        dequantise: int = 0,
        shift: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if dequantise < 0:
            raise InvalidOption(
                f"data {self.word!r}, option dequantise: got {dequantise}, expected 0 for grey levels as they are, or "
                "how many times each training image is in the set, each time with other noise"
            )
        if not 0 <= shift < self.side:
            raise InvalidOption(
                f"data {self.word!r}, option shift: got {shift}, expected a number of pixels from 0 to {self.side - 1}"
            )
        if shift and dequantise:
            raise InvalidOption(
                f"data {self.word!r}, option shift: got {shift} beside dequantise: {dequantise}, whose noise a border "
                "of black pixels would not have; leave out one of them"
            )
        self.flat, self.limit, self.dequantise, self.shift = flat, limit, dequantise, shift

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
            input_range=(-self.mean / self.std, (self.white + bool(self.dequantise) - self.mean) / self.std),
            quantum=1 / self.std if self.dequantise else None,
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        pixels, labels = self.read()
        parts = split_rows(len(labels), labels=labels, name=self.word)
        parts["train"] = limited(self.word, parts["train"], self.limit)
        if not self.dequantise:
            return tensor_sets(self.shaped((pixels - self.mean) / self.std), labels, parts)
        copies = {split: self.dequantise if split == "train" else 1 for split in parts}
        sets: dict[str, Dataset] = {}
        for split, rows in parts.items():
            noisy = np.concatenate([pixels[rows] + uniform(rows, self.side**2, k) for k in range(copies[split])])
            place = {split: np.arange(len(noisy))}
            sets |= tensor_sets(
                self.shaped((noisy - self.mean) / self.std), np.tile(labels[rows], copies[split]), place
            )
        return sets

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The batch, its images moved where it is one to train on."""
        if not self.shift or self.trainer is None or not self.trainer.training:
            return batch
        x, *rest = batch
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready  # of batches before this one
        shifts = drawn_shifts(x, self.shift, Noise(self._order or 0, sample_numbers(x)).on(number))
        images = x.reshape(-1, self.side, self.side)
        return [shifted(images, shifts, -self.mean / self.std).reshape(x.shape), *rest]

    def shaped(self, images: np.ndarray) -> np.ndarray:
        """Pixels ``(samples, side^2)`` as samples ``(samples, *input_shape)``."""
        return images.reshape(-1, *self.spec.input_shape)


def uniform(rows: np.ndarray, size: int, draw: int) -> np.ndarray:
    """Numbers on (0, 1), ``(rows, size)``, of the rows of a file: the same whatever other rows are asked for."""
    noise = Noise(NOISE_SEED, torch.as_tensor(rows)).on(draw)
    return noise.uniform(torch.empty(len(rows), dtype=torch.float64), (size,)).numpy()
