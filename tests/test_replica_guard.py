"""Ranks whose plugins, models or weights differ are stopped, all of them, with what differs."""

import warnings
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from odeframe import ControlTrainer, FlowModule, InvalidOption, plugins
from odeframe.plugins import PluginStatus
from odeframe.replica_guard import ReplicaGuard, checksum
from odeframe.run import trainer_options
from odeframe.specification import DataSpec
from odeframe.testing.trainers import QUIET, SmallData
from odeframe.trainer import optimizer_step

SPEC = DataSpec("small", (3,), "value", None, (2,), "regression").to_dict()
ARCHITECTURE = {"name": "resnet", "width": 4, "blocks": 2}


class Averaging(ControlTrainer):
    """The gradient of every rank's own share, averaged by Lightning."""

    traits = ("ddp",)

    def training_step(self, module, batch):
        return module.objective(batch).loss


class Forgetful(ControlTrainer):
    """A rule that takes its gradient by autograd.grad and averages it with nobody."""

    automatic_optimization = False
    traits = ("ddp",)

    def training_step(self, module, batch):
        loss = module.objective(batch).loss
        weights = list(module.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer_step(module)
        return loss.detach()


def fit(rule=None, guard=None, before=None, ranks=2, epochs=2, architecture=ARCHITECTURE):
    """Trains on forked ranks with gloo, the guard first among the callbacks."""
    torch.set_num_threads(1)  # a parent with a thread pool would hang its forked children
    torch.manual_seed(0)
    module = FlowModule(SPEC, architecture, trainer=rule or Averaging(), schedule="constant").double()
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=20))
    callbacks = [each for each in (before, guard or ReplicaGuard()) if each is not None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            devices=ranks,
            strategy=strategy if ranks > 1 else "auto",
            use_distributed_sampler=False,
            callbacks=callbacks,
            **QUIET,
        )
        trainer.fit(module, datamodule=SmallData(ranks=ranks))
    return trainer


class OtherPlugins(pl.Callback):
    """On rank 1 a plugin is of another version, and a further one is there."""

    def setup(self, trainer, pl_module, stage):
        if dist.get_rank() == 1:
            plugins._loaded = (*plugins.loaded(), PluginStatus("more", "2.0", "ok"))


class OtherModel(pl.Callback):
    """On rank 1 a layer is of another size."""

    def setup(self, trainer, pl_module, stage):
        if dist.get_rank() == 1:
            pl_module.network.stages["head"] = torch.nn.Linear(4, 3)


@pytest.mark.timeout(90)
def test_equal_ranks_go_on():
    trainer = fit(guard=ReplicaGuard(every_n_batches=1))
    assert trainer.state.finished and trainer.callback_metrics["train_loss_epoch"].isfinite()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("every", "when"), [(None, "after epoch 1 "), (1, "after batch 1 of epoch 1 ")])
def test_weights_that_drift_apart_are_stopped_with_the_first_of_them(every, when):
    with pytest.raises(Exception, match=f"{when}the parameter network.* differs between rank 0 and rank 1"):
        fit(rule=Forgetful(), guard=ReplicaGuard(every_n_batches=every))


@pytest.mark.timeout(90)
def test_other_plugins_on_a_rank_are_told_at_the_start_with_both_lists():
    with pytest.raises(Exception, match="plugins of rank 0 and rank 1 differ") as caught:
        fit(before=OtherPlugins())
    first, second = str(caught.value).split("Rank 1:")
    assert "more 2.0 ok" in second and "more 2.0 ok" not in first
    assert all("odeframe 0" in half for half in (first, second))


@pytest.mark.timeout(90)
def test_another_model_on_a_rank_is_told_before_ranks_are_joined():
    with pytest.raises(Exception, match=r"parameter \d+ is .* on rank 0, .* on rank 1"):
        fit(before=OtherModel())


def test_one_process_has_nothing_to_compare():
    assert fit(rule=Forgetful(), guard=ReplicaGuard(every_n_batches=1), ranks=1).global_step == 4


def test_a_fit_has_a_guard_before_what_reduces_metrics_and_one_that_is_given_replaces_it(tmp_path):
    module, data, bar = FlowModule(SPEC, ARCHITECTURE), SmallData(), pl.callbacks.RichProgressBar()
    callbacks = trainer_options(module, data, tmp_path, {}, [bar])["callbacks"]
    assert isinstance(callbacks[0], ReplicaGuard) and bar in callbacks
    mine = ReplicaGuard(every_n_batches=3)
    callbacks = trainer_options(module, data, tmp_path, {"callbacks": [bar, mine]})["callbacks"]
    assert [each for each in callbacks if isinstance(each, ReplicaGuard)] == [mine]
    passing = trainer_options(module, data, tmp_path, {}, [bar], fitting=False)["callbacks"]
    assert not any(isinstance(each, ReplicaGuard) for each in passing)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str
)
def test_checksums_tell_bits_and_places(dtype):
    x = torch.arange(1.0, 13.0).reshape(3, 4).to(dtype)
    assert checksum(x) == checksum(x.clone()) == checksum(x.t().contiguous().t())
    assert checksum(x) != checksum(-x) and checksum(x) != checksum(x.flip(0))
    moved = x.clone()
    moved[2, 3] = torch.nan
    assert checksum(moved) != checksum(x) and checksum(moved) == checksum(moved.clone())
    assert checksum(x[:0]) == 0


def test_the_option_is_checked():
    with pytest.raises(InvalidOption, match="every_n_batches"):
        ReplicaGuard(0)
