"""Words to a run: defaults, overrides, sugar, refusals; checkpoints rebuild what they name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import odeframe
from odeframe import CheckpointError, DataSpec, FlowModule, Incompatible, InvalidOption, UnknownComponent
from odeframe.module import read_checkpoint
from odeframe.testing.trainers import QUIET

SMALL = {"name": "resnet", "width": 4, "blocks": 2}
MOONS = {"name": "two_moons", "n": 100}
SPEC = DataSpec("own", (3,), "value", None, (1,), "regression")


class OwnData(pl.LightningDataModule):
    """A data module that no plugin registers."""

    spec = SPEC

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.randn(8, 3), torch.randn(8, 1)), batch_size=4)


class Scaled(nn.Module):
    """f(t, x) of a given width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return (1 + t) * self.linear(x)


def compose(tmp_path: Path, **words: Any) -> odeframe.Run:
    return odeframe.compose(**{"architecture": SMALL, "data": MOONS, "output": tmp_path, **words})


def test_what_is_left_out_comes_from_architecture_and_data(tmp_path: Path) -> None:
    run = compose(tmp_path)
    words = run.module.hparams
    assert words["task"] == {"name": "odeframe/classification"}
    assert words["control"] == {"name": "odeframe/piecewise_constant"}
    assert words["solver"] == {"name": "odeframe/euler"}
    assert words["gradient"] == {"name": "odeframe/backprop"}
    assert words["trainer"] == {"name": "odeframe/gradient"}


def test_each_word_can_be_replaced(tmp_path: Path) -> None:
    run = compose(tmp_path, solver={"name": "rk4", "steps": 6}, control="constant", gradient="adjoint", dynamics=Scaled)
    (flow,) = run.module.network.flows
    assert (type(flow.solver).__name__, flow.solver.steps) == ("RK4", 6)
    assert type(flow.gradient).__name__ == "Adjoint"
    assert isinstance(flow.dynamics, Scaled)


def test_the_depth_of_the_architecture_is_the_solvers_default(tmp_path: Path) -> None:
    (flow,) = compose(tmp_path, solver="rk4").module.network.flows
    assert flow.solver.steps == 2
    (flow,) = compose(tmp_path, solver={"name": "rk4", "dt": 0.5}).module.network.flows
    assert (flow.solver.steps, flow.solver.dt, flow.control.pieces) == (None, 0.5, 2)
    (flow,) = compose(tmp_path, solver="dopri5").module.network.flows
    assert flow.control.pieces == 2
    (flow,) = compose(tmp_path, solver={"name": "rk4", "steps": 6}).module.network.flows
    assert flow.control.pieces == 6


@pytest.mark.parametrize("trainer", ["adjoint", {"name": "adjoint"}])
def test_a_gradient_as_trainer_is_sugar(tmp_path: Path, trainer: Any) -> None:
    run = compose(tmp_path, trainer=trainer, solver="rk4")
    assert run.module.hparams["trainer"] == {"name": "odeframe/gradient"}
    assert run.module.hparams["gradient"] == {"name": "odeframe/adjoint"}


def test_contradicting_sugar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="contradicts gradient 'backprop'"):
        compose(tmp_path, trainer="adjoint", gradient="backprop")


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ({"architecture": "resnett"}, UnknownComponent, "resnet"),
        ({"solver": "rk5"}, UnknownComponent, "rk4"),
        ({"solver": {"name": "rk4", "stepz": 3}}, InvalidOption, "steps"),
        ({"solver": {"name": "rk4", "steps": "many"}}, InvalidOption, "many"),
        ({"solver": {"steps": 3}}, InvalidOption, "name"),
        ({"task": "regression"}, Incompatible, "regression"),
        ({"optimizer": "Adamm"}, InvalidOption, "Adam"),
        ({"optimiser": "Adam"}, InvalidOption, "optimiser"),
        ({"data": 3}, InvalidOption, "data"),
        ({"data": nn.Linear(2, 2)}, InvalidOption, "LightningDataModule"),
        ({"trainer": nn.Linear(2, 2)}, InvalidOption, "ControlTrainer"),
        ({"solver": nn.Linear(2, 2)}, InvalidOption, "Solver"),
    ],
)
def test_wrong_words_are_named(tmp_path: Path, words: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        compose(tmp_path, **words)


def test_batch_norm_in_the_field_refuses_the_adjoint(tmp_path: Path) -> None:
    digits = {"name": "digits", "limit": 40}
    with pytest.raises(Incompatible, match=r"batch_norm.*backprop"):
        compose(tmp_path, data=digits, dynamics={"name": "conv", "norm": "batch"}, trainer="adjoint", solver="rk4")


def test_any_lightning_data_with_a_specification(tmp_path: Path) -> None:
    run = compose(tmp_path, data=OwnData())
    run.fit(max_epochs=1, **QUIET)
    assert run.module.network(torch.zeros(2, 3)).shape == (2, 1)


def fitted(run: odeframe.Run, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = run.fit(max_epochs=1, **{**QUIET, "callbacks": []})
    path = folder / "model.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_rebuilds_the_module(tmp_path: Path) -> None:
    run = compose(tmp_path, solver={"name": "rk4", "steps": 4})
    path = fitted(run, tmp_path)
    loaded = FlowModule.load(path)
    x = torch.randn(3, 2)
    assert torch.equal(loaded(x), run.module.eval()(x))
    recorded = {part["kind"]: part for part in read_checkpoint(path)["odeframe"]["components"]}
    assert recorded["solver"]["name"] == "odeframe/rk4"
    assert recorded["solver"]["options"] == {"steps": 4}
    assert recorded["solver"]["package"] == "odeframe"


def test_a_part_given_as_an_object_must_be_given_again(tmp_path: Path) -> None:
    run = compose(tmp_path, dynamics=Scaled(4))
    path = fitted(run, tmp_path)
    with pytest.raises(CheckpointError, match=r"dynamics.*Scaled.*load\(path, dynamics="):
        FlowModule.load(path)
    x = torch.randn(3, 2)
    assert torch.equal(FlowModule.load(path, dynamics=Scaled(4))(x), run.module.eval()(x))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        FlowModule.load(path)


def test_foreign_and_truncated_checkpoints_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match="not written by odeframe"):
        FlowModule.load(foreign)
    whole = fitted(compose(tmp_path), tmp_path).read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"short\.ckpt"):
        FlowModule.load(short)


def test_a_checkpoint_of_an_absent_plugin_says_what_to_install(tmp_path: Path) -> None:
    path = fitted(compose(tmp_path), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["odeframe"]["components"][0].update(package="odeframe-gone", name="odeframe-gone/x", version="2.0")
    torch.save(checkpoint, path)
    with pytest.raises(UnknownComponent, match=r"pip install odeframe-gone==2\.0"):
        FlowModule.load(path)


def test_the_logged_counts_are_those_of_the_solves(tmp_path: Path) -> None:
    run = compose(tmp_path, solver={"name": "rk4", "steps": 4})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = run.fit(max_epochs=1, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert (logged["train_nfe"], logged["train_nfe_backward"]) == (16, 16)
    assert (logged["train_accepted"], logged["train_rejected"]) == (4, 0)
    assert logged["val_nfe"] == 16
    assert {"train_loss", "val_loss", "val_accuracy"} <= logged.keys()
