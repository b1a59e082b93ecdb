"""The interface of a rule of training: what Lightning's options it refuses, what it remembers, what it adds."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from odeframe import ControlTrainer
from odeframe.errors import CheckpointError, Incompatible, InvalidOption
from odeframe.module import FlowModule
from odeframe.reduction import reduce_gradients
from odeframe.specification import DataSpec
from odeframe.testing import TrainerConformance
from odeframe.testing.trainers import QUIET, SmallData
from odeframe.trainer import optimizer_step


class Momentum(ControlTrainer):
    """Descent along a moving average of gradients that is not the optimiser's, but the rule's."""

    automatic_optimization = False
    traits = ("ddp",)

    def __init__(self):
        self.average: dict[str, Any] = {}

    def training_step(self, module, batch):
        loss = module.objective(batch).loss
        named = dict(module.network.named_parameters())
        for (name, parameter), gradient in zip(
            named.items(), torch.autograd.grad(loss, list(named.values())), strict=True
        ):
            before = self.average.get(name, torch.zeros_like(parameter))
            self.average[name] = 0.5 * before + gradient
        reduce_gradients(named.values(), [self.average[name] for name in named])
        optimizer_step(module)
        return loss.detach()

    def evaluate(self, module, batch):
        return {"length": sum(value.square().sum() for value in self.average.values())}

    def state_dict(self):
        return dict(self.average)

    def load_state_dict(self, state):
        self.average = dict(state)


class Alone(Momentum):
    traits = ()


class TestMomentum(TrainerConformance):
    """A rule with a memory passes the kit, by the hooks alone."""

    options = {"optimizer": "SGD", "learning_rate": 0.05}

    def module(self):
        self.trainer = Momentum()
        return super().module()


@pytest.mark.slow
class TestRandomNetwork(TrainerConformance):
    """The noise of a fit is a function of its seed and the batch: the same on several ranks, and after a resume."""

    trainer = "gradient"
    architecture = {"name": "stochastic_depth", "width": 4, "blocks": 3}


def module_of(rule):
    spec = DataSpec("small", (3,), "value", None, (2,), "regression")
    return FlowModule(spec.to_dict(), {"name": "resnet", "width": 4, "blocks": 2}, trainer=rule).double()


@pytest.mark.parametrize(
    ("rule", "options", "named"),
    [
        (Momentum(), {"accumulate_grad_batches": 2}, "accumulate_grad_batches"),
        (Momentum(), {"gradient_clip_val": 1.0}, "gradient_clip_val"),
        (Momentum(), {"precision": "bf16-mixed"}, "bf16-mixed"),
        (Alone(), {"devices": 2, "strategy": "ddp_spawn"}, "one process, got 2"),
    ],
)
def test_options_that_a_rule_does_not_support_are_refused_before_a_step(rule, options, named):
    module = module_of(rule)
    before = TrainerConformance.weights(module).clone()
    trainer = pl.Trainer(max_epochs=1, **{**QUIET, "devices": 1, **options})
    if "devices" in options:
        module._trainer = trainer  # what spawned ranks would do, without spawning them
        trainer.state.fn = "fit"
        with pytest.raises(Incompatible, match=named):
            module.configure_callbacks()
    else:
        with pytest.raises(Incompatible, match=named):
            trainer.fit(module, datamodule=SmallData())
    assert torch.equal(TrainerConformance.weights(module), before)


def test_processes_of_torchrun_that_would_each_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    trainer = pl.Trainer(max_epochs=1, **{**QUIET, "devices": 1, "strategy": SingleDeviceStrategy("cpu")})
    with pytest.raises(Incompatible, match=r"started 2 processes.*write trainer\.devices: 2 .*strategy: ddp"):
        trainer.fit(module_of(None), datamodule=SmallData())
    assert trainer.global_step == 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    trainer.fit(module_of(None), datamodule=SmallData())
    assert trainer.global_step > 0


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}])
def test_automatic_rules_take_what_lightning_does_itself(options):
    trainer = pl.Trainer(max_epochs=1, **{**QUIET, "devices": 1, **options})
    trainer.fit(module_of(None), datamodule=SmallData())
    assert trainer.global_step == (1 if "accumulate_grad_batches" in options else 2)


def test_a_rule_refuses_in_setup_and_nothing_is_trained():
    class Refusing(Momentum):
        def setup(self, module):
            raise Incompatible("no batch norm here")

    module = module_of(Refusing())
    before = TrainerConformance.weights(module).clone()
    with pytest.raises(Incompatible, match="no batch norm here"):
        pl.Trainer(max_epochs=1, **QUIET).fit(module, datamodule=SmallData())
    assert torch.equal(TrainerConformance.weights(module), before)


def test_numbers_of_a_rule_are_logged_beside_the_loss():
    class Validated(SmallData):
        def val_dataloader(self):
            return self.train_dataloader()

    trainer = pl.Trainer(max_epochs=1, devices=1, **QUIET)
    module = module_of(Momentum())
    trainer.fit(module, datamodule=Validated())
    expected = sum(float(value.square().sum()) for value in module.rule.average.values())
    assert float(trainer.callback_metrics["val_length"]) == pytest.approx(expected)


def test_the_state_of_another_rule_is_refused():
    with pytest.raises(CheckpointError, match=r"average.*give the trainer that wrote it"):
        module_of(None).rule.load_state_dict({"average": 1})


@pytest.mark.parametrize(("made", "said"), [(None, "gave NoneType"), (torch.ones(3), r"gave a tensor of shape \(3,\)")])
def test_a_rule_that_gives_no_loss_is_told(made, said):
    class Silent(ControlTrainer):
        def training_step(self, module, batch):
            return made

    with pytest.raises(InvalidOption, match=f"trainer Silent: training_step {said}, expected the loss"):
        module_of(Silent()).training_step((torch.zeros(4, 3).double(), torch.zeros(4, 2).double()), 0)
