"""Runs a comparison into a folder, goes on where it was stopped, and writes its tables, picture and page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from odeframe import plots
from odeframe.comparison.execution import Executor, cell_path, read_record
from odeframe.comparison.pareto import pareto_figure
from odeframe.comparison.plan import Cell, Plan, label
from odeframe.comparison.report import report
from odeframe.comparison.statistics import Mean
from odeframe.comparison.summary import COSTS, Row, cells_table, results_table, summarise, write_table
from odeframe.errors import InvalidOption
from odeframe.run import output_folder

__all__ = ["compare", "unfinished"]

MOST_LINES = 30
"""Rows of the table on the console; all are in results.csv."""


def compare(
    plan: Plan,
    folder: Path,
    executor: Executor,
    console: Console | None = None,
    retry: bool = False,
    command: str = "",
) -> list[Row]:
    """Runs the cells that have no record yet, and writes ``results.csv``, ``cells.csv``, ``figures/pareto.png`` and
    ``report.html``; where it is interrupted, of what there is.

    Args:
        plan: the comparison.
        folder: with ``cells/<identity>.json``, one a cell that has ended; cells of other plans in it are left alone.
        executor: who runs the cells.
        console: where progress and the table go; none by default.
        retry: whether cells that failed are run again.
        command: the line that the page shows.

    Returns:
        the rows.

    Raises:
        InvalidOption: the folder cannot be written to.
    """
    console = console or Console(quiet=True)
    cells_folder = output_folder(output_folder(folder) / "cells")
    records = {}
    for cell in plan.cells():
        record = read_record(cell_path(cells_folder, cell))
        if record is not None and not (retry and record["status"] == "failed"):
            records[cell.identity] = record
    left = [cell for cell in plan.cells() if cell.identity not in records]
    for cell in left:
        cell_path(cells_folder, cell).unlink(missing_ok=True)
    _note(folder, plan, command, finished=False)
    _introduce(console, plan, folder, len(records))
    try:
        _run(left, records, cells_folder, executor, console)
        _note(folder, plan, command, finished=True)
    finally:
        rows = summarise(plan, records)
        _write(folder, plan, rows, records, command)
    console.print(_table(plan, rows))
    for name in ("results.csv", "cells.csv", "figures/pareto.png", "report.html"):
        console.print(f"{name:<19}{folder / name}", soft_wrap=True, highlight=False)
    return rows


def unfinished(plan: Plan, below: Path) -> Path | None:
    """The latest folder in which a comparison with these very cells was begun and not finished."""
    found = []
    for path in below.glob("*/plan.json"):
        try:
            noted = json.loads(path.read_text("utf-8"))
        except (OSError, json.JSONDecodeError):
            continue  # a file of another tool, or of a process that is just writing
        if isinstance(noted, dict) and noted.get("identity") == plan.identity and not noted.get("finished"):
            found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _note(folder: Path, plan: Plan, command: str, finished: bool) -> None:
    budget = {"unit": plan.budget.unit, "amount": plan.budget.amount}
    plain = {"axes": plan.axes, "seeds": plan.seeds, "budget": budget, "device": plan.device}
    noted = {"identity": plan.identity, "finished": finished, "command": command, **plain}
    aside = folder / "plan.part"
    aside.write_text(json.dumps(noted, indent=1), "utf-8")
    aside.replace(folder / "plan.json")


def _introduce(console: Console, plan: Plan, folder: Path, there: int) -> None:
    number = len(plan.combinations) * len(plan.seeds)
    text = f"combinations x seeds: {len(plan.combinations)} x {len(plan.seeds)} = {number} cells, {plan.budget} each"
    if plan.illegal:
        text += f"; illegal combinations: {len(plan.illegal)}"
    console.print(text, highlight=False, soft_wrap=True)
    if there:
        console.print(f"{there} of {number} cells are in {folder} already", highlight=False, soft_wrap=True)


def _run(
    left: list[Cell], records: dict[str, dict[str, Any]], folder: Path, executor: Executor, console: Console
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    total = len(left) + len(records)
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("cells", total=total, completed=len(records), last="")
        for cell, record in executor.run(left, folder, lambda cell: progress.update(task, last=str(cell))):
            records[cell.identity] = record
            progress.advance(task)
            # What is left of a bar that cannot be redrawn; on a terminal, the cells that need a look.
            if progress.disable or record["status"] != "done":
                line = f"{len(records)}/{total}  {record['status']}  {cell}: {_outcome(record)}"
                progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _outcome(record: Mapping[str, Any]) -> str:
    if record["status"] != "done":
        return str(record["reason"])
    return f"{record['monitor']} {record['metrics'][record['monitor']]:.4g}, {record['seconds']:.1f} s"


def _write(folder: Path, plan: Plan, rows: list[Row], records: Mapping[str, Mapping[str, Any]], command: str) -> None:
    try:
        write_table(folder / "results.csv", results_table(plan, rows))
        write_table(folder / "cells.csv", cells_table(plan, records))
        aside = folder / "report.part"
        aside.write_text(report(plan, rows, command), "utf-8")
        aside.replace(folder / "report.html")
    except OSError as error:
        raise InvalidOption(f"output {folder}: cannot be written to: {error.strerror or error}") from error
    varying = [key for key in plan.axes if len(plan.axes[key]) > 1]
    plots.save(pareto_figure(rows, varying), folder / "figures" / "pareto.png")


def _table(plan: Plan, rows: list[Row]) -> Table:
    """The best rows of those with a result, then the rest."""
    varying = [key for key in plan.axes if len(plan.axes[key]) > 1] or list(plan.axes)[:1]
    ordered = sorted(rows, key=lambda row: -row.score)
    shown = [row for row in ordered if row.status != "illegal"][:MOST_LINES]
    monitors = list(dict.fromkeys(row.monitor for row in shown if row.monitor))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in varying:
        table.add_column(key)
    titles = (*(f"test {name}" for name in monitors), "parameters", "forward", "backward", "seconds", "MB")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("status")
    for row in shown:
        costs = [row.costs.get(name) for name in COSTS if name != "evaluations"]
        table.add_row(
            *(label({key: row.words[key]}) for key in varying),
            *(_pm(row.metrics.get(name)) for name in monitors),
            "" if row.parameters is None else f"{row.parameters:,}",
            *("" if cost is None else f"{cost.value:.4g}" for cost in costs),
            f"{row.failed} seeds failed" if row.status == "partly" else row.status,
        )
    if len(ordered) > len(shown):
        table.caption = f"{len(ordered) - len(shown)} more in results.csv"
    return table


def _pm(each: Mean | None) -> str:
    return "" if each is None else f"{each.value:.4f}" + ("" if each.half is None else f" ± {each.half:.4f}")
