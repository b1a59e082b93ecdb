"""What the command compare does with what was asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from odeframe.comparison.execution import Executor, LocalExecutor
from odeframe.comparison.plan import Budget, Plan, label
from odeframe.comparison.runner import compare, unfinished
from odeframe.run import default_output

if TYPE_CHECKING:
    from odeframe.cli.compare import Asked

__all__ = ["run"]

WIDTH = 130


def run(asked: Asked, command: str) -> int:
    """Plans, runs and writes; returns the exit status: 0 where a cell has ended well, 1 where none has.

    Raises:
        OdeframeError: the input is wrong.
    """
    executor = _executor(asked)
    unit, amount = asked.budget()
    plan = Plan(asked.axes, asked.seeds(), Budget(unit, amount), asked.option("accelerator"))
    # A file or a pipe has no width; rich would take 80 columns and break the numbers.
    console = Console(quiet="quiet" in asked.flags, width=None if sys.stdout.isatty() else WIDTH)
    if "plan" in asked.flags:
        _tell(console, plan)
        return 0
    given: Any = asked.option("output")
    folder = Path(given) if given is not None else unfinished(plan, Path("runs")) or default_output("compare")
    try:
        rows = compare(plan, folder, executor, console, "retry" in asked.flags, command)
    except KeyboardInterrupt:
        print(f"interrupted; the same line goes on, or --output {folder}", file=sys.stderr)
        raise
    if any(row.seeds for row in rows):
        return 0
    print("error: no cell has ended well; the reasons are in the table", file=sys.stderr)
    return 1


def _executor(asked: Asked) -> Executor:
    if asked.option("executor") == "ray":
        from odeframe.comparison.ray_executor import RayExecutor

        address, workers = asked.option("ray_address"), asked.option("workers")
        return RayExecutor(address, workers, asked.option("cpus"), asked.option("gpus"))
    return LocalExecutor(asked.option("workers"), asked.option("threads"), asked.option("limit"))


def _tell(console: Console, plan: Plan) -> None:
    number = len(plan.combinations) * len(plan.seeds)
    console.print(
        f"combinations x seeds: {len(plan.combinations)} x {len(plan.seeds)} = {number} cells, {plan.budget} each"
    )
    for words in plan.combinations:
        console.print(f"  {label(words)}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"illegal combinations: {len(plan.illegal)}")
    for words, reason in plan.illegal:
        console.print(f"  {label(words)}: {reason}", soft_wrap=True, highlight=False, markup=False)
