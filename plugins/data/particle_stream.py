"""What streams of observations have in common: sequences, particle sets, and how they are packed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import split_sizes

__all__ = ["ParticleStream", "Sequences", "check", "packed", "packed_spec", "weighted_moments"]


@dataclass(frozen=True)
class Sequences:
    """Observed sequences with what is known of their states, float64.

    Attributes:
        states: ``(count, length, state)``, what was observed.
        observations: ``(count, length, observation)``.
        prior_mean: ``(count, length, state)``, before each observation, given those before it.
        prior_covariance: ``(count, length, state, state)``.
        mean: ``(count, length, state)``, after each observation.
        covariance: ``(count, length, state, state)``.
    """

    states: Tensor
    observations: Tensor
    prior_mean: Tensor
    prior_covariance: Tensor
    mean: Tensor
    covariance: Tensor


class ParticleStream(DataModule):
    """Samples of ``N`` particles of a normal density and ``M`` observations, packed as ``(N state + M observation,)``.

    A batch is ``(x, observations, mean, scale, truth_mean, truth_covariance)``, as the task ``filtering`` takes it.
    Where the posterior is known at every time (``forced``), the particles are drawn from the true distribution before a
    random observation of a sequence (teacher forcing), and that one is assimilated, ``M = 1``; else the particles are
    drawn from the prior and ``M = length``.  Training, validation and test are sequences of their own.

    Args:
        batch_size: particle sets a batch and a rank.
        num_workers: loader processes.
        n: sequences altogether, at least 20, split 70/10/20.
        particles: ``N``.
        length: observations of a sequence.
        seed: 0 or more.
    """

    word: ClassVar[str]
    state: ClassVar[int] = 2
    observed: ClassVar[int] = 2
    forced: ClassVar[bool] = True

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        n: int = 6400,
        particles: int = 32,
        length: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check(self.word, n=(n, 20), particles=(particles, 1), length=(length, 1), seed=(seed, 0))
        self.n, self.particles, self.length, self.seed = n, particles, length, seed

    @abstractmethod
    def likelihood(self) -> dict[str, Any]:
        """The word of ``p(o | x)``."""

    @abstractmethod
    def sequences(self, count: int, seed: int) -> Sequences:
        """New sequences of ``length`` observations, a function of the seed."""

    def specify(self) -> DataSpec:
        """Packed samples; ``target_shape`` is that of the particles after each observation."""
        return packed_spec(self.word, self.observations, self.particles, self.state, self.observed, self.likelihood())

    @property
    def observations(self) -> int:
        """``M``."""
        return 1 if self.forced else self.length

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets, of sequences with seeds of their own."""
        sets: dict[str, Dataset] = {}
        for index, (split, size) in enumerate(zip(SPLITS, split_sizes(self.n), strict=True)):
            seed = 3 * self.seed + index
            found = self.sequences(size, seed)
            generator = torch.Generator().manual_seed(seed + 2**30)
            if self.forced:
                first = torch.randint(self.length - self.observations + 1, (size, 1), generator=generator)
                steps = first + torch.arange(self.observations)
                found = Sequences(*(value[torch.arange(size)[:, None], steps] for value in vars(found).values()))
            sets[split] = packed(found, self.particles, generator)
        return sets


def packed(found: Sequences, particles: int, generator: torch.Generator) -> TensorDataset:
    """Particle sets of the first prior of each sequence, with all of its observations, as float32 tensors.

    Sets have the very mean and covariance of the density that they are drawn from, where they are large enough: what a
    summary of the set says is then true of the density, and the objective has far less noise.
    """
    count, _, state = found.states.shape
    scale = torch.linalg.cholesky(found.prior_covariance[:, 0])
    draws = whitened(torch.randn(count, particles, state, generator=generator, dtype=torch.float64))
    sets = found.prior_mean[:, :1] + draws @ scale.transpose(1, 2)
    x = torch.cat([sets.flatten(1), found.observations.flatten(1)], dim=1)
    known = (found.prior_mean[:, 0], scale, found.mean, found.covariance)
    return TensorDataset(*(value.float() for value in (x, found.observations, *known)))


def whitened(draws: Tensor) -> Tensor:
    """Draws ``(count, N, state)`` moved and stretched to mean 0, covariance I; unchanged where ``N <= state + 1``."""
    if draws.shape[1] <= draws.shape[2] + 1:
        return draws
    centred = draws - draws.mean(1, keepdim=True)
    scale = torch.linalg.cholesky(centred.transpose(1, 2) @ centred / draws.shape[1])
    return torch.linalg.solve_triangular(scale, centred.transpose(1, 2), upper=False).transpose(1, 2)


def packed_spec(name: str, observations: int, particles: int, state: int, observed: int, likelihood: Any) -> DataSpec:
    """The specification of packed samples."""
    return DataSpec(
        name=name,
        input_shape=(particles * state + observations * observed,),
        target_shape=(observations, particles, state),
        task="filtering",
        likelihood=likelihood,
    )


def weighted_moments(points: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means ``(..., state)`` and covariances of points ``(P, state)`` under weights ``(..., P)``."""
    weights = torch.softmax(log_weights, -1)
    mean = weights @ points
    square = (points[:, :, None] * points[:, None]).flatten(1)
    second = (weights @ square).unflatten(-1, (points.shape[1], points.shape[1]))
    return mean, second - mean[..., :, None] * mean[..., None, :]


def check(word: str, **options: tuple[int, int]) -> None:
    """Raises ``InvalidOption`` where a whole number is below its least value."""
    for option, (value, least) in options.items():
        if value < least:
            raise InvalidOption(f"data {word!r}, option {option}: got {value}, expected {least} or more")
