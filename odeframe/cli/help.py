"""Help pages, and the arguments of commands that have few; nothing heavy is imported for them."""

from __future__ import annotations

from pathlib import Path

from odeframe.errors import InvalidOption, suggestion
from odeframe.hookspecs import KINDS
from odeframe.registry import available

__all__ = ["DEMO_HELP", "demo_arguments", "run_help"]

SUMMARIES = {
    "fit": "trains a model on data",
    "validate": "computes the metrics of a checkpoint on the validation set",
    "test": "computes the metrics of a checkpoint on the test set",
    "predict": "writes the predictions of a checkpoint on the test set to DIR/predictions.csv",
}

RUN_HELP = """\
odeframe {command}: {summary}.

A word is a registered name; its options stand below it:
  --model.KIND=NAME  --model.KIND.OPTION=VALUE    for the kinds of part listed below
  --data=NAME        --data.OPTION=VALUE          default: digits
  --model.optimizer=NAME  --model.learning_rate=X  --model.optimizer_options.OPTION=X    of torch.optim; Adam, 0.002
  --model.costs.NAME=WEIGHT  --model.costs.NAME.OPTION=VALUE    further terms of the objective: kinetic_energy,
                        jacobian_frobenius, state_tracking, weight_decay, control_smoothness
  --model.schedule=cosine|constant    the learning rate over the fit: rises, then falls to zero; or as it is
  odeframe plugins show KIND NAME                 the options of a part

Registered:
{names}

The rest:
  --config FILE         a configuration in YAML; several are laid over each other, arguments over them all
  --print_config        prints the whole configuration, which --config takes, and runs nothing
  --ckpt_path FILE      {ckpt_path}
  --resume auto         fit: goes on from the last complete checkpoint in the folder of --output, or from the start
  --output DIR          where results go; default runs/<date>-<architecture>
  --seed_everything N   default 0
  --trainer.OPTION=X    any option of Lightning's Trainer: max_epochs, accelerator, devices, strategy, precision,
                        logger, callbacks, ...
  --optimizer=CLASS --optimizer.lr=X  --lr_scheduler=CLASS    Lightning's way to give both, in place of model.optimizer
  --quiet               no progress
  --debug               warnings of libraries, and the traceback of an error

Examples:
{examples}
"""

EXAMPLES = {
    "fit": (
        "--config examples/resnet_digits.yaml",
        "--model.architecture=resnet --model.architecture.width=32 --model.solver=rk4 --data=digits",
        "--data=csv --data.path=houses.csv --data.target=price --trainer.max_epochs=50",
        "--ckpt_path runs/first/checkpoints/last.ckpt --trainer.max_epochs=40",
        "--resume auto --output runs/first",
    ),
    "validate": ("--ckpt_path runs/first/checkpoints/best.ckpt",),
    "test": (
        "--ckpt_path runs/first/checkpoints/best.ckpt",
        "--ckpt_path runs/first/checkpoints/best.ckpt --model.solver=rk4",
    ),
    "predict": ("--ckpt_path runs/first/checkpoints/best.ckpt --output runs/first",),
}

DEMO_HELP = """\
odeframe demo: the main job on shipped data, end to end, with a table and pictures.

  --quick        a few epochs on a share of the data
  --output DIR   where results go; default runs/<date>-demo
"""


def run_help(command: str) -> str:
    """The help page of fit, validate, test or predict."""
    names = "\n".join(f"  {kind:<13} {_wrapped(available(kind))}" for kind in KINDS)
    examples = "\n".join(f"  odeframe {command} {text}" for text in EXAMPLES[command])
    ckpt_path = (
        "goes on from a checkpoint: its weights, optimiser, epoch and step"
        if command == "fit"
        else "the checkpoint; it knows its model and its data"
    )
    summary = SUMMARIES[command]
    return RUN_HELP.format(command=command, summary=summary, names=names, examples=examples, ckpt_path=ckpt_path)


def _wrapped(names: list[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 90:
            lines.append("")
        lines[-1] += f"{name} "
    return ("\n" + " " * 16).join(line.rstrip() for line in lines)


def demo_arguments(arguments: list[str]) -> tuple[Path | None, bool]:
    """Folder and ``--quick`` of the demo.

    Raises:
        InvalidOption: an argument is unknown or has no value.
    """
    output, quick, rest = None, False, list(arguments)
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        if name == "--quick" and not equals:
            quick = True
        elif name == "--output":
            if not equals:
                text = rest.pop(0) if rest else ""
            if not text:
                raise InvalidOption("--output needs a value: --output DIR")
            output = Path(text)
        else:
            near = suggestion(name, ("--quick", "--output"))
            raise InvalidOption(f"demo: there is no argument {name!r}.{near} Its arguments: --quick, --output DIR.")
    return output, quick
