"""A combination tried: built small, and trained for two steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from odeframe.compatibility import traits_of
from odeframe.data import specification
from odeframe.errors import OdeframeError, SolveFailed
from odeframe.matrix import Matrix, unbuildable
from odeframe.module import FlowModule
from odeframe.options import options_of
from odeframe.registry import Word, word

__all__ = ["QUIET", "Trial", "buildable", "one_line"]

STEPS = 2
DRAWS = 3  # of weights, where a solve fails
SMALL: dict[str, dict[str, Any]] = {
    "architecture": {"width": 4, "blocks": 2, "loops": 2},
    "data": {"batch_size": 6, "limit": 24, "n": 100},
    "solver": {"rtol": 1e-2, "atol": 1e-2},
}
"""Options that make a part small, given where it takes them and its word says nothing of them."""

SHORT = {"steps": 8}
"""Of an implicit solver: with weights as drawn, the equation of a step of length 1 need not have a solution."""

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
"""Options of a Lightning trainer that prints and writes nothing, on the host."""


def buildable() -> tuple[Matrix, dict[str, str]]:
    """The matrix of the parts that can be built here, and the reasons of those that cannot.

    Returns:
        the matrix, and "kind 'name'" to what is missing: an optional dependency, a class that does not import, or an
        example for a required option.
    """
    whole = Matrix()
    lacking = {
        (kind, choice.name): unbuildable(choice.word.component)
        for kind, choices in whole.parts.items()
        for choice in choices
        if choice.word.component is not None
    }
    out = {part: reason for part, reason in lacking.items() if reason}
    return Matrix(without=out), {**whole.absent, **{f"{kind} {name!r}": why for (kind, name), why in out.items()}}


class Trial:
    """Tries combinations; what they have in common, the data above all, is made once.

    Args:
        seed: of the weights and the order of the data.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._data: dict[str, tuple[Word, pl.LightningDataModule]] = {}

    def run(self, words: Mapping[str, Any], lightning: bool = False, seed: int | None = None) -> None:
        """Builds a combination and trains it for two steps.

        Args:
            words: kind to word, for every kind.
            lightning: by a Lightning ``Trainer``; else by a bare loop, where the trainer's rule allows one.
            seed: in place of the trial's own.

        Raises:
            Exception: whatever goes wrong; ``OdeframeError`` where a loss or a gradient is not finite, or no
                parameter has moved.
        """
        torch.manual_seed(self.seed if seed is None else seed)
        data_word, data = self._loaded(words["data"])
        parts = {kind: _small(kind, choice) for kind, choice in words.items() if kind != "data"}
        if "blocks" in getattr(parts["architecture"], "options", {}):  # else the steps are the architecture's to say
            parts["solver"] = _shortened(parts["solver"])
        module = FlowModule(specification(data).to_dict(), data=data_word, **parts)
        before = [parameter.detach().clone() for parameter in module.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bare = module.automatic_optimization and not lightning
            losses = _loop(module, data) if bare else _fit(module, data)
        _check(module, before, losses)

    def train(self, words: Mapping[str, Any], lightning: bool = False) -> list[str]:
        """As :meth:`run`, with other weights where a solve says that it failed of those that were drawn.

        An implicit step need not have a solution, and values may overflow, for weights as they are drawn.

        Returns:
            the reasons of the tries that failed, at most two.

        Raises:
            Exception: as :meth:`run`; ``SolveFailed`` where none of three draws trains.
        """
        said: list[str] = []
        for seed in range(self.seed, self.seed + DRAWS):
            try:
                self.run(words, lightning, seed)
                break
            except SolveFailed as error:
                said.append(f"with the weights of seed {seed}: {error}")
                if len(said) == DRAWS:
                    raise
        return said

    def _loaded(self, choice: Any) -> tuple[Word, pl.LightningDataModule]:
        key = repr(choice)
        if key not in self._data:
            made = word("data", _small("data", choice))
            self._data[key] = made, made.build()
        return self._data[key]


def one_line(words: Mapping[str, Any]) -> str:
    """A combination as ``kind=name``, those of the kinds that say most first."""
    return " ".join(f"{kind}={each.get('name') if isinstance(each, Mapping) else each}" for kind, each in words.items())


def _small(kind: str, choice: Any) -> Any:
    """The word with the options that make it small."""
    made = word(kind, choice)
    if made.component is None:
        return choice
    known, open_ended = options_of(made.component.load())
    taken = {option.name for option in known}
    small = {name: value for name, value in SMALL.get(kind, {}).items() if open_ended or name in taken}
    return Word(kind, made.component, {**small, **made.options})


def _shortened(solver: Any) -> Any:
    """An implicit solver with shorter steps, where it takes their number and its word says nothing of it."""
    if not isinstance(solver, Word) or solver.component is None or "implicit" not in traits_of("solver", solver):
        return solver
    taken = {option.name for option in options_of(solver.component.load())[0]}
    return Word("solver", solver.component, {**(SHORT if "steps" in taken else {}), **solver.options})


def _loop(module: FlowModule, data: pl.LightningDataModule) -> list[Tensor]:
    """Two steps as anyone's own loop would take them; the batches are taken again where there are fewer."""
    data.prepare_data()
    data.setup("fit")
    batches = list(zip(range(STEPS), data.train_dataloader(), strict=False))
    optimizer = module.configure_optimizers()
    module.train()
    losses = []
    for index in range(STEPS):
        batch = batches[index % len(batches)][1]
        optimizer.zero_grad()
        loss = module.training_step(batch, index)
        loss.backward()
        optimizer.step()
        module.on_train_batch_end(None, batch, index)
        losses.append(loss.detach())
    return losses


class _Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *rest: Any) -> None:
        """Keeps the loss of the batch."""
        self.losses.append(torch.as_tensor(outputs["loss"] if isinstance(outputs, Mapping) else outputs).detach())


def _fit(module: FlowModule, data: pl.LightningDataModule) -> list[Tensor]:
    watch = _Losses()
    limits: dict[str, Any] = {
        "limit_train_batches": STEPS,
        "max_epochs": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }
    pl.Trainer(callbacks=[watch], devices=1, **limits, **QUIET).fit(module, datamodule=data)
    return watch.losses


def _check(module: FlowModule, before: list[Tensor], losses: list[Tensor]) -> None:
    if not losses or not all(bool(torch.isfinite(loss).all()) for loss in losses):
        raise OdeframeError(f"the losses of the steps are {[float(loss) for loss in losses]}, expected finite ones")
    moved = False
    for (name, parameter), old in zip(module.named_parameters(), before, strict=True):
        for what, value in (("", parameter), ("gradient of ", parameter.grad)):
            if value is not None and not bool(torch.isfinite(value).all()):
                raise OdeframeError(f"the {what}parameter {name} is not finite after {STEPS} steps")
        moved = moved or not torch.equal(parameter.detach(), old)
    if before and not moved:
        raise OdeframeError(f"no parameter has moved in {STEPS} steps")
