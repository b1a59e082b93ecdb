"""Pictures as matplotlib figures, from plain data alone: no window, no global state of pyplot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from odeframe.errors import DataError, InvalidOption

__all__ = ["Trajectories", "depth_trajectories", "learning_curves", "panel_grid", "principal_plane", "save"]

# Told apart by readers with any colour vision, and in grey by their order of lightness (after Okabe, Ito 2008, and
# Tol 2021); lines differ in dash or in their end mark as well, so colour is never the only key.
MODELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
CLASSES = (
    "#332288", "#88ccee", "#117733", "#ddaa33", "#cc6677", "#882255", "#44aa99", "#999933", "#aa4499", "#555555",
)  # fmt: skip
WIDTH = 8.0
DPI = 150


@dataclass(frozen=True)
class Trajectories:
    """How the states of some samples move through depth, in one flow.

    Attributes:
        title: what stands above the panel.
        times: ``(num_times,)``, strictly increasing, in the units of the horizon.
        states: ``(num_times, num_samples, *state)``.
        labels: ``(num_samples,)``, the class of each sample from 0.
        stepwise: whether the times are the solver's steps, which are then marked, or samples of a curve.
    """

    title: str
    times: Any
    states: Any
    labels: Any
    stepwise: bool = False


def learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], metric: str = "accuracy", loss: str = "loss"
) -> Figure:
    """Loss and a metric by epoch, a colour a model.

    Args:
        histories: by model's name: ``train_loss``, ``val_loss`` and ``val_<metric>``, each a value an epoch.
        metric: the metric of the right panel.
        loss: what the loss is, with its unit, for the left panel's axis.

    Returns:
        a figure with two panels; the left one has a logarithmic axis where all losses are positive.

    Raises:
        DataError: there is no model or no epoch, a series is missing or shorter than another, or has a value that is
            not finite.
    """
    series = ("train_loss", "val_loss", f"val_{metric}")
    if not histories:
        raise DataError("learning curves: got no model, expected at least one with its values by epoch")
    figure, (left, right) = panel_grid(2, height=3.4)
    for index, (name, history) in enumerate(histories.items()):
        colour = MODELS[index % len(MODELS)]
        train, val, score = (_checked_series(name, history, key) for key in series)
        if not len(train) == len(val) == len(score):
            lengths = ", ".join(f"{key} {len(history[key])}" for key in series)
            raise DataError(f"learning curves of {name!r}: got series of different lengths: {lengths}")
        epochs = np.arange(1, len(train) + 1)
        left.plot(epochs, train, color=colour, marker="o", markersize=3, label=f"{name}, training")
        left.plot(epochs, val, color=colour, marker="s", markersize=3, linestyle="--", label=f"{name}, validation")
        right.plot(epochs, score, color=colour, marker="s", markersize=3, linestyle="--", label=f"{name}, validation")
    losses = [value for history in histories.values() for key in series[:2] for value in history[key]]
    if min(losses) > 0:
        left.set_yscale("log")
    for axes, what, unit in ((left, "loss", loss), (right, metric, metric)):
        axes.set_title(f"{what} by epoch", fontsize=10)
        axes.set(xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8, frameon=False)
    return figure


def depth_trajectories(panels: Sequence[Trajectories], class_names: Sequence[str] = ()) -> Figure:
    """Paths of samples through depth, each flow in the plane of its two principal components, coloured by class.

    A path starts at a small circle and ends at the name of its class; dots on it are the steps of the solver.

    Args:
        panels: one a flow; each has a plane of its own.
        class_names: short names of the classes; their numbers by default.

    Raises:
        DataError: there is no panel, a panel has no samples, states of one dimension or shapes that do not agree, or
            a value that is not finite.
    """
    if not panels:
        raise DataError("depth trajectories: got no panel, expected at least one flow's trajectories")
    figure, every_axes = panel_grid(len(panels), height=3.6)
    for axes, panel in zip(every_axes, panels, strict=True):
        times, states, labels = _checked_trajectories(panel)
        points, shares = principal_plane(states)
        for sample in np.argsort(labels, kind="stable"):
            label = int(labels[sample])
            name = class_names[label] if label < len(class_names) else str(label)
            _draw_path(axes, points[:, sample], name, CLASSES[label % len(CLASSES)], panel.stepwise)
        axes.set_title(f"{panel.title}\n{_interval(times, panel.stepwise)}", fontsize=9)
        axes.set_xlabel(f"component 1 ({shares[0]:.0%} of variance)", fontsize=8)
        axes.set_ylabel(f"component 2 ({shares[1]:.0%} of variance)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.margins(0.06)
    return figure


def principal_plane(states: Any) -> tuple[np.ndarray, np.ndarray]:
    """The states of all times and samples in the plane in which they vary most.

    ``y = (x - mean) V`` with the two first right singular vectors ``V`` of the centred states; the sign of each is
    such that its largest entry is positive, so that a picture does not flip from run to run.

    Args:
        states: ``(num_times, num_samples, *state)``, at least two entries a state.

    Returns:
        points ``(num_times, num_samples, 2)`` and the share of the variance of each component, ``(2,)``; shares are 0
        where nothing varies.

    Source: Pearson 1901, On Lines and Planes of Closest Fit to Systems of Points in Space.
    """
    cloud = np.asarray(states, dtype=np.float64)
    num_times, num_samples = cloud.shape[:2]
    flat = cloud.reshape(num_times * num_samples, -1)
    if flat.shape[1] < 2 or flat.shape[0] < 2:
        raise DataError(
            f"principal plane: got states of shape {cloud.shape}, expected two or more of two or more entries"
        )
    centred = flat - flat.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    plane = axes[:2]
    plane = plane * np.where(plane[[0, 1], np.abs(plane).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    total = float((singular**2).sum())
    shares = singular[:2] ** 2 / total if total > 0 else np.zeros(2)
    return (centred @ plane.T).reshape(num_times, num_samples, 2), shares


def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Writes a figure as PNG, aside and renamed, so that no reader sees half of it.

    Raises:
        InvalidOption: the path does not end in ``.png``, or cannot be written.
    """
    target = Path(path)
    if target.suffix != ".png":
        raise InvalidOption(f"figure {target}: got the suffix {target.suffix!r}, expected '.png'")
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(aside, format="png", dpi=dpi)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidOption(f"figure {target}: cannot be written: {error.strerror or error}") from error
    return target


def panel_grid(
    count: int, height: float, rows: int = 1, share: Literal["none", "col"] = "none"
) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` rows of ``count`` panels, each ``height`` inches high, and the panels row by row."""
    figure = Figure(figsize=(max(WIDTH, 3.2 * count), height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = list(figure.subplots(rows, count, squeeze=False, sharey=share).flat)
    for axes in every_axes:
        axes.grid(True, color="#e0e0e0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, every_axes


def _draw_path(axes: Axes, path: np.ndarray, name: str, colour: str, stepwise: bool) -> None:
    x, y = path[:, 0], path[:, 1]
    axes.plot(x, y, color=colour, linewidth=1.0, alpha=0.75, marker="." if stepwise else None, markersize=4)
    axes.plot(x[0], y[0], color=colour, marker="o", markersize=3, markerfacecolor="white", markeredgewidth=0.8)
    end = axes.text(x[-1], y[-1], name, color=colour, fontsize=8, fontweight="bold", ha="center", va="center")
    end.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _interval(times: np.ndarray, stepwise: bool) -> str:
    crossed = f"t = {times[0]:g} to {times[-1]:g}"
    steps = len(times) - 1
    return f"{crossed} in {steps} step{'' if steps == 1 else 's'}" if stepwise else crossed


def _checked_series(name: str, history: Mapping[str, Sequence[float]], key: str) -> np.ndarray:
    where = f"learning curves of {name!r}"
    if key not in history:
        raise DataError(f"{where}: there is no series {key!r}, got {', '.join(sorted(history)) or 'none'}")
    values = np.asarray(history[key], dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"{where}: {key} has the shape {values.shape}, expected a value for each of one or more epochs")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(f"{where}: {key} is {values[bad[0]]} in epoch {bad[0] + 1}, expected finite values")
    return values


def _checked_trajectories(panel: Trajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where = f"depth trajectories {panel.title!r}"
    times, states, labels = np.asarray(panel.times, dtype=float), np.asarray(panel.states), np.asarray(panel.labels)
    if states.ndim < 3 or times.shape != states.shape[:1] or labels.shape != states.shape[1:2]:
        raise DataError(
            f"{where}: got times {times.shape}, states {states.shape}, labels {labels.shape}, expected (num_times,), "
            "(num_times, num_samples, *state) and (num_samples,)"
        )
    if len(times) < 2 or not len(labels):
        raise DataError(
            f"{where}: got {len(times)} times of {len(labels)} samples, expected two or more of at least one"
        )
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise DataError(f"{where}: times must be finite and increase, got {times.tolist()}")
    if (labels < 0).any() or (labels != labels.astype(int)).any():
        raise DataError(f"{where}: labels must be whole numbers from 0, got {labels.tolist()}")
    bad = np.argwhere(~np.isfinite(states))
    if len(bad):
        raise DataError(f"{where}: the state of sample {bad[0][1]} is not finite at t = {times[bad[0][0]]:g}")
    return times, states, labels
