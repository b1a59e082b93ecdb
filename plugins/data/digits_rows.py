"""The digits as sequences, pixel by pixel, with noise after them."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.digits import Digits

__all__ = ["DigitsRows"]


class DigitsRows(Digits):
    """scikit-learn's digits read row by row, ``per_step`` pixels an item: sequences ``(length, per_step)``.

    After the ``64 / per_step`` items of the picture come ``length - 64 / per_step`` items of standard normal noise,
    drawn once by ``seed``: what has been read must be kept through them.  Pixels are standardised as in ``digits``.
    A network with enough weights learns the noise of each digit in place of the digit; ``copies`` is against that.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        length: items altogether; default those of the picture, without noise.
        per_step: pixels an item, a divisor of 64; 8 is a row of the picture.
        limit: keep the first so many of the shuffled training samples; default all.
        seed: of the noise.
        copies: how many times each training digit is in the set, each time with other noise.

    Raises:
        InvalidOption: where an option is outside its range.

    Source: the noise-padded task of Chang, Chen, Haber, Chi 2019, AntisymmetricRNN, section 5.3, on digits.
    """

    word = "digits_rows"

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        length: int | None = None,
        per_step: int = 1,
        limit: int | None = None,
        seed: int = 0,
        copies: int = 1,
    ) -> None:
        super().__init__(batch_size, num_workers, limit=limit)
        if per_step < 1 or 64 % per_step:
            raise InvalidOption(f"data 'digits_rows', option per_step: got {per_step}, expected a divisor of 64")
        items = 64 // per_step
        if length is not None and length < items:
            raise InvalidOption(
                f"data 'digits_rows', option length: got {length}, expected at least the {items} items of a picture"
            )
        if seed < 0:
            raise InvalidOption(f"data 'digits_rows', option seed: got {seed}, expected an integer >= 0")
        self.length, self.per_step, self.seed = length or items, per_step, seed
        if copies < 1 or (copies > 1 and self.length == items):
            raise InvalidOption(
                f"data 'digits_rows', option copies: got {copies}, expected at least 1, and 1 where length="
                f"{self.length} has no noise to draw anew"
            )
        self.copies = copies

    def specify(self) -> DataSpec:
        """Ten classes, ``(length, per_step)``."""
        return DataSpec(
            name=self.word,
            input_shape=(self.length, self.per_step),
            target="class",
            num_classes=10,
            task="classification",
            class_names=tuple("0123456789"),
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets; that for training has the copies one after the other."""
        sets = super().load()
        if self.copies > 1:
            x, y = sets["train"][:]
            drawn = [x, *(self.with_other_noise(x, copy) for copy in range(1, self.copies))]
            sets["train"] = TensorDataset(torch.cat(drawn), y.repeat(self.copies))
        return sets

    def with_other_noise(self, x: torch.Tensor, copy: int) -> torch.Tensor:
        """The same digits ``(samples, length, per_step)`` with the noise of the copy of this number."""
        items, generator = 64 // self.per_step, np.random.default_rng((self.seed, copy))
        noise = generator.standard_normal((len(x), self.length - items, self.per_step), dtype=np.float32)
        return torch.cat([x[:, :items], torch.from_numpy(noise)], dim=1)

    def shaped(self, images: np.ndarray) -> np.ndarray:
        """Items of the picture, then noise: ``(samples, length, per_step)``."""
        items = images.reshape(len(images), -1, self.per_step)
        shape = (len(items), self.length - items.shape[1], self.per_step)
        return np.concatenate([items, np.random.default_rng(self.seed).standard_normal(shape)], axis=1)
