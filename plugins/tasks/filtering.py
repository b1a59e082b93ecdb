"""Bayesian filtering: particles that become the posterior of what has been observed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from odeframe import DataError, Incompatible, InvalidOption
from odeframe.likelihoods import Likelihood, check_log_likelihood, likelihood_of
from odeframe.network import Network
from odeframe.particle_filters import moments
from odeframe.specification import DataSpec
from odeframe.task import Task

__all__ = ["Filtering"]


class Filtering(Task):
    """``J = mean [log q_m(x) - log p(o_1..o_m | x) - log p_0(x)]`` over particles ``x`` and observations ``m``.

    Up to a constant, the divergence of ``q_m`` from the posterior; ``log q_m`` is the network's running cost.

    A batch is ``(x, observations, mean, scale, truth_mean, truth_covariance)``: packed particles and observations
    ``x``, the observations ``(batch, M, observation)`` once more, mean ``(batch, state)`` and lower Cholesky factor
    ``(batch, state, state)`` of the normal density ``p_0`` that the particles were drawn from, and the posterior's
    moments after each observation, ``(batch, M, state)`` and ``(batch, M, state, state)``.

    ``module.assimilate(particles, observation)`` is one application of the learned operator.

    Args:
        likelihood: a name of ``odeframe.likelihoods.LIKELIHOODS``, a mapping with one, an object, or a function
            ``log_prob(observation, x)``; default what the data say.

    Metrics, of the last observation: ``mean_error`` and ``covariance_error``, root mean squares over samples and
    components of the distance to the posterior's.

    Raises:
        DataError: a likelihood that is zero for particles, or not finite.
        Incompatible: the network has no ``assimilate`` (``bind``).

    Source: Chen, Dai, Song 2019, Particle Flow Bayes' Rule, equation 9.
    """

    monitor = "mean_error"
    monitor_mode = "min"
    offers: ClassVar[tuple[str, ...]] = ("assimilate",)

    def __init__(self, likelihood: Any = None) -> None:
        self._given = None if likelihood is None else likelihood_of(likelihood)
        self._likelihood: Likelihood | None = self._given
        self._shape: tuple[int, int, int] = (1, 1, 1)

    def bind(self, network: Network) -> None:
        """Holds the network against what filtering needs."""
        if not hasattr(network, "assimilate"):
            raise Incompatible(
                f"task 'filtering' is put to a network that assimilates, got {type(network).__name__}; write "
                "architecture: particle_flow"
            )

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """``(M, N, state)``, as the data say; remembered to take samples apart."""
        if len(spec.target_shape) != 3 or len(spec.input_shape) != 1:
            raise InvalidOption(
                f"task 'filtering' needs data of particles and observations, got {spec.name!r} with samples of shape "
                f"{spec.input_shape}; take data gaussian_stream, mixture_stream, linear_dynamical_system or csv_stream"
            )
        if self._given is None and spec.likelihood is None:
            raise InvalidOption(
                f"task 'filtering': data {spec.name!r} name no likelihood; write task: {{name: filtering, likelihood: "
                "linear_gaussian}, or give an object: Filtering(likelihood=...)"
            )
        observations, particles, state = spec.target_shape
        self._likelihood = self._given or likelihood_of(spec.likelihood)
        self._likelihood.check((spec.input_shape[0] - particles * state) // observations, state)
        self._shape = observations, particles, state
        return self._shape

    def split(self, batch: Any) -> tuple[Any, Any]:
        """``x``, and what the cost and the metrics need."""
        x, *rest = batch
        return x, tuple(rest)

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """Minus the log joint density at the particles, ``(batch,)``, a mean over particles and observations."""
        seen, mean, scale = target[:3]
        likelihood = self._likelihood
        if likelihood is None:
            raise InvalidOption("task 'filtering' was asked for a cost before output_shape(spec) named the likelihood")
        count = output.shape[1]
        total = output.new_zeros(output.shape[:3])
        for i in range(count):  # observation i is part of the evidence of every later one
            value = likelihood.log_prob(seen[:, i, None, None], output[:, i:])
            checked = check_log_likelihood(likelihood.name, value, tuple(output[:, i:].shape[:3]))
            if bool(torch.isinf(checked).any()):
                raise DataError(
                    f"likelihood {likelihood.name!r} is zero (log p = -inf) for some particles: a flow moves all of "
                    "them, and their divergence is infinite; take one that is positive everywhere"
                )
            total = total + torch.nn.functional.pad(checked, (0, 0, i, 0))
        return -(total + _log_normal(output, mean, scale)).mean((1, 2))

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``mean_error`` and ``covariance_error``."""
        return MetricCollection({"mean_error": MomentError(0), "covariance_error": MomentError(1)})

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``particles`` ``(batch, M, N, state)``."""
        return {"particles": output}

    def assimilate(self, network: Network, particles: Tensor, observation: Tensor) -> Tensor:
        """Posterior particles of particles ``(batch, N, state)`` and an observation ``(batch, observation)``.

        One set alone, ``(N, state)`` with ``(observation,)``, is taken too.  No gradient is kept; the parts of the
        network's own ``assimilate`` say what is refused.
        """
        with torch.no_grad():
            return network.assimilate(particles, observation)  # type: ignore[operator]

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """``particles.png`` where particles have two components: before, after, and the posterior's ellipse."""
        from odeframe import plots
        from odeframe_plugins.tasks.filtering_picture import picture

        _, particles, state = self._shape
        if state != 2:
            return []
        x, target = self.split(batch)
        with torch.no_grad():
            output = network(x)
        first = x[:, : particles * state].reshape(-1, 1, particles, state)
        sets = torch.cat([first, output], dim=1)
        return [plots.save(picture(sets, target[3], target[4]), folder / "particles.png")]


def _log_normal(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """``log N(x; mean, scale scale^T)`` without ``(2 pi)^{-d/2}``, ``(batch, M, N)`` of ``(batch, M, N, state)``."""
    residual = (x - mean[:, None, None]).flatten(1, 2).transpose(1, 2)
    white = torch.linalg.solve_triangular(scale, residual, upper=False).transpose(1, 2).reshape(x.shape)
    spread = torch.diagonal(scale, dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - spread[:, None, None]


class MomentError(Metric):
    """Root mean square distance of a moment of the particles after the last observation to the posterior's.

    Args:
        order: 0 for the mean, 1 for the covariance.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, order: int) -> None:
        super().__init__()
        self.order = order
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any) -> None:
        """Takes particles ``(batch, M, N, state)`` and the task's target."""
        error = moments(output[:, -1])[self.order] - target[3 + self.order][:, -1]
        self.total += error.square().flatten(1).mean(1).sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The root of the mean, 0-d; ``nan`` before the first sample."""
        return (self.total / self.count).sqrt()
