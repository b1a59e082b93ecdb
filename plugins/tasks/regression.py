"""Which numbers belong to a sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection

from odeframe.errors import DataError, Incompatible
from odeframe.specification import DataSpec
from odeframe.task import Task

__all__ = ["R2", "Regression", "RootMeanSquaredError"]


class Regression(Task):
    """Mean squared error over the target's dimensions.

    ``Phi(x, y) = (1/d) sum_j (x_j - y_j)^2`` for a target of ``d`` numbers, in the data's units squared (as a
    rule standardised ones).

    Outputs have shape ``(batch, *target_shape)``; a scalar target counts as ``(1,)``, and targets
    ``(batch,)`` are read as ``(batch, 1)``. Any other difference of shapes is an error, never broadcast.

    Metrics: ``mse`` (it says which model is best, and is the mean of Phi), ``mae``, ``r2``, all in the
    data's units, and ``rmse`` in the *original* ones: multiplied by the ``target_scale`` of the data's
    specification.

    Raises:
        Incompatible: for data whose target is not a value (``output_shape``, ``metrics``).
        DataError: for targets that are missing or of another shape than the outputs (``cost``, ``metrics``).
    """

    monitor = "mse"
    monitor_mode = "min"

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """The target's shape, ``(1,)`` for a scalar."""
        _check_values(spec)
        return spec.target_shape or (1,)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """``(input, target)`` with scalar targets as a column ``(batch, 1)``."""
        x, target = super().split(batch)
        if isinstance(target, Tensor) and target.dim() == 1:
            target = target.unsqueeze(1)
        return x, target

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """Phi, shape ``(batch,)``, in the output's precision and at least float32."""
        error = _error(output, target)
        return error.square().flatten(1).mean(1)

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``mse``, ``mae``, ``r2`` and ``rmse``, updated with outputs and targets of one shape."""
        _check_values(spec)
        return MetricCollection(
            {
                "mse": MeanSquaredError(),
                "mae": MeanAbsoluteError(),
                "r2": R2(math.prod(spec.target_shape)),
                "rmse": RootMeanSquaredError(spec.target_scale),
            }
        )

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``value`` ``(batch, *target_shape)``, in the original units of the target."""
        return {"value": spec.target_mean + spec.target_scale * output}


class RootMeanSquaredError(Metric):
    """``scale * sqrt(mean (x - y)^2)`` over all samples and dimensions, in the unit of ``scale``.

    Args:
        scale: how large one unit of the target is in the unit of the report.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    sum_squared: Tensor
    count: Tensor

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.add_state("sum_squared", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Takes outputs and targets ``(batch, *target_shape)``."""
        error = _error(output, target)
        self.sum_squared += error.square().sum()
        self.count += error.numel()

    def compute(self) -> Tensor:
        """The error, 0-d; ``nan`` before the first sample."""
        return self.scale * (self.sum_squared / self.count).sqrt()


class R2(Metric):
    """The coefficient of determination, averaged over the target's dimensions.

    ``R2 = mean_j [ 1 - sum_i (x_ij - y_ij)^2 / sum_i (y_ij - mean_i y_ij)^2 ]``; ``nan`` where it is
    undefined: for fewer than two samples, or a dimension whose targets are all equal.

    Args:
        num_outputs: how many numbers a target has.

    Source:
        The running sum of squares about the mean, which a difference of sums of squares would cancel, and
        how two of them merge: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance,
        equation 2.1.
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = True
    residual: Tensor
    mean: Tensor
    spread: Tensor
    count: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        for name in ("residual", "mean", "spread", "count"):
            # No reduction: means and spreads of ranks are not summed, compute() merges them.
            self.add_state(name, torch.zeros(num_outputs), dist_reduce_fx=None)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Takes outputs and targets ``(batch, *target_shape)``."""
        error = _error(output, target).flatten(1)
        values = (target if target.dim() > 1 else target.unsqueeze(1)).flatten(1).to(error.dtype)
        if len(values) == 0:
            return
        mean = values.mean(0)
        batch = (
            error.square().sum(0),
            mean,
            (values - mean).square().sum(0),
            torch.full_like(mean, len(values)),
        )
        merged = _merge((self.residual, self.mean, self.spread, self.count), batch)
        self.residual, self.mean, self.spread, self.count = merged

    def compute(self) -> Tensor:
        """R2, 0-d."""
        residual, mean, spread, count = self.residual, self.mean, self.spread, self.count
        if count.dim() == 2:  # one row a rank
            ranks = list(zip(residual, mean, spread, count, strict=True))
            total = ranks[0]
            for other in ranks[1:]:
                total = _merge(total, other)
            residual, mean, spread, count = total
        # A mean is rounded, so that equal targets have a spread of the size of that rounding rather than 0.
        rounding = count * (4 * torch.finfo(spread.dtype).eps * mean).square()
        ratio = residual / spread
        return torch.where((count < 2) | (spread <= rounding), torch.nan, 1 - ratio).mean()


def _merge(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = a[3] + b[3]
    shift = b[1] - a[1]
    share = b[3] / count.clamp(min=1)
    return a[0] + b[0], a[1] + shift * share, a[2] + b[2] + shift.square() * a[3] * share, count


def _check_values(spec: DataSpec) -> None:
    if spec.target != "value":
        instead = "; write task: classification" if spec.target == "class" else ""
        raise Incompatible(
            f"task 'regression' needs data whose target is a value, data {spec.name!r} has the target "
            f"{spec.target!r}{instead}"
        )


def _error(output: Tensor, target: Any) -> Tensor:
    """``output - target``, shape ``(batch, *target_shape)``, in the output's precision and at least "
    "float32."""
    if not isinstance(target, Tensor):
        raise DataError(f"task 'regression': got {type(target).__name__} for the target, expected a tensor")
    if target.dim() == 1 and output.shape == (len(target), 1):
        target = target.unsqueeze(1)
    if output.dim() < 2 or output.shape != target.shape:
        raise DataError(
            f"task 'regression': got outputs {tuple(output.shape)} and targets {tuple(target.shape)}, "
            "expected one shape (batch, *target_shape), or (batch, 1) and (batch,)"
        )
    dtype = torch.promote_types(output.dtype, torch.float32)
    return output.to(dtype) - target.to(dtype)
