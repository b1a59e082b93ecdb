"""The page of a comparison: one file with its data, style and script, that asks for nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from odeframe.comparison.plan import Plan, label
from odeframe.comparison.statistics import Mean
from odeframe.comparison.summary import Row

__all__ = ["report"]


def report(plan: Plan, rows: Sequence[Row], command: str) -> str:
    """The page as text.

    Args:
        plan: the comparison.
        rows: its combinations, those that are illegal too.
        command: the line that made it.
    """
    done = [row for row in rows if row.metrics]
    legal = [row for row in rows if row.status != "illegal"]
    monitors = [row.monitor for row in done]
    most = max(set(monitors), key=monitors.count) if monitors else ""
    mode = next((row.mode for row in done if row.monitor == most), "max")
    failed = sum(row.failed for row in legal)
    count = sum(row.status == "illegal" for row in rows)
    versions = dict.fromkeys(f"{name} {version}" for row in done for name, version in row.versions.items())
    data = {
        "summary": f"{len(legal)} combinations with {len(plan.seeds)} seeds and {plan.budget} each; {failed} cells "
        f"failed; {count} combinations are illegal. {command}",
        "axes": list(plan.axes),
        "metrics": list(dict.fromkeys(name for row in done for name in row.metrics)),
        "monitor": most,
        "mode": mode,
        "rows": [_plain(plan, row) for row in legal],
        "illegal": [f"{label(row.words)}: {' | '.join(row.reasons)}" for row in rows if row.status == "illegal"],
        "versions": list(versions),
    }
    # JSON knows no difference, and nothing in it can end the script element.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    page = _file("report.html")
    for mark, content in (("STYLE", _file("report.css")), ("SCRIPT", _file("report.js")), ("DATA", text)):
        page = page.replace(f"@@{mark}@@", content)
    return page


def _file(name: str) -> str:
    return (resources.files("odeframe.comparison") / "page" / name).read_text("utf-8")


def _plain(plan: Plan, row: Row) -> dict[str, Any]:
    return {
        "words": {key: label({key: row.words[key]}) for key in plan.axes},
        "label": label(row.words),
        "status": row.status,
        "reasons": row.reasons,
        "seeds": row.seeds,
        "failed": row.failed,
        "monitor": row.monitor,
        "mode": row.mode,
        "score": _finite(row.score),
        "metrics": {name: _mean(each) for name, each in row.metrics.items()},
        "costs": {name: _mean(each) for name, each in row.costs.items()},
        "parameters": row.parameters,
        "solver_status": row.solver_status,
        "curves": [{name: _finite(values) for name, values in curve.items()} for curve in row.curves],
    }


def _mean(each: Mean) -> dict[str, Any]:
    return {"value": _finite(each.value), "half": _finite(each.half)}


def _finite(value: Any) -> Any:
    """Without infinities and NaN, which JSON does not have."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or abs(value) < float("inf") else None
