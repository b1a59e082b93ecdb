"""Streams of observations with a known posterior: a point, a moving point, a mixture of two."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from odeframe.errors import InvalidOption
from odeframe.likelihoods import likelihood_of
from odeframe.options import check_positive
from odeframe_plugins.data.particle_stream import ParticleStream, Sequences, weighted_moments

__all__ = ["GaussianStream", "LinearDynamicalSystem", "MixtureStream"]


class LinearDynamicalSystem(ParticleStream):
    """``x_{m+1} = A x_m + q w``, ``o_m = C x_m + r v`` in the plane, with standard normal ``w``, ``v``, ``x_1``.

    ``A`` turns by ``angle`` and shrinks by 0.98, and ``C`` sees the first component alone.  The truth is the Kalman
    filter's.  One sample is one observation; between two, :meth:`advance` moves particles.

    Args:
        batch_size, num_workers, n, particles, length, seed: as for every stream.
        angle: of the turn in a step, in radians.
        process: ``q``, > 0.
        deviation: ``r``, > 0.

    Source: Kalman 1960; Chen, Dai, Song 2019, Particle Flow Bayes' Rule, 6.1 (linear dynamical system).
    """

    word = "linear_dynamical_system"
    observed = 1

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        n: int = 6400,
        particles: int = 32,
        length: int = 25,
        seed: int = 0,
        angle: float = 0.3,
        process: float = 0.3,
        deviation: float = 0.5,
    ) -> None:
        super().__init__(batch_size, num_workers, n, particles, length, seed)
        check_positive(f"data {self.word!r}", process=process, deviation=deviation)
        self.angle, self.process, self.deviation = angle, process, deviation

    def likelihood(self) -> dict[str, Any]:
        """Of the first component."""
        return {"name": "linear_gaussian", "matrix": self._seen().tolist(), "deviation": self.deviation}

    def advance(self, particles: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Particles ``(..., state)`` a step later.

        Raises:
            InvalidOption: they have other components than the state.
        """
        if particles.shape[-1] != self.state:
            raise InvalidOption(
                f"data {self.word!r}: advance got particles {tuple(particles.shape)}, expected (..., {self.state})"
            )
        noise = torch.randn(particles.shape, generator=generator, dtype=particles.dtype)
        return particles @ self._transition().to(particles).t() + self._spread() * noise

    def sequences(self, count: int, seed: int) -> Sequences:
        """States, observations and the Kalman filter."""
        generator = torch.Generator().manual_seed(seed)
        states = [torch.randn(count, self.state, generator=generator, dtype=torch.float64)]
        for _ in range(self.length - 1):
            states.append(self.advance(states[-1], generator))
        x, seen = torch.stack(states, 1), self._seen()
        noise = torch.randn(count, self.length, len(seen), generator=generator, dtype=torch.float64)
        observations = x @ seen.t() + self.deviation * noise
        return Sequences(x, observations, *self._kalman(observations))

    def _kalman(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, transition, seen = len(observations), self._transition(), self._seen()
        unit = torch.eye(self.state, dtype=torch.float64)
        mean, covariance, found = observations.new_zeros(count, self.state), unit, []
        for observation in observations.unbind(1):
            innovation = seen @ covariance @ seen.t() + self.deviation**2 * torch.eye(len(seen), dtype=torch.float64)
            gain = torch.linalg.solve(innovation, seen @ covariance).t()
            after = mean + (observation - mean @ seen.t()) @ gain.t()
            less = (unit - gain @ seen) @ covariance
            found.append((mean, covariance.expand(count, -1, -1), after, less.expand(count, -1, -1)))
            mean, covariance = after @ transition.t(), transition @ less @ transition.t() + self._spread() ** 2 * unit
        one, two, three, four = (torch.stack(values, 1) for values in zip(*found, strict=True))
        return one, two, three, four

    def _transition(self) -> Tensor:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return 0.98 * torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)

    def _spread(self) -> float:
        return self.process

    def _seen(self) -> Tensor:
        return torch.tensor([[1.0, 0.0]], dtype=torch.float64)


class GaussianStream(LinearDynamicalSystem):
    """``o_m = x + r v``, ``x`` a point of the plane that stays where it is, standard normal like ``v``.

    The posterior after ``m`` observations is normal: mean ``sum o / (m + r^2)``, covariance ``I r^2 / (m + r^2)``.

    Args:
        batch_size, num_workers, n, particles, length, seed: as for every stream.
        deviation: ``r``, > 0.
        ahead: ``M``, observations that are assimilated one after the other from a true distribution.

    Source: Chen, Dai, Song 2019, Particle Flow Bayes' Rule, 6.1 (multivariate Gaussian model).
    """

    word = "gaussian_stream"
    observed = 2

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        n: int = 6400,
        particles: int = 32,
        length: int = 20,
        seed: int = 0,
        deviation: float = 3.0,
        ahead: int = 1,
    ) -> None:
        super().__init__(batch_size, num_workers, n, particles, length, seed, deviation=deviation)
        if not 1 <= ahead <= length:
            raise InvalidOption(f"data {self.word!r}, option ahead: got {ahead}, expected 1 to the length {length}")
        self.ahead = ahead

    @property
    def observations(self) -> int:
        """``M``."""
        return self.ahead

    def likelihood(self) -> dict[str, Any]:
        """Of both components."""
        return {"name": "linear_gaussian", "deviation": self.deviation}

    def _transition(self) -> Tensor:
        return torch.eye(self.state, dtype=torch.float64)

    def _spread(self) -> float:
        return 0.0

    def _seen(self) -> Tensor:
        return torch.eye(self.state, dtype=torch.float64)


class MixtureStream(ParticleStream):
    """``o_m`` normal about ``x_1`` or about ``x_1 + x_2``, each with probability 1/2: a posterior of two modes.

    The likelihood is the same at ``(x_1, x_2)`` and ``(x_1 + x_2, -x_2)``.  The prior is too: ``x_2 ~ N(0, s^2)`` and
    ``x_1 = a - x_2 / 2`` with standard normal ``a``, so that both modes have probability 1/2.  Moments of the posterior
    are sums over a grid.

    Args:
        batch_size, num_workers, n, particles, length, seed: as for every stream.
        deviation: of an observation, > 0.
        separation: ``s``, > 0.

    Source: Welling, Teh 2011, 5.1; Chen, Dai, Song 2019, Particle Flow Bayes' Rule, 6.1, with another prior.
    """

    word = "mixture_stream"
    observed = 1
    forced = False
    grid = 81

    def __init__(
        self,
        batch_size: int = 16,
        num_workers: int = 0,
        n: int = 500,
        particles: int = 64,
        length: int = 10,
        seed: int = 0,
        deviation: float = 1.0,
        separation: float = 2.0,
    ) -> None:
        super().__init__(batch_size, num_workers, n, particles, length, seed)
        check_positive(f"data {self.word!r}", deviation=deviation, separation=separation)
        self.deviation, self.separation = deviation, separation

    def likelihood(self) -> dict[str, Any]:
        """The mixture."""
        return {"name": "two_means", "deviation": self.deviation}

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance."""
        half = -0.5 * self.separation**2
        covariance = torch.tensor([[1 - 0.5 * half, half], [half, self.separation**2]], dtype=torch.float64)
        return torch.zeros(2, dtype=torch.float64), covariance

    def sequences(self, count: int, seed: int) -> Sequences:
        """States of the prior, and observations."""
        generator = torch.Generator().manual_seed(seed)
        mean, covariance = self.prior()
        scale = torch.linalg.cholesky(covariance)
        x = torch.randn(count, 2, generator=generator, dtype=torch.float64) @ scale.t()
        other = torch.randint(2, (count, self.length), generator=generator)
        noise = torch.randn(count, self.length, generator=generator, dtype=torch.float64)
        observations = (x[:, :1] + other * x[:, 1:] + self.deviation * noise)[..., None]
        nodes, log_prior = self._grid(scale)
        likelihood, found = likelihood_of(self.likelihood()), []
        for part in observations.split(50):
            gains = likelihood.log_prob(part[:, :, None], nodes).cumsum(1)
            found.append(weighted_moments(nodes, gains + log_prior))
        after, spread = (torch.cat(values) for values in zip(*found, strict=True))
        before = torch.cat([mean.expand(count, 1, 2), after[:, :-1]], 1)
        wide = torch.cat([covariance.expand(count, 1, 2, 2), spread[:, :-1]], 1)
        states = x[:, None].expand(-1, self.length, -1)
        return Sequences(states, observations, before, wide, after, spread)

    def _grid(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes ``(G, 2)`` out to four deviations of the prior, and its log density there, up to a constant."""
        axis = torch.linspace(-4, 4, self.grid, dtype=torch.float64)
        white = torch.cartesian_prod(axis, axis)
        return white @ scale.t(), -0.5 * white.square().sum(1)
