"""Solutions of a convection-diffusion equation on a periodic square, seen at several times."""

from __future__ import annotations

import math

import numpy as np
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_rows, tensor_sets

__all__ = ["ConvectionDiffusion"]


class ConvectionDiffusion(DataModule):
    """``u_t = a u_x + b u_y + nu (u_xx + u_yy)`` on the periodic square of side ``2 pi``; input ``u(0)``.

    The targets ``(times, 1, side, side)`` are ``u`` at ``interval, 2 interval, ...``, solved exactly in Fourier space.
    ``u(0)`` is a real trigonometric polynomial with normal coefficients up to ``modes``, scaled to a root mean square
    of 1.  Noise is added to inputs and targets alike; ``x`` runs along the height.

    Args:
        batch_size: samples a batch and a rank.
        num_workers: loader processes.
        n: samples altogether, split 70/10/20.
        side: pixels a side.
        times: how many observations.
        interval: time between them.
        velocity: ``(a, b)``.
        diffusion: ``nu``, at least 0.
        modes: highest frequency of ``u(0)``, below half of ``side``.
        noise: standard deviation of the noise.
        seed: of the samples and of the noise.

    Raises:
        InvalidOption: where an option is outside its range.

    Source: the test of Long, Lu, Ma, Dong 2018, PDE-Net, section 3, with constant coefficients.
    """

    def __init__(
        self,
        batch_size: int = 32,
        num_workers: int = 0,
        n: int = 200,
        side: int = 32,
        times: int = 4,
        interval: float = 0.03,
        velocity: tuple[float, float] = (0.8, -0.6),
        diffusion: float = 0.2,
        modes: int = 4,
        noise: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        checks = (
            ("n", n >= 20, "20 or more"),
            ("side", side >= 8, "8 or more"),
            ("times", times >= 1, "1 or more"),
            ("interval", 0 < interval < math.inf, "a finite number > 0"),
            ("velocity", len(velocity) == 2 and all(map(math.isfinite, velocity)), "two numbers"),
            ("diffusion", 0 <= diffusion < math.inf, "a finite number >= 0"),
            ("modes", 1 <= modes < side / 2, f"1 to {(side - 1) // 2}"),
            ("noise", 0 <= noise < math.inf, "a finite number >= 0"),
            ("seed", seed >= 0, "an integer >= 0"),
        )
        for option, fits, expected in checks:
            if not fits:
                raise InvalidOption(
                    f"data 'convection_diffusion', option {option}: got {locals()[option]}, expected {expected}"
                )
        self.n, self.side, self.times, self.interval = n, side, times, interval
        self.velocity, self.diffusion, self.modes = tuple(velocity), diffusion, modes
        self.noise, self.seed = noise, seed

    def specify(self) -> DataSpec:
        """An image, and images at several times."""
        image = (1, self.side, self.side)
        return DataSpec(
            name="convection_diffusion",
            input_shape=image,
            target="value",
            target_shape=(self.times, *image),
            task="regression",
            interval=self.interval,
        )

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        draw = np.random.default_rng(self.seed)
        wave = np.fft.fftfreq(self.side, 1 / self.side)
        kx, ky = wave[:, None], wave[None, :]
        start = np.fft.fft2(draw.standard_normal((self.n, self.side, self.side)))
        start *= (np.abs(kx) <= self.modes) & (np.abs(ky) <= self.modes)
        start /= np.sqrt((np.abs(np.fft.ifft2(start)) ** 2).mean((1, 2), keepdims=True))
        a, b = self.velocity
        rate = 1j * (a * kx + b * ky) - self.diffusion * (kx**2 + ky**2)
        moments = np.arange(self.times + 1)[:, None, None] * self.interval
        states = np.fft.ifft2(start[:, None] * np.exp(rate * moments)).real
        states += self.noise * draw.standard_normal(states.shape)
        parts = split_rows(self.n, name="convection_diffusion")
        return tensor_sets(states[:, :1], states[:, 1:, None], parts)
