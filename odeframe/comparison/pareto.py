"""The picture of a comparison: what a combination reaches against what it costs, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from odeframe.comparison.plan import label
from odeframe.comparison.summary import Row, pareto_front
from odeframe.plots import MODELS

__all__ = ["pareto_figure"]

PANELS = (("evaluations", "evaluations of f in training, forward and backward"), ("seconds", "seconds of training"))
MARKS = "osD^vPX*"


def pareto_figure(rows: Sequence[Row], compared: Sequence[str]) -> Figure:
    """A line of panels for each data, one a cost; points with their intervals, the front drawn through its points.

    Args:
        rows: combinations, those with a result being drawn.
        compared: keys whose values differ: the first tells the colour, the second the mark, all of them the name.
    """
    drawn = [row for row in rows if row.metrics]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in drawn:
        groups.setdefault((_text(row, "data"), row.monitor), []).append(row)
    figure = Figure(figsize=(9.0, 3.6 * max(1, len(groups))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, len(groups)), len(PANELS), squeeze=False)
    if not groups:
        for axes in grid[0]:
            axes.text(0.5, 0.5, "no cell has a result", ha="center", transform=axes.transAxes)
            axes.set_axis_off()
    keys = [key for key in compared if key != "data"]
    for line, ((data, monitor), members) in zip(grid, groups.items(), strict=False):
        for axes, (cost, title) in zip(line, PANELS, strict=True):
            _panel(axes, members, cost, keys)
            axes.set(xlabel=title, ylabel=f"test {monitor}", title=f"{data or 'digits'}: {monitor} against {cost}")
    return figure


def _panel(axes: Axes, rows: Sequence[Row], cost: str, keys: Sequence[str]) -> None:
    colours, marks = (_levels(rows, key) for key in (*keys[:2], *("", "")[: 2 - len(keys[:2])]))
    points = [(row.costs[cost].value, row.score) for row in rows]
    front = pareto_front(points)
    xs, ys = [rows[i].costs[cost].value for i in front], [rows[i].metrics[rows[i].monitor].value for i in front]
    axes.plot(xs, ys, color="#777777", linewidth=1.0, zorder=1, label="Pareto front")
    seen: set[str] = set()
    for index, row in enumerate(rows):
        metric, spent = row.metrics[row.monitor], row.costs[cost]
        colour = colours.get(_text(row, keys[0]) if keys else "", 0)
        mark = marks.get(_text(row, keys[1]) if len(keys) > 1 else "", 0)
        name = " ".join(_text(row, key) for key in keys[:2])
        axes.errorbar(
            spent.value,
            metric.value,
            yerr=metric.half,
            fmt=MARKS[mark % len(MARKS)],
            color=MODELS[colour % len(MODELS)],
            markersize=7 if index in front else 4,
            elinewidth=0.6,
            label=None if name in seen else name,
            zorder=2,
        )
        seen.add(name)
    least, most = min(spent for spent, _ in points), max(spent for spent, _ in points)
    if least > 0 and most > 5 * least:
        axes.set_xscale("log")
    axes.grid(True, color="#e0e0e0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False)


def _levels(rows: Sequence[Row], key: str) -> dict[str, int]:
    return {text: index for index, text in enumerate(dict.fromkeys(_text(row, key) for row in rows))}


def _text(row: Row, key: str) -> str:
    return label({key: row.words[key]}) if key in row.words else ""
