"""The command solve-check: is a trained network the differential equation that it claims to be?"""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from odeframe.errors import CheckpointError, InvalidOption, suggestion

__all__ = ["run_solve_check"]

HELP = """\
odeframe solve-check: is a trained network the differential equation that it claims to be?

  odeframe solve-check CHECKPOINT [--output DIR] [--solvers NAME,NAME] [--split val] [--batches N] [--json]

Runs the network under finer and coarser steps of its scheme and under other solvers, and says what score and gradient
become. It is the equation where under every solve that is more exact than its training (2, 4, 8 times the steps, or
tolerances 10 and 100 times tighter; adaptive solvers at 1e-5) the score falls by at most 0.01 (an error rises by at
most 5 %), and the gradient of the objective on a batch differs by at most 10 % of the larger of the two. Otherwise it
is tied to its scheme.

  --output DIR      results.csv and figures/solve_check.png; default runs/<date>-solve-check
  --solvers A,B     other solvers; by default euler, midpoint, rk4, bosh3 and dopri5 as far as they go with its parts
  --split NAME      train, val (default) or test
  --batches N       how many batches of it at most; default 20
  --json            prints plain data
"""

WIDTH = 110
OPTIONS = ("--output", "--solvers", "--split", "--batches")
SPLITS = ("train", "val", "test")


@dataclass
class _Asked:
    checkpoint: str = ""
    output: Path | None = None
    solvers: list[str] | None = None
    split: str = "val"
    batches: int = 20
    as_json: bool = False
    found: list[str] = field(default_factory=list)


def run_solve_check(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit status.

    Raises:
        InvalidOption: an argument is unknown or wrong.
        CheckpointError: the checkpoint cannot be read, or does not say on what data it was trained.
        Incompatible: the network has no flow, or a solver does not go with it.
    """
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(HELP, end="")
        return 0 if arguments else 2
    asked = _read(list(arguments))
    from odeframe import plots
    from odeframe.module import FlowModule
    from odeframe.plots_solver import solve_check
    from odeframe.run import default_output, output_folder
    from odeframe.solve_check import examine

    module = FlowModule.load(asked.checkpoint)
    report = examine(module, _batches(module, asked), asked.solvers)
    folder = output_folder(default_output("solve-check") if asked.output is None else asked.output)
    _write(folder / "results.csv", [each.to_dict() for each in report.trials])
    picture = plots.save(solve_check(report), folder / "figures" / "solve_check.png")
    if asked.as_json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    print("\n".join([*_table(report), "", *_words(report), ""]))
    print(f"results      {folder / 'results.csv'}\nfigure       {picture}")
    return 0


def _read(rest: list[str]) -> _Asked:
    asked = _Asked()
    while rest:
        token = rest.pop(0)
        name, equals, text = token.partition("=")
        if name == "--json" and not equals:
            asked.as_json = True
        elif name in OPTIONS:
            _set(asked, name, text if equals else rest.pop(0) if rest else "")
        elif token.startswith("-"):
            known = (*OPTIONS, "--json")
            near = suggestion(name, known)
            raise InvalidOption(f"solve-check: there is no argument {name!r}.{near} Its arguments: {', '.join(known)}.")
        else:
            asked.found.append(token)
    if len(asked.found) != 1:
        raise InvalidOption(f"solve-check: got {' '.join(asked.found) or 'no checkpoint'}, expected one CHECKPOINT")
    asked.checkpoint = asked.found[0]
    return asked


def _set(asked: _Asked, name: str, text: str) -> None:
    if not text:
        raise InvalidOption(f"solve-check: {name} needs a value")
    if name == "--output":
        asked.output = Path(text)
    elif name == "--solvers":
        asked.solvers = [each.strip() for each in text.split(",") if each.strip()]
    elif name == "--split":
        if text not in SPLITS:
            raise InvalidOption(f"solve-check: --split: got {text!r}, expected one of {', '.join(SPLITS)}")
        asked.split = text
    else:
        if not text.isdecimal() or int(text) < 1:
            raise InvalidOption(f"solve-check: --batches: got {text!r}, expected a number of at least 1")
        asked.batches = int(text)


def _batches(module: Any, asked: _Asked) -> list[Any]:
    """The first batches of the data that the checkpoint was trained on."""
    import torch

    from odeframe.registry import word

    if module.hparams["data"] is None:
        raise CheckpointError(
            f"checkpoint {asked.checkpoint}: does not say on what data it was trained (they were an object); use "
            "odeframe.solve_check.examine(module, batches) in Python"
        )
    data = word("data", module.hparams["data"]).build()
    data.prepare_data()
    data.setup("test" if asked.split == "test" else "fit")
    torch.manual_seed(0)  # of the order in which training batches come
    return list(islice(getattr(data, f"{asked.split}_dataloader")(), asked.batches))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    aside = path.with_suffix(".part")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


def _table(report: Any) -> Iterable[str]:
    yield f"{'solver':<14}{'setting':<24}{report.metric:>12}{'gradient':>11}{'evaluations':>13}  kept"
    for each in report.trials:
        if each.failure:
            yield f"{each.solver:<14}{each.setting:<24}  {each.failure.partition(' What usually')[0][:60]}"
            continue
        what = "score and gradient" if each.exact else "score" if each.kept else "-"
        mark = " *" if each.finer else ""
        difference = "-" if each.trained else f"{each.gradient_difference:.1e}"
        yield f"{each.solver:<14}{each.setting:<24}{each.score:>12.4f}{difference:>11}{each.nfe:>13.1f}  {what}{mark}"
    yield "* more exact than the training; gradient: |g - g0| / max(|g|, |g0|); evaluations of the dynamics, a batch"


def _words(report: Any) -> Iterable[str]:
    verdict = "a differential equation" if report.is_ode else "tied to its scheme"
    yield f"verdict      {verdict}"
    for reason in report.reasons[:3]:
        yield textwrap.fill(reason, WIDTH, initial_indent=" " * 13, subsequent_indent=" " * 15)
    if len(report.reasons) > 3:
        yield f"{'':<13}and {len(report.reasons) - 3} more"
    if report.order is not None:
        claimed = "" if report.claimed is None else f" (the scheme's: {report.claimed})"
        yield f"order        {report.order:.2f} as the steps are halved{claimed}"
    yield f"cheapest     {_argument(report.cheapest)}  keeps the {report.metric}"
    yield f"             {_argument(report.cheapest_to_train)}  keeps the gradient too"


def _argument(trial: Any) -> str:
    """A solver as arguments of the command line, with what it costs."""
    options = [f"--model.solver={trial.word['name']}"]
    options += [f"--model.solver.{key}={value:g}" for key, value in trial.word.items() if key != "name"]
    return f"{' '.join(options)}  ({trial.nfe:.1f} evaluations)"
