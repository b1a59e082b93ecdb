"""scikit-image's pictures, degraded."""

from __future__ import annotations

import functools
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np

from odeframe.errors import DataError
from odeframe_plugins.data.image_files import read_image
from odeframe_plugins.data.restoration import DegradedPictures

__all__ = ["PICTURES", "Pictures", "picture"]

PICTURES = {
    "train": (
        *("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "ihc.png", "retina.jpg"),
        *("hubble_deep_field.jpg", "brick.png", "gravel.png", "page.png", "clock_motion.png"),
    ),
    "val": ("rocket.jpg",),
    "test": ("camera.png", "coins.png", "moon.png", "chelsea.png"),
}
"""Files that come within the wheel of scikit-image, by set."""


class Pictures(DegradedPictures):
    """Crops of the pictures that come with scikit-image, in gray; nothing is downloaded.

    The test set is of ``camera``, ``coins``, ``moon`` and ``chelsea``, validation of ``rocket``, training of eleven
    others.
    """

    word: ClassVar[str] = "pictures"

    def pictures(self, split: str) -> dict[str, np.ndarray]:
        """Those of a set."""
        return {name: picture(name) for name in PICTURES[split]}


@functools.cache
def picture(name: str) -> np.ndarray:
    """A picture of scikit-image in gray, ``(height, width)`` in [0, 1].

    Raises:
        DataError: the file is not there.
    """
    import skimage

    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise DataError(f"data 'pictures': scikit-image {version('scikit-image')} has no {name}; install 0.24 to 0.26")
    values = read_image(path, gray=True, word="pictures")
    values.flags.writeable = False  # all who ask get the same
    return values
