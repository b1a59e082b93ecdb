"""Two spirals wound into each other."""

from __future__ import annotations

import numpy as np

from odeframe_plugins.data.planar import Planar

__all__ = ["SwissRoll"]


class SwissRoll(Planar):
    """Two classes on the spirals ``r (cos a, sin a)``, ``r = a / (4 pi)`` or ``a / (4 pi) + 0.2``, ``a`` in [0, 4 pi].

    Two turns: no line and no circle parts the classes, a deep flow must unroll them.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 20; training, validation and test are draws of 70, 10 and 20 % of them.
        noise: standard deviation of the normal noise on each coordinate; the arms are 0.2 and 0.3 apart.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: where an option is outside its range.

    Source: Haber, Ruthotto 2017, Stable Architectures for Deep Neural Networks, section 5.2.
    """

    word, class_names = "swiss_roll", ("inner", "outer")

    def __init__(self, batch_size: int = 64, num_workers: int = 0, n: int = 1000, noise: float = 0.01, seed: int = 0):
        super().__init__(batch_size, num_workers, n, noise, seed)

    def draw(self, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Angles are uniform, the classes take turns."""
        draw = np.random.default_rng(seed)
        labels = np.arange(size) % 2
        angles = draw.uniform(0, 4 * np.pi, size)
        radii = angles / (4 * np.pi) + 0.2 * labels
        points = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return points + self.noise * draw.standard_normal(points.shape), labels
