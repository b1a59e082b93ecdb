"""How probable a sample is, and new ones like it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from odeframe import DataError, Incompatible, InvalidOption
from odeframe.flow import Flow
from odeframe.jacobian_costs import LogDensity
from odeframe.network import Network, Outcome
from odeframe.specification import DataSpec
from odeframe.task import Task

__all__ = ["Density"]


class Density(Task):
    """``J = mean_i -log p(x_i)``, ``log p(x) = log N(z; 0, I) + int tr(df/dx) dt``, in nats.

    A network of one flow takes a sample ``x`` ``(batch, *state)`` to ``z`` at its last time; its running cost
    ``log_density`` is the second term.  Targets that the data have are left aside.

    ``module.log_prob(x)`` is ``log p`` ``(batch,)`` by the exact trace, ``module.sample(n)`` draws ``(n, *state)`` by
    the flow from its last time to its first.

    Metrics: ``nll``, the mean of ``-log p`` in nats (in validation and test by the estimate that training has), and
    ``bits_per_dim = nll / (d log 2)``.

    Raises:
        Incompatible: the network is not one flow with the running cost ``log_density`` (``bind``).

    Source: Chen et al. 2018, Neural Ordinary Differential Equations, 4; Grathwohl et al. 2019, FFJORD.
    """

    monitor = "nll"
    monitor_mode = "min"
    offers: ClassVar[tuple[str, ...]] = ("log_prob", "sample")

    def __init__(self) -> None:
        self._state: tuple[int, ...] = ()

    def bind(self, network: Network) -> None:
        """Holds the network against what a density needs."""
        flows = network.flows
        costs = [each for flow in flows for each in flow.quadratures if isinstance(each, LogDensity)]
        if len(flows) != 1 or len(network.stages) != 1 or not costs:
            raise Incompatible(
                f"task 'density' is put to one flow with the running cost 'log_density', got {len(network.stages)} "
                f"stages, {len(flows)} of them flows, {len(costs)} with that cost; write architecture: cnf"
            )

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """The sample's, remembered for :meth:`log_prob` and :meth:`sample`."""
        self._state = tuple(spec.input_shape)
        return self._state

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``-log N(z; 0, I)``, ``(batch,)``."""
        z = output.flatten(1)
        return 0.5 * z.square().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi)

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``nll`` and ``bits_per_dim``, updated with ``-log p`` ``(batch,)``."""
        return MetricCollection(
            {"nll": Mean(1.0), "bits_per_dim": Mean(1 / (math.prod(spec.input_shape) * math.log(2)))}
        )

    def score(self, metrics: MetricCollection, outcome: Outcome, target: Any) -> None:
        """``-log p`` of a batch, without further costs that a user adds."""
        change = outcome.solutions[0].quadratures[LogDensity.name][-1]
        metrics.update((self.cost(outcome.output, target) + change).detach(), None)

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``latent`` ``(batch, *state)``."""
        return {"latent": output}

    def log_prob(self, network: Network, x: Tensor) -> Tensor:
        """``log p(x)`` in nats, ``(batch,)``, by the exact trace; differentiable in ``x`` and in the weights.

        Args:
            network: the network (given by the module).
            x: ``(batch, *state)``.

        Raises:
            DataError: ``x`` has another shape than samples have, or is not finite.
        """
        flow = _flow(network)
        if not torch.is_tensor(x) or not x.is_floating_point() or x.dim() < 2:
            got = f"{tuple(x.shape)} of {x.dtype}" if torch.is_tensor(x) else type(x).__name__
            raise DataError(f"log_prob: got {got}, expected floating-point samples (batch, *state)")
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
            raise DataError(f"log_prob: sample {bad} is not finite, and has no density; remove it first")
        if tuple(x.shape[1:]) != self._state:
            raise DataError(f"log_prob: got samples of shape {tuple(x.shape[1:])}, expected {self._state}")
        solution = flow.solve(x, quadratures=[LogDensity()])
        return -self.cost(solution.final, None) - solution.quadratures[LogDensity.name][-1]

    def sample(self, network: Network, n: int, times: Any = None) -> Tensor:
        """``n`` samples ``(n, *state)``, by torch's generator.

        Args:
            network: the network (given by the module).
            n: how many, 0 or more.
            times: falling times in the flow's horizon at which the states on the way are given,
                ``(num_times, n, *state)``; default the samples alone.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InvalidOption(f"sample: got n = {n!r}, expected a whole number of at least 0")
        flow = _flow(network)
        like = next(flow.parameters())
        z = torch.randn(n, *self._state, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            solution = flow.solve(z, flow.horizon[::-1] if times is None else times, quadratures=[])
        return solution.final if times is None else solution.states

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """``density.png`` where samples have two components: data, density, samples, and the flow on its way."""
        from odeframe import plots, plots_density

        x, _ = self.split(batch)
        if x.shape[1:] != (2,):
            return []
        return [plots.save(plots_density.density_picture(self, network, x), folder / "density.png")]


def _flow(network: Network) -> Flow:
    return network.flows[0]


class Mean(Metric):
    """The mean of numbers ``(batch,)`` times a unit.

    Args:
        unit: the factor.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any) -> None:
        """Takes numbers ``(batch,)``."""
        self.total += output.sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The mean, 0-d; ``nan`` before the first sample."""
        return self.unit * self.total / self.count
