"""Filters without training, to hold a learned one against: one-pass sequential Monte Carlo, and with resampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odeframe.errors import DataError, InvalidOption
from odeframe.likelihoods import check_log_likelihood, likelihood_of

__all__ = ["Weighted", "check_particles", "moments", "one_pass_smc", "sis_resampling"]

Transition = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weighted:
    """Particles that stand for a distribution.

    Attributes:
        particles: ``(batch, N, state)``.
        log_weights: ``(batch, N)``, normalised: their exponentials add up to 1.
    """

    particles: Tensor
    log_weights: Tensor

    @property
    def mean(self) -> Tensor:
        """``(batch, state)``."""
        return moments(self.particles, self.log_weights)[0]

    @property
    def covariance(self) -> Tensor:
        """``(batch, state, state)``."""
        return moments(self.particles, self.log_weights)[1]

    @property
    def effective_size(self) -> Tensor:
        """``1 / sum w^2``, ``(batch,)``: how many equally weighted particles would be as good."""
        return torch.exp(-torch.logsumexp(2 * self.log_weights, -1))


def one_pass_smc(
    particles: Tensor, observations: Tensor, likelihood: Any, transition: Transition | None = None
) -> list[Weighted]:
    """Sequential importance sampling: the particles stay, their weights are multiplied by ``p(o_m | x)``.

    Args:
        particles: ``(batch, N, state)``, drawn from the prior.
        observations: ``(batch, length, observation)``.
        likelihood: ``p(o | x)``: a name, an object or a function, as :func:`odeframe.likelihoods.likelihood_of` has it.
        transition: moves particles before each observation; ``None`` for a state that does not move.

    Returns:
        the weighted particles after each observation, ``length`` of them.

    Raises:
        DataError: an empty or non-finite set, or a likelihood that is zero for all particles of a set.
        InvalidOption: shapes that do not go together.

    Source: Gordon, Salmond, Smith 1993; Doucet, de Freitas, Gordon 2001, Sequential Monte Carlo Methods in Practice, 1.
    """
    return _filter(particles, observations, likelihood, transition, None, 0.0)


def sis_resampling(
    particles: Tensor,
    observations: Tensor,
    likelihood: Any,
    transition: Transition | None = None,
    generator: torch.Generator | None = None,
    threshold: float = 0.5,
) -> list[Weighted]:
    """The same with systematic resampling where the effective size falls below ``threshold N``: the bootstrap filter.

    Args:
        particles, observations, likelihood, transition: as for :func:`one_pass_smc`.
        generator: of the resampling; default torch's.
        threshold: share of ``N``, 0 to 1; 1 resamples always.

    Source: Gordon, Salmond, Smith 1993; Kitagawa 1996 (systematic resampling).
    """
    if not 0 <= threshold <= 1:
        raise InvalidOption(f"sis_resampling: threshold: got {threshold}, expected 0 to 1")
    return _filter(particles, observations, likelihood, transition, generator, threshold)


def check_particles(particles: Tensor, observation: Tensor, leading: int = 1) -> None:
    """Holds a batch of particle sets and of observations against each other.

    Args:
        particles: ``(batch, N, state)``.
        observation: ``(batch, ...)``, with ``leading`` dimensions before the observation's own.

    Raises:
        InvalidOption: other numbers of dimensions, no floating point, or another batch.
        DataError: an empty set, or values that are not finite.
    """
    for what, value, dims, shape in (
        ("particles", particles, 3, "(batch, N, state)"),
        ("observation", observation, leading + 1, "(batch, observation)" if leading == 1 else "(batch, length, o)"),
    ):
        if not torch.is_tensor(value) or not value.is_floating_point() or value.dim() != dims:
            got = f"{tuple(value.shape)} of {value.dtype}" if torch.is_tensor(value) else type(value).__name__
            raise InvalidOption(f"{what}: got {got}, expected floating-point {shape}")
    if particles.shape[0] != observation.shape[0]:
        raise InvalidOption(
            f"got {particles.shape[0]} particle sets and {observation.shape[0]} observations, expected one batch: "
            f"particles {tuple(particles.shape)}, observation {tuple(observation.shape)}"
        )
    if particles.shape[1] == 0:
        raise DataError(f"particles: the set is empty, shape {tuple(particles.shape)}; give at least one particle")
    for what, value in (("particles", particles), ("observation", observation)):
        finite = torch.isfinite(value).flatten(1).all(1)
        if not bool(finite.all()):
            raise DataError(f"{what}: not finite in sample {int((~finite).nonzero()[0])} of the batch; drop or fill it")


def moments(particles: Tensor, log_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean ``(..., state)`` and covariance ``(..., state, state)`` of sets ``(..., N, state)``, by default even."""
    count = particles.shape[-2]
    weights = particles.new_full(particles.shape[:-1], 1 / count) if log_weights is None else log_weights.exp()
    mean = (weights[..., None] * particles).sum(-2)
    centred = particles - mean[..., None, :]
    return mean, (weights[..., None] * centred).transpose(-1, -2) @ centred


def _filter(
    particles: Tensor,
    observations: Tensor,
    likelihood: Any,
    transition: Transition | None,
    generator: torch.Generator | None,
    threshold: float,
) -> list[Weighted]:
    check_particles(particles, observations, leading=2)
    likelihood = likelihood_of(likelihood)
    likelihood.check(observations.shape[-1], particles.shape[-1])
    batch, count = particles.shape[:2]
    uniform = particles.new_full((batch, count), -math.log(count))
    state, found = Weighted(particles, uniform), []
    for observation in observations.unbind(1):
        particles = state.particles if transition is None else transition(state.particles)
        gain = likelihood.log_prob(observation[:, None], particles)
        log_weights = state.log_weights + check_log_likelihood(likelihood.name, gain, (batch, count))
        check_log_likelihood(likelihood.name, log_weights, (batch, count))
        state = Weighted(particles, torch.log_softmax(log_weights, -1))
        found.append(state)
        poor = state.effective_size < threshold * count
        if bool(poor.any()):
            chosen = _systematic(state.log_weights, generator)
            drawn = torch.take_along_dim(particles, chosen[..., None], 1)
            state = Weighted(
                torch.where(poor[:, None, None], drawn, particles),
                torch.where(poor[:, None], uniform, state.log_weights),
            )
    return found


def _systematic(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices ``(batch, N)``: one uniform number a set, then equal steps through the distribution function."""
    batch, count = log_weights.shape
    start = torch.rand(batch, 1, generator=generator, dtype=log_weights.dtype, device=log_weights.device)
    places = (start + torch.arange(count, device=log_weights.device)) / count
    return torch.searchsorted(log_weights.exp().cumsum(-1), places.contiguous()).clamp(max=count - 1)
