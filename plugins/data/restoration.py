"""Degraded crops of pictures with the clean ones as targets, pictures of training, validation and test kept apart."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import DataError, InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.degradation import Degradation, DegradationName

__all__ = ["Crops", "DegradedPictures"]


class DegradedPictures(DataModule):
    """Samples ``(degraded, clean, level)``: crops ``(1, crop, crop)`` of pictures in [0, 1], the level in [0, 1].

    Sample ``k`` of a set is a function of ``(seed, set, k)`` alone: its picture, place, mirroring, level and noise.
    Pictures of training come in full and in half size too, the latter by means over two by two pixels.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: samples of training; validation and test have a tenth of it each, at least 8.
        crop: pixels a side.
        degradation: ``"noise"`` (Gaussian) or ``"jpeg"``.
        levels: least and greatest level: sigma in 255ths (default 25 to 55), or quality (10 to 40).
        seed: of the samples.

    Raises:
        InvalidOption: an option is outside its range.
        DataError: a picture is smaller than a crop.
    """

    word: ClassVar[str]

    def __init__(
        self,
        batch_size: int = 16,
        num_workers: int = 0,
        n: int = 6400,
        crop: int = 40,
        degradation: DegradationName = "noise",
        levels: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        for name, value, least in (("n", n, 1), ("crop", crop, 8), ("seed", seed, 0)):
            if value < least:
                raise InvalidOption(f"data {self.word!r}, option {name}: got {value}, expected at least {least}")
        self.degradation = Degradation.of(degradation, levels, self.word)
        self.n, self.crop, self.seed = n, crop, seed

    def specify(self) -> DataSpec:
        """Images to images."""
        image = (1, self.crop, self.crop)
        return DataSpec(self.word, image, "value", target_shape=image, task="restoration")

    @abstractmethod
    def pictures(self, split: str) -> dict[str, np.ndarray]:
        """The pictures of a set, name to ``(height, width)`` in [0, 1]."""

    def load(self) -> dict[str, Dataset]:
        """The three sets of crops."""
        sets: dict[str, Dataset] = {}
        for index, split in enumerate(SPLITS):
            pictures = self.pictures(split)
            for name, picture in pictures.items():
                if min(picture.shape) < self.crop:
                    raise DataError(
                        f"data {self.word!r}: picture {name} is {picture.shape[0]} by {picture.shape[1]} pixels, "
                        f"smaller than a crop of {self.crop}; remove it, or write a smaller data.crop"
                    )
            sources = list(pictures.values())
            if split == "train":
                halves = [halved(picture) for picture in sources]
                sources += [half for half in halves if min(half.shape) >= self.crop]
            size = self.n if split == "train" else max(8, self.n // 10)
            sets[split] = Crops(sources, size, self.crop, self.degradation, (self.seed, index))
        return sets


class Crops(Dataset):
    """Degraded crops made when they are asked for.

    Args:
        pictures: each ``(height, width)``.
        size: how many crops.
        crop: pixels a side.
        degradation: of a crop.
        key: what, with the number of a sample, decides all draws.
    """

    def __init__(
        self, pictures: list[np.ndarray], size: int, crop: int, degradation: Degradation, key: tuple[int, ...]
    ) -> None:
        self.pictures, self.size, self.crop, self.degradation, self.key = pictures, size, crop, degradation, key

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(degraded, clean, level)`` of a sample: two of ``(1, crop, crop)`` and a number."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        draw = np.random.default_rng((*self.key, index))
        picture = self.pictures[draw.integers(len(self.pictures))]
        top, left = (int(draw.integers(length - self.crop + 1)) for length in picture.shape)
        clean = picture[top : top + self.crop, left : left + self.crop]
        turns, mirrored = int(draw.integers(4)), int(draw.integers(2))
        clean = np.rot90(clean[:, ::-1] if mirrored else clean, turns)
        degraded, level = self.degradation(clean, draw)
        x, y = (torch.from_numpy(np.array(each, dtype=np.float32))[None] for each in (degraded, clean))
        return x, y, torch.tensor(level, dtype=torch.float32)


def halved(picture: np.ndarray) -> np.ndarray:
    """Half the size, by means over blocks of two by two pixels; an odd last row or column is left out."""
    height, width = (length // 2 for length in picture.shape)
    return picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
