"""Two interleaved half circles."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_moons

from odeframe_plugins.data.planar import Planar

__all__ = ["TwoMoons"]


class TwoMoons(Planar):
    """Two classes of noisy points ``(2,)``, on half circles that interlock.

    The circles are ``(cos a, sin a)`` and ``(1 - cos a, 1/2 - sin a)`` for a in [0, pi].
    Training, validation and test are three draws of their own, of 70, 10 and 20 % of ``n`` points. Within a
    draw the angles are equally spaced, the noise alone is random; coordinates are not rescaled.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: points altogether, at least 20.
        noise: standard deviation of the normal noise on each coordinate, in units of the circles' radius.
        seed: seed of the three draws, 0 or more.

    Raises:
        InvalidOption: where an option is outside its range.

    Source:
        scikit-learn's ``make_moons``.
    """

    word, class_names = "two_moons", ("upper", "lower")

    def draw(self, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Points and labels."""
        return make_moons(size, noise=self.noise, random_state=seed)
