"""The picture of a solve-check: what score and gradient become under other solvers, over what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from odeframe.plots import MODELS, panel_grid
from odeframe.solve_check import GRADIENT, Report
from odeframe.solver_study import Trial

__all__ = ["solve_check"]

MARKS = "os^vDPX"
FLOOR = 1e-7
"""Where differences that are smaller stand on a logarithmic axis."""


def solve_check(report: Report) -> Figure:
    """Score and difference of the gradient over evaluations of the dynamics, a line for each solver.

    A star is the network as it was trained; solves that failed are left out. The grey band holds what counts as kept.
    """
    figure, (left, right) = panel_grid(2, height=3.6)
    verdict = "a differential equation" if report.is_ode else "tied to its scheme"
    for index, name in enumerate(dict.fromkeys(each.solver for each in report.trials)):
        mine = [each for each in report.trials if each.solver == name]
        colour, mark = MODELS[index % len(MODELS)], MARKS[index % len(MARKS)]
        style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 4}
        label = f"{name} (trained)" if mine[0].own else name
        good = sorted((each for each in mine if not each.failure), key=lambda each: each.nfe)
        left.plot(_nfe(good), [each.score for each in good], label=label, **style)
        differences = [max(each.gradient_difference, FLOOR) for each in good if not each.trained]
        right.plot(_nfe(each for each in good if not each.trained), differences, label=label, **style)
        _star(left, [each for each in good if each.trained])
    left.axhspan(report.limit, report.trained.score, color="#dddddd", zorder=0)
    left.set(ylabel=report.metric, title=f"verdict: {verdict}")
    shown = [each.gradient_difference for each in report.trials if each.gradient_difference > FLOOR]
    lowest = min([GRADIENT, *shown]) / 3
    right.axhspan(lowest, GRADIENT, color="#dddddd", zorder=0)
    right.set(ylabel="|g - g0| / max(|g|, |g0|)", yscale="log", ylim=(lowest, None), title="gradient of the objective")
    costs = _nfe(each for each in report.trials if not each.failure)
    for axes in (left, right):
        axes.set(xscale="log", xlim=(costs.min() / 1.3, costs.max() * 1.3))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("evaluations of the dynamics a batch")
        axes.title.set_fontsize(10)
    right.legend(fontsize=7, frameon=False)
    return figure


def _nfe(trials: Iterable[Trial]) -> np.ndarray:
    return np.array([max(each.nfe, 1.0) for each in trials])


def _star(axes: Axes, trained: list[Trial]) -> None:
    """Marks the network as it was trained."""
    for each in trained:
        axes.plot(max(each.nfe, 1.0), each.score, color="black", marker="*", markersize=11, linestyle="none", zorder=5)
