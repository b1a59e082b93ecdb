"""What makes a clean image a bad one: Gaussian noise or JPEG compression, of a level drawn for each sample."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from odeframe.errors import InvalidOption

__all__ = ["Degradation", "DegradationName"]

DegradationName = Literal["noise", "jpeg"]
RANGES = {"noise": (25.0, 55.0), "jpeg": (10.0, 40.0)}


@dataclass(frozen=True)
class Degradation:
    """Noise of standard deviation ``level / 255``, or JPEG of quality ``level``, on images in [0, 1].

    Args:
        name: ``"noise"``, added and not cut to [0, 1]; or ``"jpeg"``.
        levels: least and greatest level, uniform between; sigma in 255ths > 0, or whole qualities from 1 to 95.
        word: the data's, for messages.

    Raises:
        InvalidOption: a level is outside its range.
    """

    name: str
    levels: tuple[float, float]
    word: str

    @classmethod
    def of(cls, name: str, levels: tuple[float, float] | None, word: str) -> Degradation:
        """The degradation of that name; without levels those of its training range."""
        if name not in RANGES:
            raise InvalidOption(f"data {word!r}, option degradation: got {name!r}, expected 'noise' or 'jpeg'")
        return cls(name, RANGES[name] if levels is None else levels, word)

    def __post_init__(self) -> None:
        low, high = self.levels if len(self.levels) == 2 else (1.0, 0.0)
        least, most = (1, 95) if self.name == "jpeg" else (0, 255)
        if low == high == 0 and self.name == "noise":
            raise InvalidOption(
                f"data {self.word!r}, option levels: got {list(self.levels)}, which is no noise at all; expected a "
                "second sigma above 0, up to 255, such as [0, 55]"
            )
        if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high <= most and high > 0):
            what = "sigmas from 0 to 255" if self.name == "noise" else "qualities from 1 to 95"
            raise InvalidOption(
                f"data {self.word!r}, option levels: got {list(self.levels)}, expected two {what}, the second not "
                "below the first"
            )

    def __call__(self, image: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, float]:
        """The degraded image, and how strongly it was degraded: 0 for the mildest level to 1 for the strongest.

        Args:
            image: ``(height, width)`` in [0, 1].
            draw: source of level and noise.
        """
        low, high = self.levels
        level = draw.uniform(low, high)
        share = 0.5 if high == low else (level - low) / (high - low)
        if self.name == "noise":
            return image + level / 255 * draw.standard_normal(image.shape), share
        return compressed(image, round(level)), 1 - share


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """An image in [0, 1] after JPEG compression of a quality from 1 to 95."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((image.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float64) / 255
