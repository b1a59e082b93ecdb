"""Bayes' rule as a flow of particles: one operator from prior particles and an observation to posterior particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from odeframe import Architecture, InvalidOption, Network
from odeframe.drive import ConstantDrive
from odeframe.errors import Incompatible
from odeframe.flow import Choice, Flow
from odeframe.initial_value import matching
from odeframe.jacobian_costs import LogDensity
from odeframe.network import Outcome, Parts
from odeframe.options import check_positive
from odeframe.particle_filters import check_particles, moments
from odeframe.quadrature import columns
from odeframe.specification import NetworkSpec
from odeframe.stepmap import StepMap

EXACT_UP_TO = 4
"""Components of a particle up to which ``trace: auto`` is the exact one: that many vector-Jacobian products."""
LEAST = 1e-6
"""Added to variances before their logarithm is taken: one particle has none."""


class ParticleDivergence(LogDensity):
    """``dq/dt = -sum_i tr(df/dx_i)`` of particles ``x_i`` that move independently, ``x`` ``(batch, N, state)``.

    The trace of a set needs no more vector-Jacobian products than that of one particle: the Jacobian is block-diagonal.

    Args:
        weight, exact, probe: as for ``LogDensity``.
    """

    def rate(self, t: Tensor, x: Tensor, dx: Tensor) -> Tensor:
        """Minus the divergence summed over the set, or its estimate."""
        if not self._exact or not dx.requires_grad:
            return super().rate(t, x, dx)
        trace = x.new_zeros(x.shape[0])
        for i in range(x.shape[-1]):
            (row,) = torch.autograd.grad(dx[..., i].sum(), x, create_graph=True, allow_unused=True)
            if row is not None:
                trace = trace + columns(row[..., i]).sum(1)
        return -trace


class Summary(nn.Module):
    """A deep set over particles ``(batch, N, state)``: mean, covariance, log variances, ``mean_i W tanh(E x_i + e)``.

    Mean and covariance are functions of the means of ``x`` and ``x x^T``, so that all of it is ``rho(mean_i g(x_i))``.

    Args:
        state: components of a particle.
        size: of the trained part.

    Source: Zaheer et al. 2017, Deep Sets; Chen, Dai, Song 2019, Particle Flow Bayes' Rule, 4.1.
    """

    def __init__(self, state: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(state, 64), nn.Tanh(), nn.Linear(64, size))
        self.outputs = state + state * state + state + size

    def forward(self, particles: Tensor) -> Tensor:
        """``(batch, outputs)``."""
        mean, covariance = moments(particles)
        spread = torch.log(torch.diagonal(covariance, dim1=-2, dim2=-1) + LEAST)
        return torch.cat([mean, covariance.flatten(1), spread, self.embed(particles).mean(1)], dim=1)


class Condition(nn.Module):
    """A packed sample to ``(particles, drive)``; the drive is ``(phi(X_m), o_{m+1})`` for all times.

    Args:
        particles: ``N`` of a packed sample.
        state: components of a particle.
        observation: components of an observation.
        summary: size of the trained part of ``phi``; 0 for none of ``phi`` at all.
    """

    def __init__(self, particles: int, state: int, observation: int, summary: int) -> None:
        super().__init__()
        self.particles, self.state, self.observation = particles, state, observation
        self.summary = Summary(state, summary) if summary else None
        self.outputs = observation + (self.summary.outputs if self.summary is not None else 0)

    def unpack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Particles ``(batch, N, state)`` and observations ``(batch, M, observation)`` of a packed ``x``."""
        first = self.particles * self.state
        sets = x[:, :first].reshape(x.shape[0], self.particles, self.state)
        return sets, x[:, first:].reshape(x.shape[0], (x.shape[1] - first) // self.observation, self.observation)

    def context(self, particles: Tensor, observation: Tensor) -> Tensor:
        """``(batch, outputs)``."""
        if self.summary is None:
            return observation
        return torch.cat([self.summary(particles), observation], dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ConstantDrive]:
        """Of the first observation."""
        particles, observations = self.unpack(x)
        return particles, ConstantDrive(self.context(particles, observations[:, 0]))


class Stack(nn.Module):
    """Particles ``(batch, N, state)`` as the answer to one observation, ``(batch, 1, N, state)``."""

    def forward(self, x: Tensor) -> Tensor:
        """A further dimension."""
        return x[:, None]


class ParticleNetwork(Network):
    """The operator, applied to each of the ``M`` observations of a sample in turn.

    Args:
        condition: unpacks samples and makes the context.
        flow: on ``(batch, N, state)``.
        observations: ``M``.
        stage: after so many observations the graph is cut, 0 for never.
    """

    def __init__(self, condition: Condition, flow: Flow, observations: int, stage: int) -> None:
        super().__init__({"stem": condition, "flow": flow, "head": Stack()})
        self.observations, self.stage = observations, stage

    def assimilate(self, particles: Tensor, observation: Tensor) -> Tensor:
        """Posterior particles of prior particles and an observation; any number of particles.

        Args:
            particles: ``(batch, N, state)``, or ``(N, state)``.
            observation: ``(batch, observation)``, or ``(observation,)``.

        Raises:
            InvalidOption: other shapes, no floating point, or another dtype or device than the weights.
            DataError: an empty set, or values that are not finite.
        """
        if torch.is_tensor(particles) and particles.dim() == 2:
            if not torch.is_tensor(observation) or observation.dim() != 1:
                said = tuple(observation.shape) if torch.is_tensor(observation) else type(observation).__name__
                raise InvalidOption(f"observation: got {said} beside one set of particles, expected (observation,)")
            return self.assimilate(particles[None], observation[None])[0]
        check_particles(particles, observation)
        if observation.dtype != particles.dtype:
            raise InvalidOption(
                f"observation: got {observation.dtype} beside particles of {particles.dtype}; write "
                "observation.to(particles.dtype)"
            )
        stem: Condition = self.stages["stem"]
        for what, got, size in (
            ("particles", particles.shape[-1], stem.state),
            ("observation", observation.shape[-1], stem.observation),
        ):
            if got != size:
                raise InvalidOption(f"{what}: got {got} components, expected the {size} that the flow was built for")
        with matching(particles, lambda: (observation, *self.parameters())):
            context = stem.context(particles, observation)
        return self.flows[0].solve(particles, drive=context, quadratures=[]).final

    def run(self, x: Tensor, times: Sequence[float] | None = None) -> Outcome:
        """Particles after each observation, ``(batch, M, N, state)``; the cost is the mean of ``log q_m - log q_0``."""
        if self.observations == 1:
            return super().run(x, times)
        stem: Condition = self.stages["stem"]
        flow, (particles, observations) = self.flows[0], stem.unpack(x)
        start, end = flow.horizon
        asked = None if times is None else [start + (end - start) * fraction for fraction in times]
        sets, costs, solutions = [], [], []
        change = x.new_zeros(x.shape[0])
        for m, observation in enumerate(observations.unbind(1)):
            if self.stage and m and m % self.stage == 0:
                particles, change = particles.detach(), change.detach()
            solution = flow.solve(particles, asked, drive=stem.context(particles, observation))
            particles, change = solution.final, change + flow.running_cost(solution)
            sets.append(particles)
            costs.append(change)
            solutions.append(solution)
        return Outcome(torch.stack(sets, 1), torch.stack(costs).mean(0), solutions)

    def steps(self, example: Tensor | None = None) -> list[StepMap]:
        """Step maps of one observation; a sample of several has a state between them that is no step's."""
        if self.observations > 1:
            raise Incompatible(
                f"architecture 'particle_flow' has step maps for one observation, got {self.observations} a sample; "
                "write trainer: gradient, or data of one observation a sample"
            )
        return super().steps(example)


class ParticleFlow(Architecture):
    """``x' = f(phi(X_m), o_{m+1}, x, t)`` takes particles ``X_m`` to ``X_{m+1}``, and ``d log q/dt = -div f``.

    A sample is a packed vector: ``N`` particles of ``state`` components, then ``M`` observations; outputs are
    ``(M, N, state)``.  The same flow is applied to each observation.  ``phi`` is a deep set over the starting particles
    and stays the same along the flow, so that the divergence is that of each particle alone.

    Args:
        summary: size of the trained part of ``phi``; 0 leaves ``phi`` out, and the flow knows the observation alone.
        hidden: size of the hidden layers of the default field.
        depth: how many.
        stage: observations after which gradients are cut (truncated in time) where a sample has several; 0 for never.
            The density at the start of a stage is a constant of the gradient, so that it need not be known.
        trace: in training, ``"exact"`` or ``"hutchinson"``; ``"auto"`` is exact for up to 4 components a particle.
        horizon: length of the interval.

    Source: Chen, Dai, Song 2019, Particle Flow Bayes' Rule.
    """

    conformance: ClassVar[dict[str, Any]] = {"input_shapes": ((5 * 2 + 1,),), "output_shape": (1, 5, 2)}
    defaults: ClassVar[dict[str, Choice]] = {
        "dynamics": "particle_field",
        "control": "constant",
        "solver": {"name": "rk4", "steps": 2},
    }

    def __init__(
        self,
        summary: int = 16,
        hidden: int = 64,
        depth: int = 2,
        stage: int = 0,
        trace: Literal["auto", "exact", "hutchinson"] = "auto",
        horizon: float = 1.0,
    ) -> None:
        for option, value, least in (
            ("summary", summary, 0),
            ("hidden", hidden, 1),
            ("depth", depth, 1),
            ("stage", stage, 0),
        ):
            if value < least:
                raise InvalidOption(
                    f"architecture 'particle_flow': option {option}: got {value}, expected at least {least}"
                )
        if trace not in ("auto", "exact", "hutchinson"):
            raise InvalidOption(
                f"architecture 'particle_flow': option trace: got {trace!r}, expected 'auto', 'exact' or 'hutchinson'"
            )
        check_positive("architecture 'particle_flow'", horizon=horizon)
        self.summary, self.hidden, self.depth, self.stage = summary, hidden, depth, stage
        self.trace, self.horizon = trace, horizon

    def state_trait(self, spec: NetworkSpec) -> str:
        """Sets of particles are no images; samples of other shapes are refused."""
        if len(spec.input_shape) != 1:
            raise InvalidOption(
                f"architecture 'particle_flow' takes packed particles and observations, got samples of shape "
                f"{spec.input_shape}; data gaussian_stream and csv_stream have them"
            )
        return "vector"

    def assemble(self, spec: NetworkSpec, parts: Parts) -> Network:
        """Condition, flow, and the running cost."""
        (length,) = spec.input_shape
        if len(spec.output_shape) != 3:
            raise InvalidOption(
                f"architecture 'particle_flow' gives particles (observations, N, state), got outputs "
                f"{spec.output_shape}; write task: filtering"
            )
        observations, particles, state = spec.output_shape
        left = length - particles * state
        if left <= 0 or left % observations:
            raise InvalidOption(
                f"architecture 'particle_flow': samples of {length} numbers do not hold {particles} particles of "
                f"{state} and {observations} observations of one size"
            )
        stem = Condition(particles, state, left // observations, self.summary)
        shape = {"width": state, "inputs": stem.outputs, "hidden": self.hidden, "depth": self.depth}
        flow = parts.flow((0.0, self.horizon), **shape)
        exact = state <= EXACT_UP_TO if self.trace == "auto" else self.trace == "exact"
        flow.add_costs([ParticleDivergence(weight=1 / particles, exact=exact)])
        return ParticleNetwork(stem, flow, observations, self.stage)
