"""The extended method of successive approximations: Hamiltonians augmented by what they disregard."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from odeframe import CheckpointError, InvalidOption
from odeframe_plugins.trainers.ascent import Inner, Search
from odeframe_plugins.trainers.successive import Problem, Report, SuccessiveApproximations

LARGEST = 1e12
"""No sensible weight of the penalties; where it is reached, round-off is all that is left to gain."""


class EMSA(SuccessiveApproximations):
    """``u_k <- argmax_u H~_k``, the Hamiltonian less ``rho`` times the errors that the new control makes in it.

        H~_k = H_k - rho / (2 h) |x_{k+1} - M_k(x_k, u)|^2 - rho / (2 h) |p_k - d_x H_k(x_k, p_{k+1}, u)|^2

    with ``x`` and ``p`` of the present trajectory.  For a ``rho`` that is large enough, ``J`` falls in every sweep by a
    share of ``sum_k Delta H~_k``.  With ``adaptive`` that is seen to: a sweep is taken only if
    ``J_new <= J - decrease sum_k Delta H~_k``, else ``rho`` is doubled and the maximum found anew; after
    ``halve_after`` sweeps in a row that were taken at once, ``rho`` is halved.  So the loss of the batch never rises.

    On ``x' = u``, ``J = g x(T)^2 / 2 + r int u^2 / 2`` it converges for every ``rho > (g T - r) / 2``.

    Args:
        rho: weight of the penalties, to start with if adaptive.
        adaptive: whether ``rho`` is changed; else every sweep is taken, as in the paper.
        inner: how a Hamiltonian is maximised: ``"lbfgs"``, ``"adam"``, or ``"closed_form"`` where it is quadratic and
            ``"lbfgs"`` elsewhere.
        iterations: of the inner search.
        inner_learning_rate: step length of ``"adam"``.
        decrease: share of ``sum_k Delta H~_k`` by which ``J`` has to fall.
        halve_after: sweeps taken at once before ``rho`` is halved.

    Source: Li, Chen, Tai, E 2018, Maximum Principle Based Algorithms for Deep Learning, 3.2; Hofmann, Borzi 2022, A
        sequential quadratic Hamiltonian algorithm for training explicit RK neural networks (sufficient decrease).
    """

    conformance: ClassVar[dict[str, Any]] = {"epochs": 3}
    traits: ClassVar[tuple[str, ...]] = ("ddp", "refinable")

    def __init__(
        self,
        rho: float = 1.0,
        adaptive: bool = True,
        inner: Inner = "lbfgs",
        iterations: int = 10,
        inner_learning_rate: float = 0.01,
        decrease: float = 0.1,
        halve_after: int = 3,
    ) -> None:
        if not 0 < rho < math.inf:
            raise InvalidOption(
                f"trainer 'emsa': option rho: got {rho}, expected a finite number > 0; without penalties it is 'msa'"
            )
        if not 0 < decrease < 1:
            raise InvalidOption(f"trainer 'emsa': option decrease: got {decrease}, expected between 0 and 1")
        if halve_after < 1:
            raise InvalidOption(f"trainer 'emsa': option halve_after: got {halve_after}, expected at least 1")
        super().__init__(Search(inner, iterations, inner_learning_rate))
        self.rho, self.adaptive, self.decrease, self.halve_after = float(rho), adaptive, decrease, halve_after
        self.successes = 0

    def improve(self, problem: Problem) -> Report:
        """One sweep that is taken, or none where even the largest ``rho`` finds no descent."""
        swept = problem.sweep()
        local = problem.local(swept.objective)
        self.check_finite(float(local))
        loss = problem.total(swept.objective)
        report = Report(local, 0.0, 0)
        before, rho = [p.detach().clone() for p in problem.parameters], self.rho
        while rho <= LARGEST:
            ascents, evaluations = self.maximise(problem, swept, rho)
            report.evaluations += evaluations
            report.gain = sum(ascent.gain for ascent in ascents)
            if not self.adaptive or not report.gain:
                return report
            if problem.objective() <= loss - self.decrease * report.gain:
                self._adapt(rho, report.rejected)
                return report
            problem.write(before)
            report.rejected += 1
            rho *= 2
        report.gain = 0.0
        warnings.warn(
            f"emsa: no descent from {loss:.6g} for any rho up to {LARGEST:g}: the batch was left as it is", stacklevel=2
        )
        return report

    def _adapt(self, rho: float, rejected: int) -> None:
        self.rho, self.successes = rho, 0 if rejected else self.successes + 1
        if self.successes == self.halve_after:
            self.rho, self.successes = 0.5 * rho, 0

    def numbers(self) -> dict[str, float]:
        """``rho``."""
        return {"rho": self.rho}

    def state_dict(self) -> dict[str, Any]:
        """``rho`` and the sweeps since it was last changed."""
        return {"rho": self.rho, "successes": self.successes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes them back."""
        if set(state) != {"rho", "successes"}:
            raise CheckpointError(
                f"trainer 'emsa': expected a state with rho and successes, got {', '.join(sorted(state)) or 'none'}; "
                "give the trainer that wrote the checkpoint"
            )
        self.rho, self.successes = float(state["rho"]), int(state["successes"])
