"""Which class a sample belongs to."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from odeframe.errors import DataError, Incompatible, InvalidOption
from odeframe.specification import DataSpec
from odeframe.task import Task

__all__ = ["Classification"]


class Classification(Task):
    """Cross-entropy of the softmax of the output.

    ``Phi(x, y) = -sum_c q_c log softmax(x)_c`` with ``q_c = (1 - s) [c = y] + s / C`` for ``C`` classes and
    label smoothing ``s``, in nats. The smoothing is part of Phi, in evaluation too.

    Outputs have shape ``(batch, C)``, targets are integers of shape ``(batch,)``. Metrics: ``accuracy``
    (share of samples whose largest output is the label; it says which model is best) and ``f1`` (mean over
    the classes).

    Args:
        label_smoothing: ``s``, from 0 up to, not including, 1.

    Raises:
        InvalidOption: where ``label_smoothing`` is outside its range.
        Incompatible: for data whose target is not a class (``output_shape``, ``metrics``).
        DataError: for labels that are missing, of another shape, not integers or outside 0 to C - 1
            (``cost``).

    Source:
        Szegedy et al. 2016, Rethinking the Inception Architecture, section 7, for the smoothing.
    """

    monitor = "accuracy"
    monitor_mode = "max"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise InvalidOption(
                f"task 'classification', option label_smoothing: got {label_smoothing}, expected a number >= 0 and < 1"
            )
        self.label_smoothing = label_smoothing

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """``(C,)``."""
        return (_num_classes(spec),)

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """Phi, shape ``(batch,)``, in the output's precision and at least float32."""
        labels = _checked_labels(output, target)
        logits = output.to(torch.promote_types(output.dtype, torch.float32))
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """``accuracy`` and ``f1``, updated with outputs ``(batch, C)`` and labels ``(batch,)``."""
        num_classes = _num_classes(spec)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "f1": MulticlassF1Score(num_classes, average="macro"),
            }
        )

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``label`` ``(batch,)``, int64, and ``probability`` ``(batch, C)``, of every class."""
        return {"label": output.argmax(1), "probability": output.softmax(1)}


def _num_classes(spec: DataSpec) -> int:
    if spec.target != "class" or spec.num_classes is None:
        instead = "; write task: regression" if spec.target == "value" else ""
        raise Incompatible(
            f"task 'classification' needs data with class labels, data {spec.name!r} has the target "
            f"{spec.target!r}{instead}"
        )
    return spec.num_classes


def _checked_labels(output: Tensor, target: Any) -> Tensor:
    if not isinstance(target, Tensor):
        raise DataError(f"task 'classification': got {type(target).__name__} for the labels, expected a tensor")
    if output.dim() != 2 or target.shape != output.shape[:1]:
        raise DataError(
            f"task 'classification': got outputs {tuple(output.shape)} and labels {tuple(target.shape)}, "
            "expected (batch, classes) and (batch,)"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise DataError(f"task 'classification': got labels of {target.dtype}, expected integers, e.g. torch.int64")
    num_classes = output.shape[1]
    # An index outside the range is an assertion on a GPU, which ends the process without naming the label.
    outside = (target < 0) | (target >= num_classes)
    if bool(outside.any()):
        raise DataError(
            f"task 'classification': got the label {int(target[outside][0])}, expected 0 to "
            f"{num_classes - 1} for {num_classes} classes; number the classes from 0, or state more of them "
            "in the data's specification"
        )
    return target.long()
