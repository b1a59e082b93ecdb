"""Lightning's command line for the trainer, the optimiser and the seed, around a run that is composed from words."""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from odeframe.callbacks import EpochLines, InterruptCheckpoint, progress_bar
from odeframe.cli.policy import allow_known_imports, explain
from odeframe.cli.sources import OPTIMISATION, read_text, write_text
from odeframe.component import resolve, spelling
from odeframe.errors import InvalidOption, OdeframeError, suggestion
from odeframe.hookspecs import KINDS
from odeframe.module import FlowModule
from odeframe.run import EPOCHS, Run, endless, trainer_options

__all__ = ["CommandLine", "bar_or_lines", "check_trainer_options", "input_errors"]

MOST_PROCESSES = max(4, os.cpu_count() or 1)
"""How many processes a CPU is asked to run at most; Lightning would start thousands."""

_RUN: ContextVar[Run] = ContextVar("run")


def composed_module() -> FlowModule:
    """The module, as what Lightning instantiates; it knows functions by name, so that they cannot be closures."""
    return _RUN.get().module


def composed_data() -> pl.LightningDataModule:
    """The data, likewise."""
    return _RUN.get().data


class CommandLine(LightningCLI):
    """Parses what Lightning reads, seeds, composes the run, and makes its trainer; runs nothing.

    Args:
        compose: makes the run, after the seed is set.
        configs: configurations for Lightning, in order, without model and data.
        arguments: arguments for Lightning, over the configurations.
        fitting: whether a fit is to come, or one pass over a set.
        bar: the progress: a bar, lines, or ``None``.

    Attributes:
        run: the run.

    Raises:
        InvalidOption: an option is unknown, of a wrong type, or refused by Lightning.
    """

    def __init__(
        self,
        compose: Callable[[], Run],
        configs: Sequence[Mapping[str, Any]],
        arguments: Sequence[tuple[str, str]],
        fitting: bool,
        bar: Callback | None,
    ) -> None:
        self._compose, self._fitting, self._bar = compose, fitting, bar
        self.run: Run
        allow_known_imports()
        tokens = [token for each in configs for token in ("--config", json.dumps(each))]
        super().__init__(
            composed_module,
            composed_data,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "dump_header": []},
            args=[*tokens, *(f"--{name}={text}" for name, text in arguments)],
            run=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Lightning's, with errors as one line."""
        try:
            super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            known = [action.dest for action in parser._actions]
            raise InvalidOption(explain(str(error), known)) from error

    def before_instantiate_classes(self) -> None:
        """Composes the run, now that the seed is set; a fit gets its length, a pass one process."""
        trainer = self.config["trainer"]
        if self._fitting and endless(trainer) and not trainer["barebones"]:
            trainer["max_epochs"] = EPOCHS
        if not self._fitting and trainer["devices"] == "auto":
            trainer["devices"] = 1  # several would pad the last batches, and the numbers would not be exact
        self.run = self._compose()
        _RUN.set(self.run)
        self.run.module.optimisation = self.optimisation

    @property
    def optimisation(self) -> dict[str, Any]:
        """What was said of ``optimizer`` and ``lr_scheduler``, as plain data."""
        return {key: value for key, value in self._said.items() if key in ("optimizer", "lr_scheduler")}

    def instantiate_classes(self) -> None:
        """Lightning's, with errors of what it makes as errors of the input."""
        with input_errors(ValueError, TypeError, ImportError):
            super().instantiate_classes()
            if "optimizer" not in self.optimisation:
                self.run.module.configure_optimizers()  # made again by the fit; a wrong option is told before it starts

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Lightning's, with what a run adds where nothing is said."""
        given = self.config_init["trainer"].as_dict()
        if given["default_root_dir"] is not None:
            raise InvalidOption("trainer.default_root_dir: results go to the folder of --output; write --output=DIR")
        run, extra = self.run, [] if self._bar is None else [self._bar]
        options = trainer_options(run.module, run.data, run.folder, given, extra, fitting=self._fitting)
        if self._fitting:
            options["callbacks"].insert(0, InterruptCheckpoint(run.folder / "checkpoints"))
        if given["enable_progress_bar"] is None and not any(isinstance(c, ProgressBar) for c in options["callbacks"]):
            options["enable_progress_bar"] = False
        trainer = super().instantiate_trainer(**{**options, **kwargs})
        if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > MOST_PROCESSES:
            raise InvalidOption(
                f"trainer.devices: got {trainer.num_devices}, expected at most {MOST_PROCESSES} processes on the "
                f"{os.cpu_count()} cores of this machine"
            )
        return trainer

    def config_file(self) -> str:
        """A configuration that gives this run again: words as ``{name, option: value}``, then Lightning's keys."""
        replaced = OPTIMISATION if "optimizer" in self._said else ()
        words = {key: value for key, value in self.run.module.hparams.items() if key not in ("data_spec", *replaced)}
        data = words.pop("data")
        model = {key: _short_name(key, value) for key, value in words.items() if value not in (None, {})}
        said = self._said
        seed = {"seed_everything": said.pop("seed_everything", 0)}
        where = {name: self.config["trainer"][name] for name in ("accelerator", "devices", "strategy")}
        said["trainer"] = where | said.get("trainer", {})
        return write_text({**seed, "model": model, "data": _short_name("data", data), **said})

    @property
    def _said(self) -> dict[str, Any]:
        """Lightning's part of the configuration as plain data, without its defaults."""
        dumped = self.parser.dump(self.config, skip_unset=True, skip_default=True)
        said = read_text(dumped, "the configuration") or {}
        return {key: value for key, value in said.items() if value is not None and key not in ("model", "data")}


def _short_name(kind: str, choice: Any) -> Any:
    """A word with the name by which it is reached; one without options is its name."""
    if kind not in KINDS or not isinstance(choice, Mapping):
        return choice
    return {**choice, "name": spelling(resolve(kind, choice["name"]))}


@contextmanager
def input_errors(*others: type[Exception]) -> Iterator[None]:
    """Within it what Lightning refuses of a configuration is an error of the input.

    Args:
        *others: further types that can only come of the input here.

    Raises:
        InvalidOption: in place of theirs.
    """
    try:
        yield
    except OdeframeError:
        raise
    except Exception as error:
        if isinstance(error, (MisconfigurationException, *others)) or "Early stopping conditioned on" in str(error):
            raise InvalidOption(explain(str(error), ())) from error
        raise


def check_trainer_options(names: Sequence[tuple[str, str]]) -> None:
    """Holds names below ``trainer`` against Lightning's.

    Args:
        names: each with where it stands.

    Raises:
        InvalidOption: there is no such option; the message has the near one.
    """
    known = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    for name, where in names:
        if name not in known:
            near = suggestion(name, known)
            raise InvalidOption(f"{where}: the trainer has no option {name!r}.{near} Its options: {', '.join(known)}.")


def bar_or_lines(quiet: bool, terminal: bool) -> Callback | None:
    """The progress bar on a terminal, a line an epoch elsewhere, nothing where it is to be quiet."""
    if quiet:
        return None
    return progress_bar() if terminal else EpochLines()
