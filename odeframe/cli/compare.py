"""The command compare: axes and a budget from arguments and a file, before anything heavy is imported."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odeframe.cli.sources import MODEL_KEYS, read_text
from odeframe.errors import InvalidOption, suggestion

__all__ = ["Asked", "compare_arguments", "run_compare"]

AXES = ("data", *MODEL_KEYS)
BUDGETS = ("epochs", "seconds", "evaluations")
EXECUTORS = ("local", "ray")
#: option to what its value must be
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "seeds": (int, list),
    "epochs": int,
    "seconds": (int, float),
    "evaluations": int,
    "workers": int,
    "threads": int,
    "limit": (int, float),
    "accelerator": str,
    "executor": str,
    "ray_address": str,
    "cpus": int,
    "gpus": (int, float),
    "output": str,
}
FLAGS = ("retry", "plan", "quiet")
ACCELERATORS = ("cpu", "gpu", "auto")
ONLY = {"local": ("ray_address", "cpus", "gpus"), "ray": ("threads", "limit")}
"""By executor, the options that mean nothing to it."""
MOST_SEEDS = 1000
DEFAULTS = {"seeds": 3, "workers": 1, "threads": 1, "executor": "local", "accelerator": "auto", "cpus": 1, "gpus": 0}

HELP = """\
odeframe compare: every legal combination of some words, with several seeds and one budget, side by side.

  odeframe compare --solver euler,rk4,dopri5 --architecture resnet,neural_ode --data digits --seeds 3 --epochs 2
  odeframe compare --config compare.yaml

Axes, each a word or several with commas between; a word with options is {{name: ..., option: value}}:
  --{axes}
The rest of a combination is the architecture's and the data's. The same names stand in a YAML file, values as lists.

Budget, the same for every cell; one of
  --epochs N (10)   --seconds S   --evaluations N (of the dynamics in training, forward and backward)

  --seeds N             seeds 0 to N - 1, or a list: --seeds 3,7,11           (3)
  --workers N           cells at a time, each in its own process              (1)
  --threads N           of torch in each                                      (1)
  --limit S             seconds after which a cell is ended and a failed row  (none)
  --accelerator NAME    cpu, gpu or auto                                      (auto)
  --executor ray        cells on a Ray cluster: --ray_address ADDRESS (a cluster on this machine where none is said),
                        --cpus N and --gpus X of each cell; needs pip install odeframe[ray]
  --output DIR          the folder; by default the one in which these cells were begun and not finished, else
                        runs/<date>-compare
  --retry               runs the cells that failed again
  --plan                says what would run, and runs nothing
  --quiet               prints nothing but errors
  --config FILE         the same names in YAML; arguments win over it

A comparison that was stopped, by whatever, goes on when the same line is given again: cells that have ended are files
in DIR/cells and are not run again. A cell that fails is a row with its reason; an illegal combination is counted with
its. Writes results.csv, cells.csv, figures/pareto.png and report.html, a page to sort and filter. Status 1 where no
cell has ended well.
"""


@dataclass
class Asked:
    """What was asked for.

    Attributes:
        axes: key to values.
        options: by name, those that were given.
        flags: which are set.
    """

    axes: dict[str, list[Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    def option(self, name: str) -> Any:
        """An option, or its default."""
        return self.options.get(name, DEFAULTS.get(name))

    def seeds(self) -> list[int]:
        """The seeds: 0 to N - 1, or those of the list."""
        seeds = self.option("seeds")
        if isinstance(seeds, list):
            if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds):
                raise InvalidOption(f"seeds: got {seeds}, expected whole numbers")
            return seeds
        if not 1 <= seeds <= MOST_SEEDS:
            raise InvalidOption(
                f"seeds: got {seeds}, expected 1 to {MOST_SEEDS}; a list names single ones: --seeds 3,7,11"
            )
        return list(range(seeds))

    def budget(self) -> tuple[str, float]:
        """The unit and the amount.

        Raises:
            InvalidOption: several are given.
        """
        given = [name for name in BUDGETS if name in self.options]
        if len(given) > 1:
            raise InvalidOption(f"got {' and '.join(f'--{name}' for name in given)}: every cell has one budget")
        return (given[0], self.options[given[0]]) if given else ("epochs", 10)


def compare_arguments(arguments: Sequence[str]) -> Asked:
    """Reads the arguments, and the files that they name, under them.

    Raises:
        InvalidOption: an argument or a key is unknown, or a value is of a wrong type.
    """
    files: list[str] = []
    given: list[tuple[str, Any, str]] = []
    found, rest = Asked(), list(arguments)
    while rest:
        token = {"-c": "--config", "-o": "--output"}.get(rest[0], rest[0])
        rest.pop(0)
        name, equals, text = token[2:].partition("=")
        if not token.startswith("--") or not name:
            raise InvalidOption(
                f"compare: got {token!r}, expected --axis a,b or an option; see odeframe compare --help"
            )
        if name in FLAGS:
            if equals:
                raise InvalidOption(f"compare: --{name} takes no value, got {text!r}")
            found.flags.add(name)
            continue
        _check_name(name, "argument --")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InvalidOption(f"compare: --{name} needs a value: --{name}=...")
            text = rest.pop(0)
        if name == "config":
            files.append(text)
        else:
            given.append((name, _value(name, text), f"argument --{name}"))
    for path in files:
        for name, value in _read_file(path).items():
            _take(found, str(name), value, f"config {path}, {name}")
    names = [name for name, _, _ in given if name in (*AXES, *BUDGETS)]
    for name in names:
        if names.count(name) > 1:
            raise InvalidOption(f"compare: --{name} is given twice; write its values with commas between")
    budgets = [name for name in BUDGETS if name in names]
    if len(budgets) > 1:
        raise InvalidOption(f"got {' and '.join(f'--{name}' for name in budgets)}: every cell has one budget")
    for name, value, where in given:
        _take(found, name, value, where)
    return found


def _check_name(name: str, prefix: str) -> None:
    known = (*AXES, *OPTIONS, *FLAGS, "config")
    if name not in known:
        near = suggestion(name, known)
        raise InvalidOption(f"compare: there is no {prefix}{name}.{near} There are {', '.join(known)}.")


def _value(name: str, text: str) -> Any:
    """An argument's value: of an axis and of seeds a list where there are commas."""
    where = f"argument --{name}"
    if name in AXES:
        return read_text(f"[{text}]", where)
    if name == "seeds" and "," in text:
        return read_text(f"[{text}]", where)
    return text if OPTIONS[name] is str else read_text(text, where)


def _read_file(path: str) -> Mapping[str, Any]:
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"config {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    values = read_text(text, f"config {path}") or {}
    if not isinstance(values, Mapping):
        raise InvalidOption(f"config {path}: got {type(values).__name__}, expected a mapping: solver: [euler, rk4]")
    return values


def _take(found: Asked, name: str, value: Any, where: str) -> None:
    _check_name(name, "key " if where.startswith("config") else "argument --")
    if name in AXES:
        values = value if isinstance(value, list) else [value]
        if not values or any(each is None or isinstance(each, list) for each in values):
            raise InvalidOption(f"compare: {where}: got {value!r}, expected one value or several")
        found.axes[name] = list(values)
        return
    if name in FLAGS:
        if not isinstance(value, bool):
            raise InvalidOption(f"compare: {where}: got {value!r}, expected true or false")
        (found.flags.add if value else found.flags.discard)(name)
        return
    kinds = OPTIONS.get(name)
    if kinds is None or not isinstance(value, kinds) or isinstance(value, bool):
        raise InvalidOption(f"compare: {where}: got {value!r}, expected {_kinds(kinds)}")
    if name in BUDGETS and where.startswith("argument"):  # a budget said later stands in the place of a file's
        for other in BUDGETS:
            if other != name and other in found.options:
                found.options = {key: each for key, each in found.options.items() if key != other}
    found.options[name] = value


def _kinds(kinds: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return " or ".join(names[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)) if kind in names)


def run_compare(arguments: Sequence[str]) -> int:
    """Runs the comparison and returns the exit status: 0 where some cells have failed, for they are rows; 1 where all.

    Raises:
        OdeframeError: the input is wrong.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP.format(axes=" --".join(AXES)), end="")
        return 0 if arguments else 2
    asked = compare_arguments(arguments)
    if not asked.axes:
        raise InvalidOption("compare: there is no axis; write e.g. --solver euler,rk4")
    if asked.option("executor") not in EXECUTORS:
        near = suggestion(asked.option("executor"), EXECUTORS)
        raise InvalidOption(f"executor: got {asked.option('executor')!r}, expected local or ray.{near}")
    if asked.option("accelerator") not in ACCELERATORS:
        near = suggestion(asked.option("accelerator"), ACCELERATORS)
        raise InvalidOption(f"accelerator: got {asked.option('accelerator')!r}, expected cpu, gpu or auto.{near}")
    idle = [name for name in ONLY[asked.option("executor")] if name in asked.options]
    if idle:
        other = next(each for each in EXECUTORS if each != asked.option("executor"))
        raise InvalidOption(f"--{idle[0]} is an option of --executor {other}; leave it out")
    from odeframe.comparison.command import run

    return run(asked, shlex.join(["odeframe", "compare", *arguments]))
