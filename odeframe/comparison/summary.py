"""What the cells amount to: a row a combination, with means and intervals over its seeds; and the Pareto front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odeframe.comparison.plan import Cell, Plan, label
from odeframe.comparison.statistics import Mean, mean

__all__ = ["COSTS", "Row", "cells_table", "pareto_front", "results_table", "summarise", "write_table"]

COSTS = ("evaluations_forward", "evaluations_backward", "evaluations", "seconds", "peak_memory_mb")
"""What a cell costs, beside its parameters."""


@dataclass
class Row:
    """One combination.

    Attributes:
        words: what is said of it.
        status: "done", "failed" where no seed ended well, "partly" where some did, "illegal", or "open" where none has
            ended.
        reasons: of the seeds that failed, or why it is illegal; each once.
        seeds: how many ended well.
        failed: how many did not.
        monitor: the metric that says which is best.
        mode: ``"max"`` or ``"min"``.
        metrics: of the test set, by name.
        costs: by the names of :data:`COSTS`.
        parameters: how many.
        solver_status: how the solver ended, over all seeds.
        curves: learning curves, one a seed.
        versions: of packages, by name.
    """

    words: Mapping[str, Any]
    status: str
    reasons: list[str] = field(default_factory=list)
    seeds: int = 0
    failed: int = 0
    monitor: str = ""
    mode: str = ""
    metrics: dict[str, Mean] = field(default_factory=dict)
    costs: dict[str, Mean] = field(default_factory=dict)
    parameters: int | None = None
    solver_status: str = ""
    curves: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The mean of the monitored metric, larger where better; what has none is worst."""
        if self.monitor not in self.metrics:
            return -float("inf")
        value = self.metrics[self.monitor].value
        return -float("inf") if math.isnan(value) else value if self.mode == "max" else -value


def summarise(plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows of all combinations, the legal ones in the plan's order, then the illegal.

    Args:
        plan: the comparison.
        records: by the identity of the cell, those that have ended.
    """
    by_words: dict[str, list[Mapping[str, Any]]] = {label(words): [] for words in plan.combinations}
    for cell in plan.cells():
        if cell.identity in records:
            by_words[label(cell.words)].append(records[cell.identity])
    rows = [_row(words, by_words[label(words)]) for words in plan.combinations]
    return [*rows, *(Row(words, "illegal", [reason]) for words, reason in plan.illegal)]


def _row(words: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Row:
    done = [record for record in records if record["status"] == "done"]
    rest = [record for record in records if record["status"] != "done"]
    reasons = list(dict.fromkeys(record["reason"] for record in rest))
    statuses = sorted({record["solver_status"] for record in records if record["solver_status"]})
    if not done:
        illegal = bool(rest) and all(record["status"] == "illegal" for record in rest)
        status = "illegal" if illegal else "failed" if rest else "open"
        return Row(words, status, reasons, failed=len(rest), solver_status=", ".join(statuses))
    first = done[0]
    return Row(
        words,
        "partly" if rest else "done",
        reasons,
        len(done),
        len(rest),
        first["monitor"],
        first["mode"],
        {name: mean([record["metrics"][name] for record in done]) for name in first["metrics"]},
        {name: mean([record[name] for record in done]) for name in COSTS},
        first["parameters"],
        ", ".join(statuses),
        [{"seed": record["seed"], **record["curves"]} for record in done],
        first["versions"],
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points than which none is both cheaper and better, by rising cost.

    Args:
        points: ``(cost, score)``, a larger score being better.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def results_table(plan: Plan, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line a combination; ``NAME_ci95`` is the half width of the interval around the mean NAME."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    lines = []
    for row in rows:
        line = _words(plan, row.words) | {"status": row.status, "seeds": row.seeds, "failed": row.failed}
        for name, found in [(f"test_{each}", row.metrics.get(each)) for each in metrics]:
            line |= _mean(name, found)
        line["parameters"] = "" if row.parameters is None else row.parameters
        for name in COSTS:
            line |= _mean(name, row.costs.get(name))
        line["solver_status"] = row.solver_status
        line["versions"] = "; ".join(f"{name} {version}" for name, version in row.versions.items())
        line["reason"] = " | ".join(row.reasons)
        lines.append(line)
    return lines


def cells_table(plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line a cell that has ended."""
    ended: list[tuple[Cell, Mapping[str, Any]]] = [
        (cell, records[cell.identity]) for cell in plan.cells() if cell.identity in records
    ]
    metrics = list(dict.fromkeys(name for _, record in ended for name in record.get("metrics", {})))
    lines = []
    for cell, record in ended:
        line = _words(plan, cell.words) | {"seed": cell.seed, "status": record["status"]}
        line |= {f"test_{name}": record.get("metrics", {}).get(name, "") for name in metrics}
        line |= {name: record.get(name, "") for name in ("parameters", *COSTS, "batches", "epochs", "solver_status")}
        lines.append(line | {"reason": record["reason"], "file": f"cells/{cell.identity}.json"})
    return lines


def _words(plan: Plan, words: Mapping[str, Any]) -> dict[str, Any]:
    return {key: label({key: words[key]}) for key in plan.axes}


def _mean(name: str, found: Mean | None) -> dict[str, Any]:
    half = "" if found is None or found.half is None else found.half
    return {name: "" if found is None else found.value, f"{name}_ci95": half}


def write_table(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV file aside and renames it; one without lines is empty."""
    rows = list(lines)
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    aside = path.with_suffix(".part")
    aside.write_text(text.getvalue(), "utf-8", newline="")
    aside.replace(path)
