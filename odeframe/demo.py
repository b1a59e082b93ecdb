"""The demonstration: a ResNet and a Neural ODE, one word apart, on real handwritten digits."""

from __future__ import annotations

import csv
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from odeframe import plots
from odeframe.cli.console import quiet_lightning, short_warnings
from odeframe.cli.sources import write_text
from odeframe.component import resolve, spelling
from odeframe.composition import compose
from odeframe.data import DataModule
from odeframe.flow import Flow
from odeframe.module import FlowModule
from odeframe.run import Run, output_folder
from odeframe.solver import StepSolver
from odeframe.stepmap import SolverStep

__all__ = ["demo"]

MODELS = {"resnet": {"architecture": "resnet"}, "neural_ode": {"architecture": "neural_ode"}}
SEED = 0
EPOCHS, QUICK_EPOCHS = 30, 3
QUICK_DATA = {"limit": 512, "batch_size": 32}
PER_CLASS = 4
"""Digits of each class in the picture of depth."""
CURVE_POINTS = 41
SERIES = ("train_loss", "val_loss", "val_accuracy")
SPOKEN = ("dynamics", "control", "solver", "gradient", "trainer")


@dataclass
class Fitted:
    """A model after its fit, with what the table says of it."""

    run: Run
    history: dict[str, list[float]]
    row: dict[str, Any]


def demo(output: Path, quick: bool = False) -> None:
    """Fits both models, prints one table, and writes pictures, results, configuration and checkpoints.

    Args:
        output: the folder: ``results.csv``, ``config.yaml``, ``checkpoints/*.ckpt``, ``figures/*.png``.
        quick: three epochs on 512 digits instead of the whole job.

    Raises:
        InvalidOption: the folder cannot be made or written to.
    """
    folder, console = output_folder(Path(output)), Console()
    data = {"name": "digits", **(QUICK_DATA if quick else {})}
    epochs = QUICK_EPOCHS if quick else EPOCHS
    with short_warnings(), quiet_lightning():
        _introduce(console, data, epochs)
        with _progress(console) as progress:
            fitted = {name: _fit(name, data, epochs, folder, progress) for name in MODELS}
    console.print(_table(fitted))
    _write_results(folder / "results.csv", [each.row for each in fitted.values()])
    _write_config(folder / "config.yaml", fitted, data, epochs)
    _draw(folder / "figures", fitted)
    for path in ("results.csv", "config.yaml", "checkpoints", "figures"):
        console.print(f"{path:<13}{folder / path}", soft_wrap=True, highlight=False)


def _compose(name: str, data: Mapping[str, Any], folder: Path | None = None) -> Run:
    """The run of a model, from the words of the table above and the data's."""
    torch.manual_seed(SEED)
    return compose(**MODELS[name], data=dict(data), output=folder)


def _data(run: Run) -> DataModule:
    """The data of a run, as what the registry's own are."""
    return cast(DataModule, run.data)


def _introduce(console: Console, data: Mapping[str, Any], epochs: int) -> None:
    """The sentence of each model, its differing words in bold, and the command that fits it alone."""
    spoken = {name: _words(_compose(name, data).module) for name in MODELS}
    for name, words in spoken.items():
        others = [other for key, other in spoken.items() if key != name]
        parts = []
        for kind in SPOKEN:
            differs = any(other[kind] != words[kind] for other in others)
            parts.append(f"{kind} [bold]{words[kind]}[/bold]" if differs else f"{kind} {words[kind]}")
        console.print(f"[bold]{name}[/bold]: {', '.join(parts)}", soft_wrap=True, highlight=False)
        console.print(f"  {_command(name, data, epochs)}", soft_wrap=True, highlight=False, markup=False)


def _words(module: FlowModule) -> dict[str, str]:
    """By kind: the part's name with its options, as one writes a call."""
    texts = {}
    for kind in SPOKEN:
        choice = _short(kind, module.hparams[kind])
        options = ", ".join(f"{key}={value}" for key, value in choice.items() if key != "name")
        texts[kind] = f"{choice['name']}({options})" if options else choice["name"]
    return texts


def _short(kind: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """A word of the hyper-parameters with the name by which it is reached."""
    return {**choice, "name": spelling(resolve(kind, choice["name"]))}


def _command(name: str, data: Mapping[str, Any], epochs: int) -> str:
    """The command line that fits one of the models as the demonstration does."""
    options: dict[str, Any] = {f"model.{kind}": choice for kind, choice in MODELS[name].items()}
    options |= {"data" if key == "name" else f"data.{key}": value for key, value in data.items()}
    options |= {"trainer.max_epochs": epochs, "seed_everything": SEED}
    return shlex.join(["odeframe", "fit", *(f"--{key}={value}" for key, value in options.items())])


def _progress(console: Console) -> Progress:
    columns = ("{task.description}", BarColumn(24), "epoch {task.fields[epoch]}", "{task.fields[scores]}")
    made = [TextColumn(each) if isinstance(each, str) else each for each in columns]
    # Where nothing can be redrawn there are lines instead, see EpochProgress.
    return Progress(*made, TimeElapsedColumn(), console=console, disable=not console.is_terminal)


class EpochProgress(Callback):
    """Moves a model's bar on with every batch, and keeps loss and accuracy of every epoch."""

    def __init__(self, name: str, epochs: int, progress: Progress) -> None:
        self.history: dict[str, list[float]] = {key: [] for key in SERIES}
        self._name, self._epochs, self._progress = name, epochs, progress
        self._task = progress.add_task(f"{name:<11}", total=None, epoch=f"0/{epochs}", scores="")

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        """A batch further."""
        self._progress.update(self._task, completed=trainer.global_step, total=trainer.estimated_stepping_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The scores of the epoch; Lightning has validated by now."""
        found = trainer.callback_metrics
        for key in SERIES:
            self.history[key].append(float(found[f"{key}_epoch" if key == "train_loss" else key]))
        scores = f"loss {self.history['train_loss'][-1]:.3f}  accuracy {self.history['val_accuracy'][-1]:.3f}"
        epoch = f"{trainer.current_epoch + 1}/{self._epochs}"
        self._progress.update(self._task, epoch=epoch, scores=scores)
        if self._progress.disable:
            self._progress.console.print(f"{self._name:<11} epoch {epoch:<6} {scores}", highlight=False)


def _fit(name: str, data: Mapping[str, Any], epochs: int, folder: Path, progress: Progress) -> Fitted:
    """Fits a model by Lightning, tests its last weights, and saves them."""
    watch = EpochProgress(name, epochs, progress)
    run = _compose(name, data, folder)
    start = time.perf_counter()
    trainer = run.fit(
        max_epochs=epochs,
        devices=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    counts = {key: float(trainer.callback_metrics[key]) for key in ("train_nfe", "train_nfe_backward")}
    trainer.save_checkpoint(output_folder(folder / "checkpoints") / f"{name}.ckpt")
    tested = run.test()
    batch = _data(run).dataset("train")[: _data(run).batch_size]
    row = {
        "model": name,
        "test_accuracy": tested["test_accuracy"],
        "parameters": sum(parameter.numel() for parameter in run.module.parameters()),
        "evaluations_forward": counts["train_nfe"],
        "evaluations_backward": counts["train_nfe_backward"],
        "fit_seconds": seconds,
        "peak_activations_mb": kept_bytes(run.module, batch) / 1e6,
        "batch_size": _data(run).batch_size,
        "epochs": epochs,
        "seed": SEED,
        "command": _command(name, data, epochs),
    }
    return Fitted(run, watch.history, row)


def kept_bytes(module: FlowModule, batch: Any) -> int:
    """Bytes of the activations that a batch's backward pass needs, at their peak: after the forward pass.

    Every storage that autograd keeps counts once; parameters do not, since they are there anyway.

    Args:
        module: the model, on the device of the batch.
        batch: inputs ``(batch, *input)`` with their targets.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module.objective(batch).loss
    del loss  # until here the graph holds its tensors, so that no address is given out twice
    return sum(kept.values())


def _table(fitted: Mapping[str, Fitted]) -> Table:
    rows = [each.row for each in fitted.values()]
    size = rows[0]["batch_size"]
    caption = (
        f"Evaluations of f and peak memory are those of one training batch of {size}; the memory is that of the "
        "activations which the backward pass needs."
    )
    style: dict[str, Any] = {"caption_justify": "left", "caption_style": "dim", "collapse_padding": True}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=caption, **style)
    table.add_column("model")
    titles = ("test\naccuracy", "parameters", "evaluations\nforward", "evaluations\nbackward", "seconds", "peak\nMB")
    for title in titles:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['test_accuracy']:.4f}",
            f"{row['parameters']:,}",
            f"{row['evaluations_forward']:.1f}",
            f"{row['evaluations_backward']:.1f}",
            f"{row['fit_seconds']:.1f}",
            f"{row['peak_activations_mb']:.2f}",
        )
    return table


def _write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    aside = path.with_suffix(".part")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


def _write_config(path: Path, fitted: Mapping[str, Fitted], data: Mapping[str, Any], epochs: int) -> None:
    """Both models as plain data: every word with its options, whether it was said or is the architecture's."""
    models = {}
    for name, each in fitted.items():
        words = each.run.module.hparams
        parts = {kind: _short(kind, words[kind]) for kind in ("architecture", "task", *SPOKEN)}
        rest = {key: words[key] for key in ("optimizer", "learning_rate", "optimizer_options", "schedule")}
        models[name] = {"command": each.row["command"], "model": parts | rest}
    said = {"seed_everything": SEED, "data": dict(data), "trainer": {"max_epochs": epochs}, "models": models}
    aside = path.with_suffix(".part")
    aside.write_text(write_text(said), "utf-8")
    aside.replace(path)


def _draw(folder: Path, fitted: Mapping[str, Fitted]) -> None:
    """Learning curves of both, and how some test digits move through the depth of each."""
    histories = {name: each.history for name, each in fitted.items()}
    plots.save(plots.learning_curves(histories, loss="loss: cross-entropy (nats)"), folder / "learning_curves.png")
    panels = [panel for name, each in fitted.items() for panel in _paths(name, each.run)]
    names = next(iter(fitted.values())).run.module.spec.class_names
    plots.save(plots.depth_trajectories(panels, names), folder / "depth_trajectories.png")


@torch.no_grad()
def _paths(name: str, run: Run) -> list[plots.Trajectories]:
    """The states of some digits in every flow of a model: at its steps, or on a fine grid where it is continuous."""
    images, labels = _data(run).dataset("test")[:]
    chosen = torch.cat([(labels == label).nonzero()[:PER_CLASS, 0] for label in labels.unique()])
    network = run.module.cpu().eval().network
    stepwise = isinstance(network.flows[0].solver, StepSolver)
    fractions = _step_fractions(network.flows[0]) if stepwise else torch.linspace(0, 1, CURVE_POINTS).tolist()
    solutions = network.run(images[chosen], times=fractions).solutions
    titles = [f"{name}, stage {index + 1}" for index in range(len(solutions))] if len(solutions) > 1 else [name]
    return [
        plots.Trajectories(title, solution.times.numpy(), solution.states.numpy(), labels[chosen].numpy(), stepwise)
        for title, solution in zip(titles, solutions, strict=True)
    ]


def _step_fractions(flow: Flow) -> list[float]:
    """The nodes of a flow's step solver as fractions of its horizon."""
    start, end = flow.horizon
    nodes = [float(step.t) for step in flow.steps() if isinstance(step, SolverStep)]
    return [(node - start) / (end - start) for node in [*nodes, end]]
