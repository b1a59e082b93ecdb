"""What every task must do, as a base class for pytest."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from odeframe.compatibility import compatible
from odeframe.data import DataModule, specification
from odeframe.errors import UnknownComponent
from odeframe.module import FlowModule
from odeframe.options import options_of
from odeframe.registry import resolve, word
from odeframe.specification import DataSpec
from odeframe.task import Task
from odeframe.testing.conformance import Conformance, said

SIZE = 6
STEPS = 12
PREFERRED = {"data": ("digits", "diabetes", "two_moons"), "architecture": ("resnet", "neural_ode")}


class TaskConformance(Conformance):
    """Set ``task`` to a word; ``data`` and ``architecture`` where others than the registered ones that fit are needed.

    Attributes:
        task: what is tested.
        data: the word of the data that it is put to.
        architecture: the word of the network that answers.
    """

    kind = "task"
    interface = Task
    task: ClassVar[Any] = None
    data: ClassVar[Any] = None
    architecture: ClassVar[Any] = None

    @classmethod
    def fitting(cls, kind: str) -> Any:
        """A registered part of a kind that goes with the task and needs no option: a well-known one where it can be."""
        given = getattr(cls, kind)
        if given is not None:
            return given
        names = compatible(kind, task=cls.choice())
        for name in sorted(names, key=lambda each: each not in PREFERRED[kind]):
            component = resolve(kind, name)
            try:
                known, _ = options_of(component.load())
            except UnknownComponent:  # an optional dependency is missing
                continue
            if not any(option.required for option in known):
                return name
        raise AssertionError(f"no registered {kind} goes with the task; say which: {kind} = ...")

    @classmethod
    def batch(cls) -> tuple[DataSpec, Any]:
        """The specification of the data, and its first training samples as a batch."""
        made = word("data", cls.fitting("data")).build()
        if isinstance(made, DataModule):
            rows: Any = made.dataset("train")
            return made.spec, default_collate([rows[index] for index in range(SIZE)])
        made.prepare_data()
        made.setup("fit")
        return specification(made), next(iter(made.train_dataloader()))

    def question(self) -> tuple[Task, DataSpec, Tensor, Any]:
        """The task, the data's specification, seeded outputs that ask for a gradient, and targets."""
        task, (spec, batch) = self.make(), self.batch()
        x, target = task.split(batch)
        generator = torch.Generator().manual_seed(1)
        shape = (x.shape[0], *task.output_shape(spec))
        return task, spec, torch.randn(shape, generator=generator).requires_grad_(True), target

    def test_output_shape_is_plain(self) -> None:
        """The head of a network is built from it."""
        task, (spec, _) = self.make(), self.batch()
        shape = task.output_shape(spec)
        assert isinstance(shape, tuple) and all(isinstance(length, int) and length > 0 for length in shape), (
            f"output_shape gives {shape!r}: give one sample's output shape as a tuple of numbers, without the batch"
        )

    def test_cost_is_a_number_for_each_sample(self) -> None:
        """``Phi`` has shape ``(batch,)``, is finite, and each sample's own."""
        task, _, output, target = self.question()
        with said(f"cost(output {tuple(output.shape)}, target)"):
            cost = task.cost(output, target)
        assert cost.shape == output.shape[:1], (
            f"cost has the shape {tuple(cost.shape)} for outputs {tuple(output.shape)}: one number for each sample, "
            "reduction='none' and a mean over the output's own dimensions; the mean over the batch comes later"
        )
        assert bool(torch.isfinite(cost).all()), "cost is not finite at normal outputs: take logarithms stably"
        (gradient,) = torch.autograd.grad(cost[0], output, retain_graph=True)
        assert bool(gradient[0].abs().sum() > 0), "cost has no derivative in the output: it was rounded or detached"
        assert not bool(gradient[1:].abs().sum() > 0), (
            "a sample's cost depends on the outputs of others: no statistics over dimension 0"
        )

    def test_metrics_can_be_monitored(self) -> None:
        """Metrics are fresh each time, take outputs and targets, and have the one that says which model is best."""
        task, spec, output, target = self.question()
        metrics, other = task.metrics(spec), task.metrics(spec)
        assert task.monitor == "loss" or task.monitor in metrics, (
            f"monitor = {task.monitor!r} is none of the metrics {sorted(map(str, metrics))}, and not 'loss'"
        )
        assert task.monitor_mode in ("min", "max"), f"monitor_mode is 'min' or 'max', got {task.monitor_mode!r}"
        with said("metrics.update(output, target)"):
            metrics.update(output.detach(), target)
        values = metrics.compute()
        bad = [name for name, value in values.items() if not math.isfinite(float(value))]
        assert not bad, f"the metrics {bad} are not finite"
        assert not any(metric.update_called for metric in other.values()), (
            "metrics() gave the same objects twice: build new ones, since each set of the data has its own"
        )

    def test_predictions_are_named_tensors(self) -> None:
        """``predict`` gives tensors by name, a row for each sample."""
        task, spec, output, _ = self.question()
        found = task.predict(output.detach(), spec)
        rows = {name: value.shape[:1] for name, value in found.items() if isinstance(value, Tensor)}
        assert found and len(rows) == len(found) and set(rows.values()) == {output.shape[:1]}, (
            f"predict gives {list(found)} with {rows} rows for {output.shape[0]} samples: named tensors (batch, ...)"
        )

    def test_a_network_learns_it(self) -> None:
        """Composed with data and a network, a few steps of gradient descent lower the objective of a batch."""
        spec, batch = self.batch()
        torch.manual_seed(0)
        with said("composed with data and a network, the task"):
            module = FlowModule(spec.to_dict(), self.fitting("architecture"), task=self.choice(), data=None)
            optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
            losses = []
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss = module.objective(batch).loss
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                losses.append(float(loss.detach()))
        assert min(losses[-3:]) < losses[0], (
            f"the objective of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} in {STEPS} steps: is the sign "
            "of the cost right, is it large where the output is bad?"
        )
