"""Level sets of a function with three peaks and two valleys."""

from __future__ import annotations

import numpy as np

from odeframe_plugins.data.planar import Planar

__all__ = ["Peaks", "peaks"]


class Peaks(Planar):
    """Five classes: the levels of ``peaks`` on the square [-3, 3]^2, cut so that each has a fifth of the points.

    ``p(x, y) = 3 (1-x)^2 e^{-x^2-(y+1)^2} - 10 (x/5 - x^3 - y^5) e^{-x^2-y^2} - e^{-(x+1)^2-y^2} / 3``.  Classes lie in
    several pieces with curved borders.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 50; training, validation and test are draws of 70, 10 and 20 % of them.
        noise: standard deviation of the normal noise on each coordinate, added after the labels are made.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: where an option is outside its range.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 5.3.
    """

    word, class_names = "peaks", ("lowest", "low", "middle", "high", "highest")

    def __init__(self, batch_size: int = 64, num_workers: int = 0, n: int = 5000, noise: float = 0.0, seed: int = 0):
        super().__init__(batch_size, num_workers, n, noise, seed)

    def draw(self, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Points are uniform; the cuts are quantiles of a fixed grid, the same for every draw."""
        draw = np.random.default_rng(seed)
        axis = np.linspace(-3, 3, 201)
        cuts = np.quantile(peaks(axis[:, None], axis[None, :]), [0.2, 0.4, 0.6, 0.8])
        points = draw.uniform(-3, 3, (size, 2))
        labels = np.searchsorted(cuts, peaks(points[:, 0], points[:, 1]))
        return points + self.noise * draw.standard_normal(points.shape), labels


def peaks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The function, elementwise."""
    first = 3 * (1 - x) ** 2 * np.exp(-(x**2) - (y + 1) ** 2)
    second = 10 * (x / 5 - x**3 - y**5) * np.exp(-(x**2) - y**2)
    return first - second - np.exp(-((x + 1) ** 2) - y**2) / 3
