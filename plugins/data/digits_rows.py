"""The digits as sequences, pixel by pixel, with noise after them."""

from __future__ import annotations

import numpy as np

from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.digits import Digits

__all__ = ["DigitsRows"]


class DigitsRows(Digits):
    """scikit-learn's digits read row by row, ``per_step`` pixels an item: sequences ``(length, per_step)``.

    After the ``64 / per_step`` items of the picture come ``length - 64 / per_step`` items of standard normal noise,
    drawn once by ``seed``: what has been read must be kept through them.  Pixels are standardised as in ``digits``.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        length: items altogether; default those of the picture, without noise.
        per_step: pixels an item, a divisor of 64; 8 is a row of the picture.
        limit: keep the first so many of the shuffled training samples; default all.
        seed: of the noise.

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

    def shaped(self, images: np.ndarray) -> np.ndarray:
        """Items of the picture, then noise: ``(samples, length, per_step)``."""
        items = images.reshape(len(images), -1, self.per_step)
        shape = (len(items), self.length - items.shape[1], self.per_step)
        return np.concatenate([items, np.random.default_rng(self.seed).standard_normal(shape)], axis=1)
