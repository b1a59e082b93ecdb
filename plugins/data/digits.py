"""scikit-learn's handwritten digits, 8x8."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from odeframe_plugins.data.handwritten import Handwritten

__all__ = ["Digits"]


class Digits(Handwritten):
    """1,797 images of the digits 0 to 9, labels int64, split 1257 + 180 + 360, stratified, seed 0.

    Pixels count from 0 to 16 in the file and are given as ``(pixel - mean) / std`` with one mean and one
    standard deviation over all pixels of the whole training split, so that ``limit`` does not move them.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        flat: samples of shape ``(64,)`` rather than ``(1, 8, 8)``.
        limit: keep the first so many of the shuffled training samples; validation and test stay whole.
        dequantise: 0, or uniform noise on every pixel, for densities: each training image is in the set so many times,
            each time with other noise; validation and test images once.
        shift: training images are moved by up to so many whole pixels each way, anew in each epoch.

    Raises:
        InvalidOption: where ``limit`` is outside 1 to 1257 (when the data are loaded).

    Source:
        Alpaydin, Kaynak 1998, UCI optical recognition of handwritten digits.
    """

    word, side, mean, std, white = "digits", 8, 4.8781, 6.0134, 16.0

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """scikit-learn's copy."""
        return load_digits(return_X_y=True)
