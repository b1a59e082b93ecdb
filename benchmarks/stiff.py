"""Implicit solvers against scipy's Radau on five stiff problems: ``python -m benchmarks.stiff [--write]``.

``--tolerances 1e-8 --solvers radau`` for others than those of the page."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.integrate import solve_ivp

import odeframe
from benchmarks.page import put

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from stiff_problems import PROBLEMS, StiffProblem  # noqa: E402

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
SOLVERS = ("sdirk4", "radau")


@dataclass
class Row:
    """One solve: error at the end, evaluations without those of Jacobians, Jacobians, steps taken and rejected."""

    error: float
    nfev: int
    njev: int
    steps: int
    rejected: int


class Counted:
    """A field that tells evaluations for a Jacobian (their state records a graph) from the others."""

    def __init__(self, problem: StiffProblem) -> None:
        self.problem, self.nfev, self.njev = problem, 0, 0

    def __call__(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The field."""
        if x.requires_grad:
            self.njev += 1
        else:
            self.nfev += 1
        return self.problem.field(t, x)


def ours(problem: StiffProblem, solver: object, rtol: float) -> Row:
    """One of the project's solvers."""
    field = Counted(problem)
    options = {"rtol": rtol, "atol": rtol * problem.share}
    chosen = {"name": solver, **options} if isinstance(solver, str) else solver(**options)  # type: ignore[operator]
    with torch.no_grad():
        solution = odeframe.solve(field, problem.x0, (0.0, problem.end), chosen)
    stats = solution.stats
    error = problem.error(solution.final[0].numpy(), rtol)
    return Row(error, field.nfev, field.njev, stats.accepted, stats.rejected)


def scipys(problem: StiffProblem, rtol: float) -> Row:
    """scipy's Radau; its ``nfev`` leaves out the differences that make a Jacobian."""
    found = solve_ivp(
        problem.numpy, (0.0, problem.end), problem.start, method="Radau", rtol=rtol, atol=rtol * problem.share
    )
    return Row(problem.error(found.y[:, -1], rtol), found.nfev, found.njev, len(found.t) - 1, 0)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def table(tolerances: Sequence[float] = TOLERANCES, solvers: Sequence[object] = SOLVERS) -> list[str]:
    """Markdown: a row a problem and tolerance, then geometric means of the ratios to scipy."""
    names = [str(getattr(s, "__name__", s)) for s in solvers]
    lines = [
        "| problem | rtol | scipy Radau | " + " | ".join(names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    ratios: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for problem in PROBLEMS:
        for rtol in tolerances:
            base = scipys(problem, rtol)
            cells = [f"{base.error:.1e}, {base.nfev} + {base.njev}"]
            for name, solver in zip(names, solvers, strict=True):
                row = ours(problem, solver, rtol)
                ratios[name].append((row.error / base.error, row.nfev / base.nfev, row.njev / base.njev))
                cells.append(f"{row.error:.1e}, {row.nfev} + {row.njev} ({row.steps}/{row.rejected})")
            lines.append(f"| {problem.name} | {rtol:.0e} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    for label, place in (("error", 0), ("evaluations", 1), ("Jacobians", 2)):
        means = [f"{geometric_mean([r[place] for r in ratios[name]]):.2f}" for name in names]
        lines.append(f"| geometric mean of {label} over scipy's | | 1 | " + " | ".join(means) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Prints the table; ``--write`` puts it into the documentation too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the table in docs/parts/implicit.md")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES, help="relative tolerances")
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, help="solvers of the project")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = table(arguments.tolerances, arguments.solvers)
    if arguments.write:
        page = ROOT / "docs" / "parts" / "implicit.md"
        put(page, ("<!-- stiff table -->", "<!-- end of stiff table -->"), "\n".join(lines))


if __name__ == "__main__":
    main()
