"""How probable a sample is, and new ones like it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
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

    A network of flows, and of permutations of components between them, takes a sample ``x`` ``(batch, *state)`` to
    ``z``; the running costs ``log_density`` of its flows are the second term.  Targets that the data have are left
    aside.

    With ``logit = a`` the network gets ``y = log s' / (1 - s')``, ``s' = a + (1 - 2 a) (x - low) / (high - low)``, of
    data between ``low`` and ``high``, and the logarithm of ``dy/dx`` is part of ``log p(x)``.

    ``module.log_prob(x)`` is ``log p`` ``(batch,)`` by the exact trace, ``module.sample(n)`` draws ``(n, *state)`` by
    the flows from last to first.

    Metrics: ``nll``, the mean of ``-log p`` in nats (in validation and test by the estimate that training has), and
    ``bits_per_dim = nll / (d log 2)``.  Of counts that uniform noise has made continuous, ``nll`` has the constant
    ``-d log quantum``, so that it bounds the mean of ``-log P`` of the counts themselves from above.

    Args:
        logit: ``a``, in (0, 0.5), for data with a least and a greatest number; None for data as they are.

    Raises:
        InvalidOption: ``logit`` is outside (0, 0.5), or the data state no range.
        Incompatible: the network is not made of flows with the running cost ``log_density`` (``bind``).

    Source: Chen et al. 2018, Neural Ordinary Differential Equations, 4; Grathwohl et al. 2019, FFJORD; of images
        Theis et al. 2016, A Note on the Evaluation of Generative Models, 3.1; Dinh et al. 2017, Real NVP, 4.1.
    """

    monitor = "nll"
    monitor_mode = "min"
    offers: ClassVar[tuple[str, ...]] = ("log_prob", "sample")

    def __init__(self, logit: float | None = None) -> None:
        if logit is not None and not 0 < logit < 0.5:
            raise InvalidOption(f"task 'density': option logit: got {logit}, expected a number in (0, 0.5), or null")
        self.logit = logit
        self._state: tuple[int, ...] = ()
        self._scale: LogitScale | None = None

    def bind(self, network: Network) -> None:
        """Holds the network against what a density needs."""
        costs = [each for flow in network.flows for each in flow.quadratures if isinstance(each, LogDensity)]
        others = [name for name, stage in network.stages.items() if not _invertible(stage)]
        if others or not costs or len(costs) < len(network.flows):
            raise Incompatible(
                f"task 'density' is put to flows with the running cost 'log_density', got {len(network.stages)} "
                f"stages, {len(network.flows)} of them flows, {len(costs)} with that cost; write architecture: cnf, or "
                "cnf_image for images"
            )

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """The sample's, remembered for :meth:`log_prob` and :meth:`sample`."""
        self._state = tuple(spec.input_shape)
        if self.logit is not None:
            if spec.input_range is None:
                raise InvalidOption(
                    f"task 'density': option logit: data {spec.name!r} state no least and greatest number; leave it out"
                )
            self._scale = LogitScale(self.logit, *spec.input_range)
        return self._state

    def split(self, batch: Any) -> tuple[Any, Any]:
        """What the network gets, and ``log |dy/dx|`` ``(batch,)`` of the logit, ``None`` without."""
        x, _ = super().split(batch)
        return (x, None) if self._scale is None else self._scale(x)

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``-log N(z; 0, I) - log |dy/dx|``, ``(batch,)``."""
        z = output.flatten(1)
        base = 0.5 * z.square().sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi)
        return base if target is None else base - target

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``nll`` and ``bits_per_dim``, updated with ``-log p`` ``(batch,)``."""
        size = math.prod(spec.input_shape)
        constant = 0.0 if spec.quantum is None else -size * math.log(spec.quantum)
        return MetricCollection({"nll": Mean(1.0, constant), "bits_per_dim": Mean(1 / (size * math.log(2)), constant)})

    def score(self, metrics: MetricCollection, outcome: Outcome, target: Any) -> None:
        """``-log p`` of a batch, without further costs that a user adds."""
        change = torch.stack([each.quadratures[LogDensity.name][-1] for each in outcome.solutions]).sum(0)
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
        if not torch.is_tensor(x) or not x.is_floating_point() or x.dim() < 2:
            got = f"{tuple(x.shape)} of {x.dtype}" if torch.is_tensor(x) else type(x).__name__
            raise DataError(f"log_prob: got {got}, expected floating-point samples (batch, *state)")
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
            raise DataError(f"log_prob: sample {bad} is not finite, and has no density; remove it first")
        if tuple(x.shape[1:]) != self._state:
            raise DataError(f"log_prob: got samples of shape {tuple(x.shape[1:])}, expected {self._state}")
        z, target = self.split(x)
        changes = [x.new_zeros(x.shape[0])]
        for stage in network.stages.values():
            if not isinstance(stage, Flow):
                z = stage(z)
                continue
            solution = stage.solve(z, quadratures=[LogDensity()])
            z = solution.final
            changes.append(solution.quadratures[LogDensity.name][-1])
        return -self.cost(z, target) - torch.stack(changes).sum(0)

    def sample(self, network: Network, n: int, times: Any = None) -> Tensor:
        """``n`` samples ``(n, *state)``, by torch's generator.

        Args:
            network: the network (given by the module).
            n: how many, 0 or more.
            times: of a network of one flow, times that fall from the end of its horizon, where the draws are normal;
                the states on the way are given at them, ``(num_times, n, *state)``.  Default the samples alone.

        Raises:
            InvalidOption: ``n`` or the times are none of these.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InvalidOption(f"sample: got n = {n!r}, expected a whole number of at least 0")
        if times is not None and len(network.stages) > 1:
            raise InvalidOption(
                f"sample: got times, and a network of {len(network.stages)} stages has several horizons"
            )
        like = next(network.parameters())
        z = torch.randn(n, *self._state, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            if times is not None:
                flow = network.flows[0]
                return self._from_network(flow.solve(z, _falling(flow, times), quadratures=[]).states)
            stages: list[Any] = list(network.stages.values())
            for stage in stages[::-1]:
                if isinstance(stage, Flow):
                    z = stage.solve(z, stage.horizon[::-1], quadratures=[]).final
                else:
                    z = stage.inverse(z)
        return self._from_network(z)

    def _from_network(self, y: Tensor) -> Tensor:
        return y if self._scale is None else self._scale.inverse(y)

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """Where samples have two components ``density.png``: data, density, samples, and the flow on its way.

        Of images ``samples.png``: of the data, and of the density.
        """
        from odeframe import plots, plots_density

        x, _ = super().split(batch)
        if x.dim() == 4 and x.shape[1] in (1, 3):
            return [plots.save(plots_density.image_picture(self, network, x), folder / "samples.png")]
        if x.shape[1:] != (2,):
            return []
        return [plots.save(plots_density.density_picture(self, network, x), folder / "density.png")]


def _invertible(stage: nn.Module) -> bool:
    """A flow, or a permutation of components that can be taken back."""
    return isinstance(stage, Flow) or hasattr(stage, "inverse")


class LogitScale:
    """``y = log s / (1 - s)``, ``s = a + (1 - 2 a) (x - low) / (high - low)``.

    Args:
        a: keeps ``s`` away from 0 and 1.
        low: least number of the data.
        high: greatest number of the data.
    """

    def __init__(self, a: float, low: float, high: float) -> None:
        self.a, self.low, self.slope = a, low, (1 - 2 * a) / (high - low)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and ``log |dy/dx| = sum log(slope / (s (1 - s)))``, ``(batch,)``.

        Raises:
            DataError: a number is so far outside the range that it has no logit.
        """
        s = self.a + self.slope * (x - self.low)
        outside = ~((s > 0) & (s < 1)).flatten(1).all(1)
        if bool(outside.any()):
            sample, reach = int(outside.nonzero()[0]), self.a / self.slope
            low, high = self.low - reach, self.low + (1 - self.a) / self.slope
            raise DataError(
                f"task 'density': sample {sample} has components outside ({low:.4g}, {high:.4g}), which have no logit; "
                "give data in the unit that the data module has, or leave out the option logit"
            )
        return torch.logit(s), (math.log(self.slope) - torch.log(s) - torch.log1p(-s)).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """``x``, of the shape of ``y``."""
        return self.low + (torch.sigmoid(y) - self.a) / self.slope


class Mean(Metric):
    """The mean of numbers ``(batch,)`` and a constant, times a unit.

    Args:
        unit: the factor.
        constant: what is added to each number.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, unit: float, constant: float = 0.0) -> None:
        super().__init__()
        self.unit, self.constant = unit, constant
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any) -> None:
        """Takes numbers ``(batch,)``."""
        self.total += output.sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The mean, 0-d; ``nan`` before the first sample."""
        return self.unit * (self.total / self.count + self.constant)


def _falling(flow: Flow, times: Any) -> Tensor:
    """Checked times, refused where they do not begin at the end of the flow."""
    (start, end), checked = flow.horizon, flow.times(times)
    if abs(float(checked[0]) - end) > 1e-9 * abs(end - start):
        raise InvalidOption(
            f"sample: got times from {float(checked[0]):g} to {float(checked[-1]):g}, expected times that begin at "
            f"{end:g}, where the draws are normal, and go back to {start:g}, e.g. ({end:g}, {start:g})"
        )
    return checked
