"""What is asked: how a batch becomes input and target, the terminal cost Phi, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from odeframe.specification import DataSpec

if TYPE_CHECKING:
    from pathlib import Path

    from torchmetrics import MetricCollection

    from odeframe.network import Network, Outcome


class Task(ABC):
    """A question put to a network.

    The objective of a batch is ``J = mean_i [ Phi(x_i(T), y_i) + q_i(T) ]`` with the running costs ``q`` that the
    network's flows integrate; the task owns ``Phi``.
    """

    #: the metric that says which model is best, and whether more of it is better
    monitor: str = "loss"
    monitor_mode: str = "min"
    #: methods ``(network, ...)`` that a module put to the task has too, as ``module.name(...)``
    offers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """Shape of one sample's output, which the architecture's head must have."""

    @abstractmethod
    def cost(self, output: Tensor, target: Any) -> Tensor:
        """Terminal cost ``Phi``, shape ``(batch,)``, of outputs ``(batch, *output_shape)``."""

    def split(self, batch: Any) -> tuple[Any, Any]:
        """``(input, target)`` of a batch; a pair by default, the target ``None`` for a lone tensor."""
        if isinstance(batch, (tuple, list)):
            return (batch[0], batch[1]) if len(batch) > 1 else (batch[0], None)
        return batch, None

    def bind(self, network: Network) -> None:  # noqa: B027  (most tasks ask nothing of a network but its output)
        """Told of the network before anything else is asked: where a task finds what it needs of the dynamics."""

    @abstractmethod
    def metrics(self, spec: DataSpec) -> MetricCollection:
        """Fresh torchmetrics, updated by ``update(output, target)`` and named as they are logged."""

    def score(self, metrics: MetricCollection, outcome: Outcome, target: Any) -> None:
        """Updates metrics by a batch, without gradients: with output and target, where no task says otherwise."""
        metrics.update(outcome.output.detach(), target)

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """Pictures of what a trained network makes of a batch, written to a folder; none where no task says so."""
        return []

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """What ``predict`` writes for a batch of outputs: named tensors with a leading batch dimension."""
        return {"output": output}

    def write(self, predictions: Sequence[Mapping[str, Tensor]], folder: Path, names: Sequence[str]) -> Path | None:
        """Writes predictions as files of their own, and returns where; ``None`` where they are rows of a table.

        Args:
            predictions: by batch, what :meth:`predict` gave.
            folder: of the run.
            names: what the data call the samples, in order; empty where they have no names.
        """
        return None
