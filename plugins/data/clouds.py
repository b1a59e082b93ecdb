"""Distributions in the plane, without labels: what densities are tried on."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_sizes

__all__ = ["Checkerboard", "Cloud", "EightGaussians", "Pinwheel", "Rings", "Spirals"]


class Cloud(DataModule):
    """Points ``(2,)``; training, validation and test are three draws of their own, of 70, 10 and 20 % of ``n``.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 20.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: where an option is outside its range.
    """

    word: ClassVar[str]

    def __init__(self, batch_size: int = 256, num_workers: int = 0, n: int = 10000, seed: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        if n < 20:
            raise InvalidOption(f"data {self.word!r}, option n: got {n}, expected 20 or more")
        if seed < 0:
            raise InvalidOption(f"data {self.word!r}, option seed: got {seed}, expected an integer >= 0")
        self.n, self.seed = n, seed

    def specify(self) -> DataSpec:
        """Points without a target."""
        return DataSpec(name=self.word, input_shape=(2,), target="none", task="density")

    @abstractmethod
    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """Points ``(size, 2)``."""

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        streams = np.random.default_rng(self.seed).spawn(len(SPLITS))
        sets: dict[str, Dataset] = {}
        for split, size, stream in zip(SPLITS, split_sizes(self.n), streams, strict=True):
            sets[split] = TensorDataset(torch.as_tensor(self.draw(size, stream), dtype=torch.float32))
        return sets


class EightGaussians(Cloud):
    """Eight normal distributions of deviation 0.2 on a circle of radius 2, each with an eighth of the points.

    Its entropy is ``log 8 + 1 + log(2 pi 0.2^2)`` up to the overlap, which is less than 1e-3: 1.699 nats.

    Args:
        batch_size, num_workers, n, seed: as for every cloud.

    Source: Grathwohl et al. 2019, FFJORD, section 4.1.
    """

    word = "eight_gaussians"
    radius, deviation = 2.0, 0.2

    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """Centres by a uniform choice, and noise."""
        angles = generator.integers(8, size=size) * math.pi / 4
        centres = self.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return centres + self.deviation * generator.standard_normal((size, 2))


class Checkerboard(Cloud):
    """Uniform on the eight dark squares of a board of four by four on [-2, 2]^2: an entropy of ``log 8``.

    Args:
        batch_size, num_workers, n, seed: as for every cloud.

    Source: Grathwohl et al. 2019, FFJORD, section 4.1.
    """

    word = "checkerboard"

    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """A column, a dark square in it, a point in the square."""
        column, pair = generator.integers(4, size=size), generator.integers(2, size=size)
        corner = np.stack([column - 2, 2 * pair + column % 2 - 2], axis=1)
        return corner + generator.random((size, 2))


class Pinwheel(Cloud):
    """Five arms: normal along the radius and across, turned by an angle that grows with the radius.

    Args:
        batch_size, num_workers, n, seed: as for every cloud.

    Source: Johnson et al. 2016, Composing graphical models with neural networks, 5.1.
    """

    word = "pinwheel"
    arms, rate = 5, 0.25

    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """Radius about 1, width 0.1, then the turn."""
        radial = 1 + 0.3 * generator.standard_normal(size)
        across = 0.1 * generator.standard_normal(size)
        turn = generator.integers(self.arms, size=size) * 2 * math.pi / self.arms + self.rate * np.exp(radial)
        cos, sin = np.cos(turn), np.sin(turn)
        return 2 * np.stack([cos * radial - sin * across, sin * radial + cos * across], axis=1)


class Rings(Cloud):
    """Four concentric circles of radius 0.75, 1.5, 2.25 and 3, equally probable, with noise of deviation 0.08.

    Args:
        batch_size, num_workers, n, seed: as for every cloud.

    Source: Grathwohl et al. 2019, FFJORD, section 4.1.
    """

    word = "rings"

    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """A circle, an angle, noise."""
        radius = 0.75 * (1 + generator.integers(4, size=size))
        angle = generator.uniform(0, 2 * math.pi, size)
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return points + 0.08 * generator.standard_normal((size, 2))


class Spirals(Cloud):
    """Two spirals from one centre, each the other turned by half a circle, with noise of deviation 0.1.

    Args:
        batch_size, num_workers, n, seed: as for every cloud.

    Source: Grathwohl et al. 2019, FFJORD, section 4.1.
    """

    word = "spirals"

    def draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """Uniform along the arms."""
        angle = 3 * math.pi * np.sqrt(generator.random(size))
        side = 2 * generator.integers(2, size=size) - 1
        points = (side * angle / 3)[:, None] * np.stack([-np.cos(angle), np.sin(angle)], axis=1)
        return points + 0.1 * generator.standard_normal((size, 2))
