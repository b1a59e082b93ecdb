"""The commands fit, validate, test and predict."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from odeframe.callbacks import Interrupted
from odeframe.checkpoint import CHECKPOINT_KEY, read_checkpoint
from odeframe.checkpoint_files import last_complete
from odeframe.cli.console import metrics_table, quiet_lightning, say
from odeframe.cli.folder import RunFolder
from odeframe.cli.lightning import CommandLine, bar_or_lines, check_trainer_options, input_errors
from odeframe.cli.sources import LIGHTNING, MODEL_KEYS, SETTINGS, Arguments, read_config
from odeframe.cli.words import Words, argument_words, completed, on_top, overlaid, with_types
from odeframe.component import spelling
from odeframe.data import specification
from odeframe.errors import InvalidOption
from odeframe.module import LEARNING_RATE, FlowModule
from odeframe.registry import word
from odeframe.run import NothingLeft, Run

__all__ = ["run_command"]


def run_command(command: str, arguments: Arguments) -> int:
    """Runs fit, validate, test or predict, and returns the exit status.

    Raises:
        OdeframeError: the input is wrong, or a solve failed.
    """
    with nullcontext() if "debug" in arguments.flags else quiet_lightning():
        return _run(command, arguments)


def _run(command: str, arguments: Arguments) -> int:
    sources = [read_config(path) for path in arguments.configs]
    settings: dict[str, Any] = {key: each.values[key] for each in sources for key in SETTINGS if key in each.values}
    settings |= arguments.settings
    path, resuming = _starting_point(command, settings), settings.get("resume") is not None
    checkpoint = None if path is None else read_checkpoint(path)
    options = [(n, s.where(f"trainer.{n}")) for s in sources for n in s.values.get("trainer") or {}]
    check_trainer_options([*options, *_trainer_arguments(arguments)])

    before = [] if checkpoint is None else [_of_checkpoint(checkpoint)]
    words = overlaid([*before, *(source.values for source in sources), argument_words(arguments.words)])
    configs = [{key: value for key, value in layer.items() if key in LIGHTNING} for layer in before]
    configs += [{key: value for key, value in source.values.items() if key in LIGHTNING} for source in sources]
    said = {key for config in configs for key in config}
    said |= {name.partition(".")[0] for name, _ in arguments.lightning}
    if "lr_scheduler" in said and "optimizer" not in said:
        configs.insert(0, {"optimizer": _optimizer(words)})

    main = is_main()
    quiet = "quiet" in arguments.flags
    line = CommandLine(
        lambda: _compose(words, _text("output", settings.get("output"))),
        [config for config in configs if config],
        arguments.lightning,
        fitting=command == "fit",
        bar=bar_or_lines(quiet, sys.stdout.isatty()),
    )
    if "print_config" in arguments.flags:
        print(line.config_file(), end="")
        return 0
    if path is not None and checkpoint is not None:
        line.run.restore(path)
        if command == "fit":
            _check_optimizer(line, checkpoint, path)
    if main and not quiet:
        say(header(line.run))
    if command != "fit":
        return _evaluate(command, line, path)
    try:
        return _fit(line, path)
    except NothingLeft as done:
        if not resuming:
            raise
        if main:
            say(f"nothing left to do: {done}")
        return 0


def _starting_point(command: str, settings: Mapping[str, Any]) -> str | None:
    """The checkpoint that was named, or with ``resume: auto`` the last complete one of the run's folder, if any."""
    path, resume = _text("ckpt_path", settings.get("ckpt_path")), settings.get("resume")
    if resume is None:
        return path
    output = _text("output", settings.get("output"))
    if resume != "auto":
        raise InvalidOption(f"resume: got {resume!r}, expected 'auto'; a certain checkpoint is --ckpt_path FILE")
    if command != "fit" or path is not None or output is None:
        raise InvalidOption(
            "resume: auto looks in the folder of --output for the checkpoint that fit goes on from: write odeframe fit "
            "--resume auto --output DIR, and no --ckpt_path"
        )
    found = last_complete(Path(output) / "checkpoints")
    if is_main():
        say(f"no complete checkpoint in {output}: from the start" if found is None else f"going on from {found}")
    return None if found is None else str(found)


def is_main() -> bool:
    """Whether this is the process that prints and writes, of however many that run the command."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _trainer_arguments(arguments: Arguments) -> list[tuple[str, str]]:
    names = [name.split(".") for name, _ in arguments.lightning if name.startswith("trainer.")]
    return [(path[1].rstrip("+"), f"argument --{'.'.join(path)}") for path in names]


def _text(key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidOption(f"{key}: got {value!r}, expected a path")
    return value


def _of_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The layer below all others: what a checkpoint says of its model, its data and its optimiser."""
    said = checkpoint["hyper_parameters"]
    layer: dict[str, Any] = {"model": {key: said[key] for key in MODEL_KEYS if key in said}}
    if said.get("data") is not None:
        layer["data"] = said["data"]
    return {**layer, **checkpoint[CHECKPOINT_KEY].get("optimisation", {})}


def _optimizer(words: Words) -> dict[str, Any]:
    """The module's optimiser as Lightning's configuration writes it, for a scheduler that needs one."""
    options = with_types("optimizer_options", words.get("optimizer_options") or {})
    return {
        "class_path": f"torch.optim.{words.get('optimizer', 'Adam')}",
        "init_args": {"lr": words.get("learning_rate", LEARNING_RATE), **options},
    }


def _compose(words: Words, output: str | None) -> Run:
    data = word("data", with_types("data", on_top("data", words.get("data", "digits"), "digits")))
    loaded = data.build()
    spec = specification(loaded)
    parts = completed({key: value for key, value in words.items() if key != "data"}, spec)
    return Run(FlowModule(data_spec=spec.to_dict(), data=data, **parts), loaded, output)


def header(run: Run) -> str:
    """A run in one line: its parts and the number of its parameters."""
    words = run.module.hparams
    parts = {kind: word(kind, words[kind]) for kind in ("architecture", "data", "task", *_REST)}
    texts = {kind: _spelt(each.component, each.options) for kind, each in parts.items()}
    rest = ", ".join(f"{kind} {texts[kind]}" for kind in ("task", *_REST))
    if words["costs"]:
        rest += f", costs {', '.join(f'{name}={value}' for name, value in words['costs'].items())}"
    count = sum(parameter.numel() for parameter in run.module.parameters())
    return f"{texts['architecture']} on {texts['data']}: {rest}; {count:,} parameters"


_REST = ("dynamics", "control", "solver", "gradient", "trainer")


def _spelt(component: Any, options: Mapping[str, Any]) -> str:
    inside = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{spelling(component)}({inside})" if inside else spelling(component)


def _fit(line: CommandLine, ckpt_path: str | None) -> int:
    run, trainer = line.run, line.trainer
    folder = RunFolder(run.folder, line.config_file(), resumed=ckpt_path is not None, trainer=trainer)
    trainer.callbacks.insert(0, folder)  # type: ignore[attr-defined]
    try:
        with folder if is_main() else nullcontext(), input_errors():
            run.fit_with(trainer, ckpt_path)
    except Interrupted as stop:
        if is_main():
            _tell_interruption(stop, _near(str(run.folder)))
        return 128 + stop.signum
    if is_main():
        figures = [("figure", str(path)) for path in run.draw()]
        for title, path in [*_results(line), *figures]:
            say(f"{title:<12}{path}")
    return 0


def _check_optimizer(line: CommandLine, checkpoint: Mapping[str, Any], path: str) -> None:
    """A fit that goes on restores the optimiser's state: another class is refused, other options have no effect."""
    before = _optimizer_of(checkpoint["hyper_parameters"], checkpoint[CHECKPOINT_KEY].get("optimisation", {}))
    now = _optimizer_of(line.run.module.hparams, line.optimisation)
    if before[0].lower() != now[0].lower():
        raise InvalidOption(
            f"checkpoint {path}: was trained by {before[0]}, got {now[0]}; go on with its own optimizer"
        )
    moot = [f"{name}={value}" for name, value in now[1].items() if before[1].get(name, value) != value]
    if moot:
        text = f"the optimizer goes on with the options of the checkpoint; no effect: {', '.join(moot)}"
        warnings.warn(text, stacklevel=2)


def _optimizer_of(words: Mapping[str, Any], optimisation: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = optimisation.get("optimizer")
    if given:
        return given["class_path"].rpartition(".")[2], given.get("init_args", {})
    return words["optimizer"], {"lr": words["learning_rate"], **words["optimizer_options"]}


def _tell_interruption(stop: Interrupted, folder: str) -> None:
    if stop.path is None:
        print("interrupted before there was anything to save", file=sys.stderr)
    else:
        line = shlex.join(["odeframe", "fit", "--config", f"{folder}/config.yaml", "--output", folder])
        print(f"interrupted; go on with: {line} --resume auto", file=sys.stderr)


def _results(line: CommandLine) -> list[tuple[str, str]]:
    found = []
    for keeper in line.trainer.checkpoint_callbacks:
        if isinstance(keeper, ModelCheckpoint) and (path := _kept(keeper)):
            score = (
                "" if keeper.best_model_score is None else f"  {keeper.monitor} {float(keeper.best_model_score):.4g}"
            )
            found.append(("best" if keeper.monitor else "last", _near(path) + score))
    for title, name in (("metrics", "metrics.csv"), ("config", "config.yaml")):
        if (line.run.folder / name).is_file():
            found.append((title, str(line.run.folder / name)))
    return found


def _kept(keeper: ModelCheckpoint) -> str:
    """The file that a keeper has written: forked ranks do not tell of one without a metric, but it is there."""
    expected = Path(keeper.dirpath or ".") / f"{keeper.filename}.ckpt"
    return keeper.best_model_path or (str(expected) if expected.is_file() else "")


def _near(path: str) -> str:
    """A path from the current folder where it lies below."""
    whole, here = Path(path).resolve(), Path.cwd().resolve()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)


def _evaluate(command: str, line: CommandLine, ckpt_path: str | None) -> int:
    run, run.trainer = line.run, line.trainer
    architecture = run.module.hparams["architecture"]
    pretrained = isinstance(architecture, Mapping) and architecture.get("pretrained", False)
    if ckpt_path is None and not pretrained:
        warnings.warn(f"no --ckpt_path: {command} sees weights that are not trained", stacklevel=2)
    with input_errors():
        if command == "predict":
            say(f"predictions {run.predict()}")
            return 0
        found = run.validate() if command == "validate" else run.test()
    if is_main():
        metrics_table(command, found)
    return 0
