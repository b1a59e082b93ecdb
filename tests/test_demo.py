"""The demonstration, end to end: what it prints, what it writes, and that what it says of itself is true."""

import contextlib
import csv
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from matplotlib.image import imread
from rich.console import Console
from torch import nn

import odeframe
from odeframe import cli
from odeframe import demo as demonstration
from odeframe.demo import EpochProgress, demo, kept_bytes
from odeframe.errors import InvalidOption
from odeframe.module import FlowModule
from odeframe.run import Run

pytestmark = pytest.mark.timeout(600)  # the fixture trains two models

MODELS = ("resnet", "neural_ode")


def results(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def of_checkpoint(folder: Path, name: str, **data) -> Run:
    module = FlowModule.load(folder / "checkpoints" / f"{name}.ckpt")
    return Run(module, odeframe.build("data", "digits", **data), folder / "again")


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> SimpleNamespace:
    """The quick demonstration: its folder, its output and what came out on standard error."""
    folder, out, err = tmp_path_factory.mktemp("demo") / "results", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        demo(folder, quick=True)
    return SimpleNamespace(folder=folder, out=out.getvalue(), err=err.getvalue(), rows=results(folder))


@pytest.mark.slow
def test_files_are_those_that_are_promised(quick):
    found = {str(path.relative_to(quick.folder)) for path in quick.folder.rglob("*") if path.is_file()}
    assert found == {
        "results.csv",
        "config.yaml",
        "checkpoints/resnet.ckpt",
        "checkpoints/neural_ode.ckpt",
        "figures/learning_curves.png",
        "figures/depth_trajectories.png",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learning_curves", "depth_trajectories"])
def test_pictures_show_something(name, quick):
    pixels = imread(quick.folder / "figures" / f"{name}.png")[..., :3]
    assert pixels.shape[1] >= 1200 and pixels.shape[0] >= 400
    coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 0.2
    assert coloured.mean() > 0.002, "next to nothing of the picture is a coloured line"


@pytest.mark.slow
def test_output_has_one_table_with_a_row_a_model(quick):
    lines = quick.out.splitlines()
    assert sum(line.startswith("─") for line in lines) == 1
    rule = next(index for index, line in enumerate(lines) if line.startswith("─"))
    cells = [line.split() for line in lines[rule + 1 : rule + 3]]
    for name, row in zip(MODELS, cells, strict=True):
        said = quick.rows[name]
        assert row[:2] == [name, f"{float(said['test_accuracy']):.4f}"]
        assert row[2] == f"{int(said['parameters']):,}" and len(row) == 7
    assert max(map(len, lines[rule - 2 : rule + 5])) <= 80


@pytest.mark.slow
def test_output_has_progress_and_sentences_and_nothing_of_lightning(quick):
    for name in MODELS:
        assert re.findall(rf"^{name} +epoch (\d)/3 ", quick.out, re.MULTILINE) == ["1", "2", "3"]
    sentences = [line for line in quick.out.splitlines() if re.match(r"\w+: dynamics", line)]
    assert "control piecewise_constant, solver euler" in sentences[0]
    assert "control constant, solver dopri5(" in sentences[1]
    assert quick.err == ""
    assert not re.search(r"Trainer|GPU|Tip|`|warning", quick.out)


@pytest.mark.slow
def test_results_are_true_of_the_checkpoints(quick):
    for name in MODELS:
        row, run = quick.rows[name], of_checkpoint(quick.folder, name)
        tested = run.test()
        assert float(row["test_accuracy"]) == pytest.approx(tested["test_accuracy"])
        assert int(row["parameters"]) == sum(parameter.numel() for parameter in run.module.parameters())
        assert float(row["fit_seconds"]) > 0 and float(row["peak_activations_mb"]) > 0
    assert float(quick.rows["resnet"]["evaluations_forward"]) == 6  # two stages of three Euler steps
    assert float(quick.rows["resnet"]["evaluations_backward"]) == 6
    assert float(quick.rows["neural_ode"]["evaluations_forward"]) >= 9  # a first step and at least one of dopri5
    assert float(quick.rows["neural_ode"]["test_accuracy"]) > 0.5, "nothing was learned: chance is 0.1"


@pytest.mark.slow
def test_config_is_plain_data_that_builds_the_same_models(quick):
    config = yaml.safe_load((quick.folder / "config.yaml").read_text("utf-8"))
    assert config["seed_everything"] == 0 and config["trainer"] == {"max_epochs": 3}
    assert list(config["models"]) == list(MODELS)
    for name, said in config["models"].items():
        run = odeframe.compose(**said["model"], data=config["data"])
        run.module.load_state_dict(of_checkpoint(quick.folder, name).module.state_dict())
        assert said["command"] == quick.rows[name]["command"]
    differing = {
        key for key in config["models"]["resnet"]["model"]
        if len({repr(config["models"][name]["model"][key]) for name in MODELS}) > 1
    }  # fmt: skip
    assert differing == {"architecture", "dynamics", "control", "solver"}


@pytest.mark.slow
def test_command_gives_the_same_weights(quick, tmp_path):
    command = shlex.split(quick.rows["resnet"]["command"])
    assert command[0] == "odeframe" and quick.rows["resnet"]["command"] in quick.out
    assert cli.main([*command[1:], f"--output={tmp_path / 'run'}", "--quiet"]) == 0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    run = of_checkpoint(quick.folder, "resnet", batch_size=32)
    assert run.validate()["val_loss"] == pytest.approx(losses[-1], rel=1e-4)


class Layer(nn.Module):
    """``tanh(W x)``, whose backward pass needs x and the tanh."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5, bias=False)

    def objective(self, batch):
        return SimpleNamespace(loss=self.linear(batch[0]).tanh().sum())


def test_kept_bytes_are_the_activations_and_not_the_parameters():
    layer, batch = Layer(), (torch.randn(7, 3), None)
    assert kept_bytes(layer, batch) == 4 * 7 * (3 + 5)
    with torch.no_grad():  # counts what a fit needs, wherever it is called
        assert kept_bytes(layer, batch) == 4 * 7 * (3 + 5)


def test_a_terminal_has_one_bar_a_model_and_no_lines():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    trainer = SimpleNamespace(
        global_step=5, estimated_stepping_batches=10, current_epoch=0,
        callback_metrics={"train_loss_epoch": torch.tensor(0.5), "val_loss": torch.tensor(0.7), "val_accuracy": 0.25},
    )  # fmt: skip
    with demonstration._progress(console) as progress:
        watch = EpochProgress("resnet", 2, progress)
        watch.on_train_batch_end(trainer, None, None, None, 0)
        watch.on_train_epoch_end(trainer, None)
        assert progress.tasks[0].percentage == 50
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "epoch 1/2 loss 0.500  accuracy 0.250" in text
    assert watch.history == {"train_loss": [0.5], "val_loss": [pytest.approx(0.7)], "val_accuracy": [0.25]}


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_fitted(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidOption, match="output folder"):
        demo(tmp_path / "file" / "results", quick=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_models_read_97_of_100_digits(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(demonstration, "SEED", seed)
    demo(tmp_path)
    accuracies = {name: float(row["test_accuracy"]) for name, row in results(tmp_path).items()}
    assert set(accuracies) == set(MODELS) and min(accuracies.values()) >= 0.97, accuracies
