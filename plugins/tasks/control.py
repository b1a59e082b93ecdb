"""Optimal control proper: given a system, initial states and costs, find the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from odeframe import Incompatible
from odeframe.flow import Flow
from odeframe.network import Network, Outcome
from odeframe.solver import StepSolver
from odeframe.specification import DataSpec
from odeframe.system import ControlSystem
from odeframe.task import Task
from odeframe_plugins.tasks.optimality import bellman_residual, pontryagin_residual

__all__ = ["Control"]

SCORES = ("cost", "optimum", "hjb_residual", "pmp_residual")
"""The columns of what metrics are updated with, ``(batch, 4)``."""
DRAWN = 24
"""Samples in the picture."""


class Control(Task):
    """``min_u J``, ``J = mean_i [Phi(x_i(T)) + int L(t, x_i, u_i) dt]``: the costs are the system's own.

    A batch is initial states ``(batch, *state)``, the output the states at the last time.

    Metrics: ``cost``, ``J`` without further costs that a user adds; where the system knows its value function ``V``,
    ``gap = (J - mean V(x0)) / mean V(x0)`` and ``hjb_residual``; with a step solver ``pmp_residual``.  Both residuals
    are 0 at an optimum that may depend on the state, see :mod:`odeframe_plugins.tasks.optimality`.

    Args:
        residuals: whether the residuals are computed, at the price of a forward and a backward pass a batch.

    Raises:
        Incompatible: the network is not one flow of an ``odeframe.ControlSystem`` (``bind``).

    Source: Bryson, Ho 1975, Applied Optimal Control, 2 and 4.
    """

    monitor = "cost"
    monitor_mode = "min"

    def __init__(self, residuals: bool = True) -> None:
        self.residuals = residuals
        self._flow: Flow | None = None
        self._system: ControlSystem | None = None

    def bind(self, network: Network) -> None:
        """Takes the system whose cost it is."""
        flows, stages = network.flows, len(network.stages)
        if len(flows) != 1 or stages != 1 or not isinstance(flows[0].dynamics, ControlSystem):
            raise Incompatible(
                "task 'control' is put to one flow of an odeframe.ControlSystem without stem and head, got "
                f"{stages} stages, {len(flows)} of them flows; write architecture: controlled_system"
            )
        self._flow, self._system = flows[0], flows[0].dynamics

    def output_shape(self, spec: DataSpec) -> tuple[int, ...]:
        """The state's."""
        return spec.input_shape

    def cost(self, output: Tensor, target: Any) -> Tensor:
        """``Phi``, ``(batch,)``; of a task that is put to no system yet, ``|x|^2 / 2``."""
        if self._system is None:
            return 0.5 * output.square().flatten(1).sum(1)
        return self._system.terminal_cost(output)

    def metrics(self, spec: DataSpec) -> MetricCollection:
        """Updated with scores ``(batch, 4)``, as :meth:`score` makes them."""
        found: dict[str, Metric | MetricCollection] = {"cost": Score(0)}
        if self._flow is None or self._system is None:
            return MetricCollection(found)
        known = self._system.value(torch.zeros(()), torch.zeros(1, *spec.input_shape)) is not None
        if known:
            found["gap"] = Gap()
        if known and self.residuals:
            found["hjb_residual"] = Score(2)
        if self.residuals and isinstance(self._flow.solver, StepSolver):
            found["pmp_residual"] = Score(3)
        return MetricCollection(found)

    def score(self, metrics: MetricCollection, outcome: Outcome, target: Any) -> None:
        """Cost, optimum and residuals of a batch."""
        assert self._flow is not None and self._system is not None
        solution, x0 = outcome.solutions[0], outcome.solutions[0].states[0]
        cost = self._system.terminal_cost(outcome.output) + solution.quadratures["lagrange"][-1]
        optimum = self._system.value(torch.tensor(self._flow.horizon[0]), x0)
        scores = torch.zeros(len(x0), len(SCORES), dtype=cost.dtype, device=cost.device)
        scores[:, 0] = cost
        if optimum is not None:
            scores[:, 1] = optimum
            if self.residuals:
                scores[:, 2] = bellman_residual(self._flow, x0)
        if self.residuals and isinstance(self._flow.solver, StepSolver):
            scores[:, 3] = pontryagin_residual(self._flow, x0)
        metrics.update(scores, None)

    def predict(self, output: Tensor, spec: DataSpec) -> dict[str, Tensor]:
        """``state`` ``(batch, *state)``, at the last time."""
        return {"state": output}

    def draw(self, network: Network, batch: Any, folder: Path) -> list[Path]:
        """``control.png``: states and inputs of some samples over time."""
        from odeframe import plots, plots_control

        x0 = self.split(batch)[0][:DRAWN]
        paths = plots_control.controlled_paths("", network.flows[0], x0)
        return [plots.save(plots_control.paths_over_time([paths]), folder / "control.png")]


class Score(Metric):
    """The mean of one column of the scores of :class:`Control`.

    Args:
        column: which.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any) -> None:
        """Takes scores ``(batch, num_scores)``."""
        self.total += output[:, self.column].sum()
        self.count += len(output)

    def compute(self) -> Tensor:
        """The mean, 0-d."""
        return self.total / self.count


class Gap(Metric):
    """``(sum J - sum V) / sum V`` of the first two columns: how much dearer than the best feedback."""

    higher_is_better = False
    full_state_update = False
    cost: Tensor
    optimum: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("cost", "optimum"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Any) -> None:
        """Takes scores ``(batch, num_scores)``."""
        self.cost += output[:, 0].sum()
        self.optimum += output[:, 1].sum()

    def compute(self) -> Tensor:
        """The relative gap, 0-d."""
        return (self.cost - self.optimum) / self.optimum
