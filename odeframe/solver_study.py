"""One trained network under many solvers: its scheme at other steps and tolerances, and schemes of others."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odeframe.block import Block
from odeframe.compatibility import traits_of, why
from odeframe.dynamics import observed
from odeframe.errors import Incompatible, OdeframeError
from odeframe.flow import Flow
from odeframe.inference import without_graph
from odeframe.module import FlowModule
from odeframe.network import offer
from odeframe.registry import build, registered, word
from odeframe.solver import Solver, StepSolver

__all__ = ["Study", "Trial"]

FACTORS = (0.25, 0.5, 1, 2, 4, 8)
"""Numbers of steps, as multiples of those of the training."""
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
MOST_STEPS = 1000
"""Of an adaptive solve: what takes more has no solution that it is worth to look for."""
STEPPERS = ("euler", "midpoint", "rk4")
ADAPTIVE = ("bosh3", "dopri5")
FINE = 1e-5
"""Adaptive solvers at this tolerance are references: the equation, as far as single precision shows it."""


@dataclass
class Trial:
    """The network under one solver.

    Attributes:
        solver: its name.
        setting: what it was set to, for a table.
        word: what ``--model.solver`` takes.
        steps: of all flows together, where it takes equal ones.
        own: whether it is the scheme of the training.
        trained: whether it is that at the steps or tolerances of the training too.
        finer: whether it is more exact than the training, so that the verdict rests on it.
        score: the task's metric.
        nfe: evaluations of the dynamics a batch.
        outputs: of the gradient's batch, ``(batch, *output)``.
        gradient: ``dJ/du`` of that batch, all parameters as one vector.
        gradient_difference: from that of the trained scheme, ``|g - g0| / max(|g|, |g0|)``.
        kept: whether the score is.
        exact: whether the gradient is, too.
        failure: why there is no result.
    """

    solver: str
    setting: str
    word: dict[str, Any]
    steps: int | None = None
    own: bool = False
    trained: bool = False
    finer: bool = False
    score: float = math.nan
    nfe: float = math.nan
    outputs: Tensor | None = field(default=None, repr=False)
    gradient: Tensor | None = field(default=None, repr=False)
    gradient_difference: float = math.nan
    kept: bool = False
    exact: bool = False
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data; what is not known is ``None``."""
        names = ("solver", "setting", "trained", "finer", "score", "kept", "gradient_difference", "nfe", "failure")
        values = {name: getattr(self, name) for name in names}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


class Study:
    """A copy of a network whose solvers are exchanged, with the data that it is put to.

    Args:
        module: the network, copied and put into evaluation.
        batches: of data with targets; the gradient is that of the first.
    """

    def __init__(self, module: FlowModule, batches: Sequence[Any]) -> None:
        self.module, self.batches = copy.deepcopy(module).eval(), batches
        self.metric, self.mode = module.task.monitor, module.task.monitor_mode
        self.flows: list[Flow] = self.module.network.flows
        self.schemes: list[Any] = [flow.solver for flow in self.flows]
        self.stepped = all(isinstance(scheme, StepSolver) for scheme in self.schemes)
        for flow in self.flows:
            flow.gradient = build("gradient", "backprop")

    @property
    def name(self) -> str:
        """The solver's, of the first flow."""
        component = registered("solver", self.schemes[0])
        return type(self.schemes[0]).__name__ if component is None else component.name

    def trials(self, solvers: Sequence[str] | None) -> list[Trial]:
        """The network under its own scheme and those of others; by default ``STEPPERS`` and ``ADAPTIVE`` that fit.

        Raises:
            Incompatible: a solver that is named cannot solve this network.
        """
        return [*self._own(), *(trial for name in self._others(solvers) for trial in self._family(name))]

    def run(self, trial: Trial, solvers: Sequence[Solver]) -> Trial:
        """Fills in what the network makes under these solvers, one a flow."""
        for flow, solver in zip(self.flows, solvers, strict=True):
            flow._modules.pop("solver", None)
            object.__setattr__(flow, "solver", solver)  # not a child: its coefficients belong to the control
        try:
            trial.score, trial.nfe = self._score()
            trial.outputs, trial.gradient = self._gradient()
        except OdeframeError as error:
            trial.failure = str(error)
        return trial

    def _score(self) -> tuple[float, float]:
        metrics: Any = self.module.task.metrics(self.module.spec)
        losses, counts = [], []
        for batch in self.batches:
            with without_graph(batch) as ordinary:
                found = self.module.objective(ordinary)
                self.module.task.score(metrics, found.outcome, found.target)
            losses.append(float(found.loss))
            counts.append(self.module.network.stats.nfe)
        values = metrics.compute()
        score = float(values[self.metric]) if self.metric in values else sum(losses) / len(losses)
        return score, sum(counts) / len(counts)

    def _gradient(self) -> tuple[Tensor, Tensor]:
        weights = [each for each in self.module.parameters() if each.requires_grad]
        with torch.enable_grad():
            found = self.module.objective(self.batches[0])
            grads = torch.autograd.grad(found.loss, weights, allow_unused=True)
        whole = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
        return found.outcome.output.detach(), torch.cat([each.reshape(-1) for each in whole])

    def _own(self) -> list[Trial]:
        """The trained scheme at other numbers of steps, or at other tolerances."""
        if self.stepped:
            return [self._at_steps(self.name, self.schemes, each, own=True) for each in FACTORS if self._divides(each)]
        factors = (100, 10, 1, 0.1, 0.01) if all(hasattr(scheme, "rtol") for scheme in self.schemes) else (1,)
        return [self._at_tolerance(factor) for factor in factors]

    def _at_tolerance(self, factor: float) -> Trial:
        """The trained scheme at a multiple of its tolerances."""
        made: list[Any] = [copy.copy(scheme) for scheme in self.schemes]
        chosen: dict[str, Any] = {"name": self.name}
        setting = "as trained"
        if hasattr(made[0], "rtol"):
            setting = f"rtol {factor * tolerances(made[0])[0]:.0e}" + (", trained" if factor == 1 else "")
        if factor != 1:
            for each in made:
                each.rtol, each.atol = (factor * value for value in tolerances(each))
            chosen |= {"rtol": made[0].rtol, "atol": made[0].atol}
        trial = Trial(self.name, setting, chosen, own=True, trained=factor == 1, finer=factor < 1)
        return self.run(trial, made)

    def _divides(self, factor: float) -> bool:
        """Whether that many times the steps is a whole number for every flow, and none straddles a breakpoint."""
        counts = [num_steps(flow, scheme) * factor for flow, scheme in zip(self.flows, self.schemes, strict=True)]
        return all(n == round(n) and round(n) % pieces(flow) == 0 for n, flow in zip(counts, self.flows, strict=True))

    def _at_steps(self, name: str, schemes: Sequence[Any], factor: float, own: bool) -> Trial:
        """A step solver at a multiple of the trained number of steps, or of the number of pieces."""
        made, counts = [], []
        for flow, trained, scheme in zip(self.flows, self.schemes, schemes, strict=True):
            base = num_steps(flow, trained) if self.stepped else pieces(flow)
            twin = copy.copy(scheme)
            twin.steps, twin.dt = round(base * factor), None
            made.append(twin)
            counts.append(twin.steps)
        chosen = {"name": name, **({"steps": counts[0]} if len(set(counts)) == 1 else {})}
        trained_too = own and factor == 1
        unit = "step" if counts == [1] else "steps"
        setting = f"{'+'.join(map(str, counts))} {unit}" + (", trained" if trained_too else "")
        trial = Trial(name, setting, chosen, sum(counts), own, trained_too, own and factor > 1)
        return self.run(trial, made)

    def _others(self, wanted: Sequence[str] | None) -> list[str]:
        """Solvers that go with the network's parts and solve the same equation as its own scheme."""
        bound = any(isinstance(part, Block) and part.solver is not None for part in self.module.modules())
        if bound or any(getattr(scheme, "slots", 1) > 1 for scheme in self.schemes):
            if wanted:
                raise Incompatible(
                    f"solve-check: {self.name} has coefficients, or several blocks a step, of the network's own, which "
                    "no other solver has; leave --solvers out"
                )
            return []
        if wanted is None:
            return [name for name in (*STEPPERS, *ADAPTIVE) if not self._reasons(name)]
        bad = [reason for name in wanted for reason in self._reasons(name)]
        if bad:
            raise Incompatible(f"solve-check: {' '.join(bad)}")
        return list(wanted)

    def _reasons(self, name: str) -> list[str]:
        """Why a solver does not solve the network's equation; empty where it does."""
        second = "second_order" in self.schemes[0].traits
        if ("second_order" in traits_of("solver", name)) != second:
            return [f"solver {name!r} is for {'first' if second else 'second'}-order equations."]
        choices: list[tuple[str, Any]] = [("gradient", "backprop")]
        for flow in self.flows:
            choices += [("dynamics", observed(flow.dynamics)), ("control", flow.control)]
        return list(dict.fromkeys(each for kind, part in choices for each in why("solver", name, kind, part)))

    def _family(self, name: str) -> list[Trial]:
        """Another solver at several numbers of steps, or at several tolerances."""
        if name == self.name:
            return []
        if isinstance(build("solver", name), StepSolver):
            factors = [each for each in FACTORS if self._divides(each)] if self.stepped else [1, 2, 4, 8, 16]
            return [self._at_steps(name, [build("solver", name) for _ in self.flows], f, own=False) for f in factors]
        trials = []
        for rtol in TOLERANCES:
            options = {"rtol": rtol, "atol": rtol}
            trial = Trial(name, f"rtol {rtol:.0e}", {"name": name, **options}, finer=rtol <= FINE)
            made = [offer(word("solver", name), **options, max_steps=MOST_STEPS) for _ in self.flows]
            trials.append(self.run(trial, made))
        return trials


def num_steps(flow: Flow, solver: StepSolver) -> int:
    """How many steps a solver takes over a flow's horizon."""
    return len(solver.grid(flow.field(), flow.times(None)).spacing)


def pieces(flow: Flow) -> int:
    """How many intervals without a jump there are."""
    return len(flow.control.breakpoints()) + 1


def tolerances(scheme: Any) -> tuple[float, float]:
    """``(rtol, atol)`` in single precision, a solver's own where they are left out."""
    if hasattr(scheme, "tolerances"):
        return scheme.tolerances(torch.float32)
    rtol = scheme.rtol or 1e-4
    return rtol, scheme.atol or rtol / 100
