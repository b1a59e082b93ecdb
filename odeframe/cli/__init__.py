"""The command line: finds the command, and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from odeframe.cli.console import one_line, short_warnings
from odeframe.cli.sources import read_arguments
from odeframe.errors import InvalidOption, OdeframeError, SolveFailed, suggestion

__all__ = ["main"]

RUNS = ("fit", "validate", "test", "predict")
COMMANDS = (*RUNS, "demo", "compare", "matrix", "solve-check", "plugins")

DONE, FAILED, INPUT = 0, 1, 2

HELP = """\
odeframe: deep networks as controlled dynamical systems.

  odeframe fit        train a model on data
  odeframe validate   metrics of a checkpoint on the validation set
  odeframe test       metrics of a checkpoint on the test set
  odeframe predict    predictions of a checkpoint on the test set, as predictions.csv
  odeframe demo       the main job on shipped data, end to end (--quick, --output DIR)
  odeframe compare    combinations of words side by side: --solver euler,rk4 --architecture resnet,neural_ode
  odeframe matrix     which parts go together: how many, KIND=NAME KIND=NAME, --try N
  odeframe solve-check  whether a trained network is the differential equation that it claims to be
  odeframe plugins    what is registered: list [--json], show PACKAGE, show KIND NAME; new, check

Examples:
  odeframe fit --model.architecture=resnet --data=digits --trainer.max_epochs=10
  odeframe fit --model.architecture=resnet --model.solver=rk4 --model.solver.steps=8
  odeframe fit --config run.yaml --output runs/first
  odeframe test --ckpt_path runs/first/checkpoints/best.ckpt

odeframe COMMAND --help says more; --version; --debug shows the traceback of an error.
Exit status: 0 done, 2 the input is wrong, 1 anything else, 130 or 143 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments; the process's own by default.

    Returns:
        the exit status: 0 done, 2 the user's input, 1 anything else, 128 plus the signal where a fit was interrupted.
    """
    # Before torch is loaded: threads that wait for each other sleep instead of spinning. On a machine with other load a
    # training batch of small operations took 5.0 s with two spinning threads, and 0.13 s with two that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        if debug:
            return _run(arguments)
        with short_warnings():
            return _run(arguments)
    except OdeframeError as error:
        is_input = not isinstance(error, SolveFailed) and type(error) is not OdeframeError
        return _tell(one_line(error), INPUT if is_input else FAILED, debug)
    except BrokenPipeError:  # the reader of a pipe has what it wanted; nothing more can be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _tell("interrupted", 128 + signal.SIGINT, debug)
    except SystemExit as end:
        # Lightning ends the process on a second interrupt.
        interrupted = isinstance(end.__context__, KeyboardInterrupt)
        return _tell("interrupted", 128 + signal.SIGINT, debug) if interrupted else _status(end)
    except Exception as error:
        hint = "" if debug else " (--debug shows the traceback)"
        notes = "".join(f"; {each}" for each in getattr(error, "__notes__", ()))
        return _tell(f"{type(error).__name__}: {one_line(error)}{notes}{hint}", FAILED, debug)


def _tell(text: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
    return status


def _status(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else DONE if end.code is None else FAILED


def _run(arguments: list[str]) -> int:
    command = next((each for each in arguments if not each.startswith("-")), None)
    if "--version" in arguments:
        print(f"odeframe {importlib.metadata.version('odeframe')}")
        return DONE
    if command is None:
        if not {"-h", "--help"} & set(arguments) and arguments not in ([], ["--debug"]):
            raise InvalidOption(f"got {arguments[0]!r}, expected a command first: {', '.join(COMMANDS)}")
        print(HELP, end="")
        return DONE if arguments else INPUT
    if command not in COMMANDS:
        near = suggestion(command, COMMANDS)
        raise InvalidOption(f"there is no command {command!r}.{near} The commands are {', '.join(COMMANDS)}.")
    position = arguments.index(command)
    before = [each for each in arguments[:position] if each != "--debug"]
    if before:
        raise InvalidOption(f"got {before[0]!r} before the command; write odeframe {command} {before[0]} ...")
    rest = arguments[position + 1 :]
    if command in RUNS:
        return _fit_or_evaluate(command, rest)
    rest = [each for each in rest if each != "--debug"]
    if command == "plugins":
        from odeframe.cli.plugins import run_plugins

        return run_plugins(rest)
    if command == "compare":
        from odeframe.cli.compare import run_compare

        return run_compare(rest)
    if command == "solve-check":
        from odeframe.cli.solve_check import run_solve_check

        return run_solve_check(rest)
    if command == "matrix":
        from odeframe.cli.matrix import run_matrix

        return run_matrix(rest)
    return _demo(rest)


def _fit_or_evaluate(command: str, rest: list[str]) -> int:
    found = read_arguments(rest)
    if "help" in found.flags:
        from odeframe.cli.help import run_help

        print(run_help(command), end="")
        return DONE
    from odeframe.cli.run import run_command

    return run_command(command, found)


def _demo(rest: list[str]) -> int:
    from odeframe.cli.help import DEMO_HELP, demo_arguments

    if {"-h", "--help"} & set(rest):
        print(DEMO_HELP, end="")
        return DONE
    output, quick = demo_arguments(rest)
    from odeframe.demo import demo
    from odeframe.run import default_output, output_folder

    demo(output_folder(default_output("demo") if output is None else output), quick)
    return DONE
