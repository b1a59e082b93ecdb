"""The method of successive approximations: what its variants share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from odeframe import ControlTrainer, InvalidOption, SolveFailed
from odeframe.pontryagin import Sweep, Terminal, check_repeatable, forward, of_batch, sweep, trainable
from odeframe.reduction import average
from odeframe.stepmap import State, StepMap
from odeframe.trainer import Trained, optimizer_step
from odeframe_plugins.trainers.ascent import Ascent, Inner, Search
from odeframe_plugins.trainers.hamiltonian import ControlCosts, ControlHamiltonian, groups_of

COARSE = 1e-4
"""Precision of a type in which differences of a Hamiltonian are round-off: float16's is 1e-3, bfloat16's 8e-3."""


@dataclass
class Problem:
    """The optimal control problem of one batch: minimise ``J(z_N) + R(u)`` over the control of the steps.

    Attributes:
        steps: the step maps.
        z: the first state.
        terminal: ``J`` of the last state.
        costs: ``R``, where the control has a cost.
    """

    steps: Sequence[StepMap]
    z: State
    terminal: Terminal
    costs: ControlCosts | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The control, each tensor once."""
        return list({id(p): p for step in self.steps for p in trainable(step).values()}.values())

    def sweep(self) -> Sweep:
        """States and costates under the present control."""
        return sweep(self.steps, self.z, self.terminal)

    def objective(self) -> float:
        """``J + R`` under the present control, the mean over the ranks."""
        with torch.no_grad():
            J = self.terminal(forward(self.steps, self.z)[-1])
        return self.total(J)

    def total(self, J: Tensor) -> float:
        """``J + R``, the mean over the ranks."""
        return float(average([self.local(J)])[0])

    def local(self, J: Tensor) -> Tensor:
        """``J + R`` of this rank, 0-d."""
        return J.detach() if self.costs is None else J.detach() + self.costs().detach()

    @contextmanager
    def untouched_on_error(self) -> Iterator[list[Tensor]]:
        """Puts the parameters back if an error is raised; gives what they were."""
        before = [p.detach().clone() for p in self.parameters]
        try:
            yield before
        except BaseException:
            self.write(before)
            raise

    def write(self, values: Sequence[Tensor]) -> None:
        """Sets the parameters."""
        with torch.no_grad():
            for p, value in zip(self.parameters, values, strict=True):
                p.copy_(value)
                p.grad = None


@dataclass
class Report:
    """What one batch came to.

    Attributes:
        loss: ``J + R`` before, on this rank, 0-d.
        gain: ``sum_k Delta H~_k`` of the control that was taken.
        evaluations: of Hamiltonians of groups, each an evaluation of all of its step maps.
        rejected: sweeps that were not taken.
    """

    loss: Tensor
    gain: float
    evaluations: int
    rejected: int = 0


class SuccessiveApproximations(ControlTrainer):
    """Forward, backward, then the control of each group of steps to where its Hamiltonian is largest.

    Subclasses give :meth:`improve`.  Steps that share parameters are one group, whose Hamiltonians are summed; the
    others are maximised each for itself.  One sweep is made of every batch: with a batch of all the data, it is the
    method itself.  The optimiser of the module is not used; its steps count batches.

    Args:
        inner: how a Hamiltonian is maximised: ``"lbfgs"``, ``"adam"``, or ``"closed_form"`` where it is quadratic and
            ``"lbfgs"`` elsewhere.
        iterations: of the inner search.
        inner_learning_rate: step length of ``"adam"``.
    """

    automatic_optimization: ClassVar[bool] = False
    traits: ClassVar[tuple[str, ...]] = ("ddp",)

    def __init__(self, search: Search) -> None:
        self.search = search

    def setup(self, module: Trained) -> None:
        """Refuses layers that a repeated evaluation would change."""
        check_repeatable([module.network])
        for flow in module.network.flows:
            flow.steps()  # refuses a solver without step maps

    @abstractmethod
    def improve(self, problem: Problem) -> Report:
        """Changes the parameters of a problem in place."""

    def numbers(self) -> dict[str, float]:
        """Further numbers for the log."""
        return {}

    def training_step(self, module: Trained, batch: Any) -> Tensor:
        """One sweep on the batch; returns the objective before it."""
        problem = Problem(*of_batch(module.network, module.task, batch), module.control_cost)
        with problem.untouched_on_error():
            report = self.improve(problem)
        optimizer_step(module)
        numbers = {
            "gain": report.gain,
            "evaluations": report.evaluations,
            "rejected": report.rejected,
            **self.numbers(),
        }
        named = {f"train_{name}": float(value) for name, value in numbers.items()}
        module.log_dict(named, on_step=False, on_epoch=True, batch_size=problem.z[0].shape[0], sync_dist=True)
        return report.loss

    def maximise(self, problem: Problem, swept: Sweep, rho: float = 0.0) -> tuple[list[Ascent], int]:
        """Raises every group's Hamiltonian on a trajectory; the ascents, and how many evaluations they took.

        Raises:
            InvalidOption: none was raised, although their slopes are not small.
        """
        ascents, evaluations = [], 0
        for group in groups_of(swept):
            hamiltonian = ControlHamiltonian(swept, group, rho, problem.costs)
            ascents.append(self.search(hamiltonian))
            evaluations += hamiltonian.evaluations
        if not any(ascent.gain > 0 for ascent in ascents):
            self._refuse_if_steep(problem, swept, ascents)
        return ascents, evaluations

    def _refuse_if_steep(self, problem: Problem, swept: Sweep, ascents: Sequence[Ascent]) -> None:
        size = math.sqrt(sum(float(p.detach().square().sum()) for p in problem.parameters))
        slope = math.hypot(*(ascent.slope for ascent in ascents))
        precision = torch.finfo(swept.objective.dtype).eps
        scale = abs(problem.total(swept.objective)) + max((abs(ascent.before) for ascent in ascents), default=0.0)
        if slope * (1 + size) > math.sqrt(precision) * scale:
            name, rate = self.search.inner, self.search.learning_rate
            if precision > COARSE:
                hint = f"trainer.precision: 32-true; {swept.objective.dtype} does not resolve what it searches for"
            elif name == "adam":
                hint = f"a {'larger' if rate < precision else 'smaller'} inner_learning_rate"
            else:
                hint = "more iterations, or float64"
            raise InvalidOption(
                f"trainer option inner: {name!r} found no ascent of any Hamiltonian in {self.search.iterations} "
                f"iterations, though the slope is {slope:.2g}: write {hint}"
            )

    hint: ClassVar[str] = ""
    """What helps, beside a better solve, where the objective is no number."""

    def check_finite(self, loss: float) -> None:
        """Raises ``SolveFailed`` where the objective of this rank's batch is no number."""
        if not math.isfinite(loss):
            raise SolveFailed(f"the objective of the batch is {loss}{self.hint}", status="non-finite")


__all__ = ["Inner", "Problem", "Report", "SuccessiveApproximations"]
