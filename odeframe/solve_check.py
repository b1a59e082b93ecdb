"""Is a trained network the differential equation that it claims to be, or is it tied to the scheme of its training?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from odeframe.errors import Incompatible, InvalidOption
from odeframe.module import FlowModule
from odeframe.solver_study import Study, Trial

__all__ = ["GRADIENT", "RELATIVE", "SCORE", "Report", "examine"]

SCORE = 0.01
"""How far a score of which more is better (accuracy, R2) may fall to count as kept."""
RELATIVE = 0.05
"""How far, as a part of itself, a score of which less is better (an error) may rise to count as kept."""
GRADIENT = 0.1
"""The relative difference up to which a gradient counts as kept."""


@dataclass
class Report:
    """What was found.

    Attributes:
        metric: name of the score.
        mode: ``"max"`` where more of it is better, else ``"min"``.
        trained: the network as it was trained.
        trials: under all solvers, that one too.
        order: the order in which the outputs converge as the trained scheme's steps are halved; ``None`` where it has
            no steps, or the differences are round-off.
        claimed: the scheme's own order.
        is_ode: the verdict.
        reasons: what speaks against it.
    """

    metric: str
    mode: str
    trained: Trial
    trials: list[Trial]
    order: float | None
    claimed: int | None
    is_ode: bool
    reasons: list[str]

    @property
    def limit(self) -> float:
        """The worst score that counts as kept."""
        return worst_kept(self.trained.score, self.mode)

    @property
    def cheapest(self) -> Trial:
        """Of those that keep the score, the one of fewest evaluations."""
        return min((each for each in self.trials if each.kept), key=lambda each: each.nfe)

    @property
    def cheapest_to_train(self) -> Trial:
        """Of those that keep score and gradient, the one of fewest evaluations."""
        return min((each for each in self.trials if each.exact), key=lambda each: each.nfe)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "verdict": "ode" if self.is_ode else "tied to its scheme",
            "reasons": self.reasons,
            "metric": self.metric,
            "order": self.order,
            "claimed_order": self.claimed,
            "thresholds": {"score": SCORE, "relative": RELATIVE, "gradient": GRADIENT},
            "cheapest": self.cheapest.word,
            "cheapest_to_train": self.cheapest_to_train.word,
            "trials": [each.to_dict() for each in self.trials],
        }


def examine(module: FlowModule, batches: Iterable[Any], solvers: Sequence[str] | None = None) -> Report:
    """Runs a trained network under finer and coarser steps of its scheme and under other solvers.

    The network is the equation ``dx/dt = f(t, x, u)`` as far as its score and its gradient are those of the equation.
    So it counts as one where under every solve that is more exact than its training - 2, 4 and 8 times the steps (10
    and 100 times tighter tolerances where it is adaptive), and adaptive solvers at 1e-5 - the score falls by at most
    0.01 (an error rises by at most 5 %), and the gradient of the objective is within 10 % of that of the trained
    scheme, ``|g - g0| <= 0.1 max(|g|, |g0|)``. Otherwise it is tied to its scheme: the errors of
    the steps are part of what it has learned. Steps of a piecewise control split its pieces, and none straddles a
    breakpoint.

    Args:
        module: the network; it is copied, and evaluated as in a test.
        batches: of data with targets; the gradient is that of the first.
        solvers: names of other solvers; by default those of ``STEPPERS`` and ``ADAPTIVE`` that go with its dynamics
            and its control.

    Raises:
        InvalidOption: there is no batch.
        Incompatible: the network has no flow, a solver that is named does not go with its parts, or there is no more
            exact solve to hold it to.

    Source: Ott, Katiyar, Hennig, Tiemann 2020, ResNet After All: Neural ODEs and Their Numerical Solution; the rule for
    gradients is our own.
    """
    every = list(batches)
    if not every:
        raise InvalidOption("solve-check: got no batch of data, expected at least one")
    if not module.network.flows:
        raise Incompatible("solve-check: the network has no flow, so there is no differential equation to hold it to")
    study = Study(module, every)
    trials = study.trials(solvers)
    trained = next(each for each in trials if each.trained)
    if trained.failure:
        raise Incompatible(f"solve-check: the network fails under its own solver: {trained.failure}")
    for each in trials:
        _compare(each, trained, study.mode)
    if not any(each.finer for each in trials):
        raise Incompatible(f"solve-check: no solve of this network is more exact than that of its {study.name}")
    reasons = [_reason(each, trained, study.metric) for each in trials if each.finer and not each.exact]
    claimed = study.schemes[0].order if study.stepped else None
    return Report(study.metric, study.mode, trained, trials, observed_order(trials), claimed, not reasons, reasons)


def worst_kept(score: float, mode: str) -> float:
    """The worst score that counts as kept beside one of the training; a hair more, so that equality is."""
    return score - SCORE - 1e-9 if mode == "max" else score + RELATIVE * abs(score) + 1e-12


def _compare(trial: Trial, trained: Trial, mode: str) -> None:
    """Fills in the gradient's difference, and whether the score is kept."""
    if trial.failure or trial.gradient is None or trained.gradient is None:
        return
    size = max(float(trial.gradient.norm()), float(trained.gradient.norm()))
    difference = float((trial.gradient - trained.gradient).norm())
    trial.gradient_difference = difference / size if size > 0 else (0.0 if difference == 0 else math.inf)
    limit = worst_kept(trained.score, mode)
    trial.kept = math.isfinite(trial.score) and (trial.score >= limit if mode == "max" else trial.score <= limit)
    trial.exact = trial.kept and trial.gradient_difference <= GRADIENT


def _reason(trial: Trial, trained: Trial, metric: str) -> str:
    """What speaks against the verdict, of one solve that is more exact than the training."""
    who = f"{trial.solver}, {trial.setting}"
    if trial.failure:
        return f"{who}: {trial.failure.partition(' What usually')[0]}"
    if not trial.kept:
        return f"{who}: {metric} {trial.score:.4g}, trained {trained.score:.4g}"
    return f"{who}: the gradient differs by {trial.gradient_difference:.0%}"


def observed_order(trials: Sequence[Trial]) -> float | None:
    """``log2 |y_n - y_2n| / |y_2n - y_4n|`` of the trained scheme's outputs, at the finest steps above round-off."""
    own = [each.outputs.double() for each in trials if each.own and each.steps and each.outputs is not None]
    scale = max(1.0, *(float(each.abs().max()) for each in own)) if own else 1.0
    gaps = [float((a - b).abs().max()) for a, b in pairwise(own)]
    gaps = [gap for gap in gaps if math.isfinite(gap) and gap > 20 * torch.finfo(torch.float32).eps * scale]
    return math.log2(gaps[-2] / gaps[-1]) if len(gaps) > 1 else None
