"""scikit-learn's handwritten digits, 8x8."""

from __future__ import annotations

from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import limited, split_rows, tensor_sets

__all__ = ["Digits"]


class Digits(DataModule):
    """1,797 images of the digits 0 to 9, labels int64, split 1257 + 180 + 360, stratified, seed 0.

    Pixels count from 0 to 16 in the file and are given as ``(pixel - mean) / std`` with one mean and one
    standard deviation over all pixels of the whole training split, so that ``limit`` does not move them.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        flat: samples of shape ``(64,)`` rather than ``(1, 8, 8)``.
        limit: keep the first so many of the shuffled training samples; validation and test stay whole.

    Raises:
        InvalidOption: where ``limit`` is outside 1 to 1257 (when the data are loaded).

    Source:
        Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits.
    """

    mean = 4.8781
    std = 6.0134

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, flat: bool = False, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.flat, self.limit = flat, limit

    def specify(self) -> DataSpec:
        """Ten classes, ``(1, 8, 8)`` or ``(64,)``."""
        return DataSpec(
            name="digits",
            input_shape=(64,) if self.flat else (1, 8, 8),
            target="class",
            num_classes=10,
            task="classification",
            class_names=tuple("0123456789"),
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        pixels, labels = load_digits(return_X_y=True)
        parts = split_rows(len(labels), labels=labels, name="digits")
        parts["train"] = limited("digits", parts["train"], self.limit)
        images = (pixels - self.mean) / self.std
        return tensor_sets(images.reshape(-1, *self.spec.input_shape), labels, parts)
