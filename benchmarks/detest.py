"""The 25 DETEST problems against scipy: errors and evaluations, as a table in Markdown.

    python -m benchmarks.detest [--write docs/parts/detest.md]

Every problem is solved on [0, 20] with rtol = atol = 1e-3, 1e-6, 1e-9.  The error is the largest difference from
scipy's DOP853 at 1e-13, over all components, at 20 equally spaced times (``path``) and at the last one (``end``).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp

import odeframe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from detest import END, PROBLEMS, Problem

TOLERANCES = (1e-3, 1e-6, 1e-9)
PAIRS = {"dopri5": "RK45", "tsit5": "RK45", "dop853": "DOP853"}
TIMES = np.linspace(0, END, 21)


class Result(NamedTuple):
    """Errors over the path and at the end, and evaluations; infinite where a solve did not finish."""

    path: float
    end: float
    nfe: float


def numpy_field(problem: Problem):
    """The problem's field for scipy."""
    return lambda t, x: problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(x)).numpy()


def reference(problem: Problem) -> np.ndarray:
    """States ``(21, components)`` by DOP853 at 1e-13."""
    solution = solve_ivp(numpy_field(problem), (0, END), problem.start, "DOP853", TIMES, rtol=1e-13, atol=1e-13)
    return solution.y.T


def measured(states: np.ndarray, exact: np.ndarray, nfe: int) -> Result:
    """The errors of states at the output times."""
    error = np.abs(states - exact).max(1)
    return Result(float(error.max()), float(error[-1]), nfe)


def by_scipy(problem: Problem, method: str, tolerance: float, exact: np.ndarray) -> Result:
    """One solve by scipy."""
    found = solve_ivp(numpy_field(problem), (0, END), problem.start, method, TIMES, rtol=tolerance, atol=tolerance)
    return measured(found.y.T, exact, found.nfev)


def by_odeframe(problem: Problem, solver: str, tolerance: float, exact: np.ndarray, **options) -> Result:
    """One solve by a solver of ours."""
    start = torch.tensor([problem.start], dtype=torch.float64)
    try:
        with torch.no_grad():
            found = odeframe.solve(
                problem.field, start, TIMES, solver=solver, rtol=tolerance, atol=tolerance, **options
            )
    except odeframe.SolveFailed:
        return Result(math.inf, math.inf, math.inf)
    return measured(found.states[:, 0].numpy(), exact, found.stats.nfe)


def compare(solver: str, names=tuple(PROBLEMS), tolerances=TOLERANCES, **options) -> dict[tuple[str, float], tuple]:
    """``{(problem, tolerance): (ours, scipy's)}``."""
    rows = {}
    for name in names:
        exact = reference(PROBLEMS[name])
        for tolerance in tolerances:
            ours = by_odeframe(PROBLEMS[name], solver, tolerance, exact, **options)
            rows[name, tolerance] = ours, by_scipy(PROBLEMS[name], PAIRS[solver], tolerance, exact)
    return rows


def ratios(rows: dict, field: str) -> np.ndarray:
    """Ours over scipy's; errors below 1e-14 count as 1e-14."""
    return np.array([max(getattr(a, field), 1e-14) / max(getattr(b, field), 1e-14) for a, b in rows.values()])


def worst(solver: str, rows: dict, field: str, bound: float) -> float:
    """The largest ratio; one above the bound is taken anew, over scipy's largest error at tolerances within 2 %.

    Where stability sets the steps, an error is a matter of luck: that of scipy's DOP853 on C3 at 1e-9 lies between
    6e-10 and 6e-8 at tolerances from 0.98e-9 to 1.02e-9, and round-off chooses.
    """
    found = []
    for ((name, tolerance), (ours, _)), ratio in zip(rows.items(), ratios(rows, field), strict=True):
        if ratio > bound:
            problem, exact = PROBLEMS[name], reference(PROBLEMS[name])
            nearby = [by_scipy(problem, PAIRS[solver], tolerance * f, exact) for f in (0.98, 0.99, 1, 1.01, 1.02)]
            ratio = max(getattr(ours, field), 1e-14) / max(*(getattr(each, field) for each in nearby), 1e-14)
        found.append(float(ratio))
    return max(found)


def mean(values: np.ndarray) -> float:
    """Geometric mean."""
    return float(np.exp(np.log(values).mean()))


def summary(solver: str, rows: dict) -> str:
    """One line of the table."""
    done = sum(math.isfinite(ours.nfe) for ours, _ in rows.values())
    path, end, nfe = (ratios(rows, field) for field in ("path", "end", "nfe"))
    return (
        f"| `{solver}` | {PAIRS[solver]} | {done} of {len(rows)} | {mean(path):.3f} | {path.max():.2f} | "
        f"{mean(end):.3f} | {end.max():.2f} | {mean(nfe):.3f} | {nfe.max():.2f} |"
    )


def details(solver: str, rows: dict) -> str:
    """The ratios of every problem."""
    lines = ["| problem | " + " | ".join(f"error, {t:g} | evaluations" for t in TOLERANCES) + " |"]
    lines.append("|---" * (1 + 2 * len(TOLERANCES)) + "|")
    for name in dict.fromkeys(name for name, _ in rows):
        cells = []
        for tolerance in TOLERANCES:
            ours, theirs = rows[name, tolerance]
            cells.append(f"{ours.path:.1e} / {theirs.path:.1e} | {ours.nfe} / {theirs.nfe}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the page whose part from '## Measured' on is replaced")
    parser.add_argument("--solver", nargs="*", default=list(PAIRS), choices=PAIRS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {solver: compare(solver) for solver in arguments.solver}
    text = "\n".join(
        [
            "## Measured",
            "",
            "Ours over scipy's on 25 problems at three tolerances (`python -m benchmarks.detest`); an error is the",
            "largest over all components, at 20 times (path) or the last (end), against scipy's DOP853 at 1e-13.",
            "",
            "| solver | against | finished | error, path: mean | worst | error, end: mean | worst "
            "| evaluations: mean | worst |",
            "|---|---|---|---|---|---|---|---|---|",
            *(summary(solver, rows) for solver, rows in found.items()),
            "",
            "Means are geometric. The rows behind them, ours / scipy's:",
            *(f"\n### {solver}\n\n{details(solver, rows)}" for solver, rows in found.items()),
            "",
        ]
    )
    if arguments.write is None:
        print(text)
        return
    page = arguments.write.read_text("utf-8") if arguments.write.exists() else "# Accuracy: the DETEST problems\n\n"
    arguments.write.write_text(page.split("## Measured")[0] + text, "utf-8")


if __name__ == "__main__":
    main()
