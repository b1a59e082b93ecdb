"""The picture of Pontryagin's principle along depth: Hamiltonian, residual of the control, costates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from odeframe.errors import DataError
from odeframe.plots import MODELS, panel_grid

__all__ = ["along_depth"]


def along_depth(hamiltonians: Mapping[int, float], residuals: Sequence[float], costates: Sequence[float]) -> Figure:
    """Three panels over the index of the step map, from stem to head.

    Args:
        hamiltonians: ``H`` of the solver's steps, by their index.
        residuals: ``|dH/du|`` of each of the ``N`` steps.
        costates: ``|p|`` at each of the ``N + 1`` states.

    Raises:
        DataError: there is no step, or the numbers do not belong together.
    """
    if not residuals or len(costates) != len(residuals) + 1:
        raise DataError(
            f"pontryagin along depth: got {len(residuals)} residuals and {len(costates)} costates, expected one more "
            "of the costates"
        )
    figure, (left, middle, right) = panel_grid(3, height=3.0)
    left.plot(list(hamiltonians), list(hamiltonians.values()), color=MODELS[0], marker="o", markersize=3)
    left.set(title="Hamiltonian", ylabel="p . f - L, mean of the samples")
    middle.bar(range(len(residuals)), residuals, color=MODELS[1])
    middle.set(title="residual of the control", ylabel="|dH/du|")
    right.plot(range(len(costates)), costates, color=MODELS[2], marker="s", markersize=3)
    right.set(title="costates", ylabel="|p|, root mean square", ylim=(0, None))
    for axes in (left, middle, right):
        axes.set_xlabel("step map, stem to head")
    return figure
