"""The basic method of successive approximations."""

from __future__ import annotations

from typing import Any, ClassVar

from odeframe import Incompatible
from odeframe.pontryagin import Sweep, trainable
from odeframe_plugins.trainers.ascent import Inner, Search
from odeframe_plugins.trainers.hamiltonian import ControlHamiltonian, groups_of
from odeframe_plugins.trainers.successive import Problem, Report, SuccessiveApproximations


class MSA(SuccessiveApproximations):
    """``u_k <- argmax_u H_k(z_k, p_{k+1}, u)``: no step length, and no guarantee.

    It diverges where the new control moves the states far from those that the costates belong to: on ``x' = u``,
    ``J = g x(T)^2 / 2 + r int u^2 / 2`` it multiplies the error by ``-g T / r`` in each sweep.

    Args:
        inner: how a Hamiltonian is maximised: ``"lbfgs"``, ``"adam"``, or ``"closed_form"`` where it is quadratic and
            ``"lbfgs"`` elsewhere.
        iterations: of the inner search.
        inner_learning_rate: step length of ``"adam"``.
        box: maximises over ``|u_i| <= box``.

    Raises:
        Incompatible: a Hamiltonian grows without bound, as it does where the control enters linearly (stem, head), and
            there is neither a box nor a cost of the control.

    Source: Krylov, Chernous'ko 1962; Li, Chen, Tai, E 2018, Maximum Principle Based Algorithms for Deep Learning, 3.
    """

    hint: ClassVar[str] = ", and no sweep of msa has to lower it: write a smaller box, or trainer: emsa"
    #: a maximum of each Hamiltonian at a time; it converges where a cost of the control makes them concave enough
    conformance: ClassVar[dict[str, Any]] = {"problem": "steered", "epochs": 10}

    def __init__(
        self, inner: Inner = "lbfgs", iterations: int = 10, inner_learning_rate: float = 0.01, box: float | None = None
    ) -> None:
        super().__init__(Search(inner, iterations, inner_learning_rate, box))
        self._checked: set[int] = set()

    def improve(self, problem: Problem) -> Report:
        """One sweep."""
        swept = problem.sweep()
        self.check_finite(float(problem.local(swept.objective)))
        if self.search.box is None:
            self._refuse_unbounded(problem, swept)
        ascents, evaluations = self.maximise(problem, swept)
        loss = problem.local(swept.objective)
        return Report(loss, sum(ascent.gain for ascent in ascents), evaluations)

    def _refuse_unbounded(self, problem: Problem, swept: Sweep) -> None:
        """Looks far out along the steepest ascent, once for each group that has one."""
        for group in groups_of(swept):
            if group[0] in self._checked:
                continue
            growth = _growth(ControlHamiltonian(swept, group, costs=problem.costs))
            if growth is not None:
                self._checked.add(group[0])
            if growth is not None and growth > 0.5:
                step = swept.steps[group[0]]
                names = ", ".join(trainable(step))
                raise Incompatible(
                    f"trainer 'msa': the Hamiltonian of step {group[0]} of {len(swept.steps)} ({names}) grows without "
                    "bound along its slope, so that it has no maximum: write trainer: {name: msa, box: 1.0} or "
                    "trainer: emsa; a cost of the control bounds the steps of flows, not stem and head"
                )


def _growth(hamiltonian: ControlHamiltonian, near: float = 1e3, far: float = 1e5) -> float | None:
    """``(H(far) - H(0)) / (H(near) - H(0))`` along the slope, over ``far / near``: at least 1 where it is linear.

    ``None`` where there is no slope.
    """
    start, slopes = hamiltonian()
    norm = sum(float(slope.square().sum()) for slope in slopes) ** 0.5
    if not norm:
        return None
    values = [p.detach().clone() for p in hamiltonian.parameters]
    size = 1 + sum(float(value.square().sum()) for value in values) ** 0.5
    found = []
    for distance in (near, far):
        for p, value, slope in zip(hamiltonian.parameters, values, slopes, strict=True):
            p.data.copy_(value + distance * size / norm * slope)
        found.append(hamiltonian.value() - start)
    for p, value in zip(hamiltonian.parameters, values, strict=True):
        p.data.copy_(value)
    return found[1] / (found[0] * far / near) if found[0] > 0 else 0.0
