"""Attacks, and the rules that train on attacked inputs: identities, counts, ranges and refusals."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import odeframe
from odeframe import DataSpec, Flow, InvalidOption, Network
from odeframe.attacks import Ball, attack, ball, fgsm, pgd, robust_accuracy, slope
from odeframe.checkpoint import CHECKPOINT_KEY
from odeframe.errors import DataError, Incompatible
from odeframe.module import FlowModule
from odeframe.noise import Noise
from odeframe.robustness import RobustAccuracy
from odeframe.testing import TrainerConformance
from odeframe.testing.trainers import QUIET, SmallData
from odeframe_plugins.tasks.classification import Classification
from odeframe_plugins.trainers.free import FreeTrainer
from odeframe_plugins.trainers.trades import divergence
from odeframe_plugins.trainers.yopo import LayerOne, objective_of

ADAM, SGD = {"optimizer": "Adam", "learning_rate": 0.03}, {"optimizer": "SGD", "learning_rate": 0.05}


class Conformance(TrainerConformance):
    epochs = 10


class LabelConformance(Conformance):
    options = ADAM


@pytest.mark.slow
class TestPGD(Conformance):
    trainer = {"name": "pgd", "steps": 3, "eps": 0.05}
    options = ADAM


class TestFree(Conformance):
    trainer = {"name": "free", "m": 3, "eps": 0.05}
    options = SGD


class TestYopo(Conformance):
    trainer = {"name": "yopo", "m": 3, "n": 2, "eps": 0.05}
    options = SGD


@pytest.mark.slow
class TestYopoHamiltonian(Conformance):
    trainer = {"name": "yopo", "m": 2, "n": 2, "eps": 0.05, "layer_one": "hamiltonian"}
    options = SGD


@pytest.mark.slow
class TestYopoThatSkips(Conformance):
    trainer = {"name": "yopo", "m": 3, "n": 2, "skip": 2, "eps": 0.05}
    options = SGD


@pytest.mark.slow
class TestTrades(LabelConformance):
    trainer = {"name": "trades", "steps": 2, "eps": 0.05}


@pytest.mark.slow
class TestTradesYopo(LabelConformance):
    trainer = {"name": "trades_yopo", "m": 2, "n": 2, "eps": 0.05}


# --- attacks ---------------------------------------------------------------------------------------------------------


def test_on_a_linear_loss_every_attack_ends_in_the_corner_of_ball_and_range():
    torch.manual_seed(0)
    w, x = torch.randn(5, dtype=torch.float64), torch.rand(7, 5, dtype=torch.float64)
    corner = (x + 0.3 * w.sign()).clamp(0, 1)
    within = Ball(0.3, (0.0, 1.0))
    assert torch.equal(fgsm(lambda v: v @ w, x, within), corner)
    found = pgd(lambda v: v @ w, x, within, 10, 0.075, within.draw(x, Noise(0).on(0)))
    assert torch.allclose(found, corner, rtol=0, atol=1e-15)


@pytest.mark.parametrize("limits", [None, (0.0, 1.0), (-0.5, 1.2)])
@pytest.mark.parametrize("name", ["fgsm", "pgd1", "pgd20"])
def test_an_attack_stays_in_ball_and_range_and_raises_the_loss(name, limits):
    torch.manual_seed(1)
    x, within = torch.rand(16, 1, 4, 4), Ball(0.2, limits)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
    moved = attack(name, net, x, within, Noise(0).on(0))
    assert float((moved - x).abs().max()) <= 0.2 + 1e-6
    if limits is not None:
        assert limits[0] <= float(moved.min()) and float(moved.max()) <= limits[1]
    with torch.no_grad():
        assert float(net(moved).mean()) > float(net(x).mean())
    assert moved.grad_fn is None and all(parameter.grad is None for parameter in net.parameters())


def test_starts_fill_the_ball_and_are_drawn_by_sample_and_step():
    x, within, noise = torch.zeros(1000, 3, dtype=torch.float64), Ball(0.5), Noise(3)
    start = within.draw(x, noise.on(4))
    # uniform on (-r, r): variance r^2 / 3, and 3 standard errors of it
    assert float(start.var()) == pytest.approx(0.25 / 3, abs=3 * 0.25 * (4 / 45 / 3000) ** 0.5)
    part = within.draw(x[::2], Noise(3, torch.arange(0, 1000, 2)).on(4))
    assert torch.equal(part, start[::2])
    assert not torch.equal(within.draw(x, noise.on(5)), start)


def test_a_slope_leaves_no_gradient_and_works_without_grad_mode():
    net, x = nn.Linear(2, 1), torch.ones(3, 2)
    with torch.no_grad():
        assert torch.equal(slope(net, x), net.weight.expand(3, 2))
    assert net.weight.grad is None and not x.requires_grad


def test_digits_state_the_range_that_their_pixels_have():
    data = odeframe.build("data", "digits")
    x = torch.cat([data.dataset(split).tensors[0] for split in ("train", "val", "test")])
    assert (float(x.min()), float(x.max())) == pytest.approx(data.spec.input_range)
    assert DataSpec.from_dict(data.spec.to_dict()) == data.spec
    assert ball(0.1, "data", data.spec).limits == data.spec.input_range


# --- identities ------------------------------------------------------------------------------------------------------


class Recorder:
    """In place of Lightning's optimiser: keeps the gradients of each step and moves nothing."""

    def __init__(self, module):
        self.module, self.steps = module, []

    def step(self):
        self.steps.append({n: p.grad.clone() for n, p in self.module.network.named_parameters()})

    def zero_grad(self, set_to_none):
        self.module.zero_grad(set_to_none)


def module_of(trainer, architecture=None, **options: Any) -> FlowModule:
    torch.manual_seed(0)
    spec = DataSpec("small", (6,), "class", 3)
    architecture = architecture or {"name": "resnet", "width": 5, "blocks": 2}
    return FlowModule(spec.to_dict(), architecture, trainer=trainer, **options).double()


def batch_of(size=8):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def one_step(module, monkeypatch):
    """Loss and gradients of one manual training step."""
    recorder = Recorder(module)
    monkeypatch.setattr(module, "optimizers", lambda: recorder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's: nothing is logged without its Trainer
        loss = module.rule.training_step(module, batch_of())
    (gradients,) = recorder.steps
    return loss, gradients


def plain_gradients(module, x):
    names, parameters = zip(*module.network.named_parameters(), strict=True)
    loss = module.objective_at(x, batch_of()[1]).loss
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("layer_one", ["accumulate", "hamiltonian"])
@pytest.mark.parametrize(("m", "skip"), [(1, 0), (4, 0), (4, 1), (4, 3)])
def test_yopo_without_a_radius_is_a_multiple_of_the_plain_gradient(m, skip, layer_one, monkeypatch):
    module = module_of({"name": "yopo", "m": m, "n": 2, "eps": 0.0, "layer_one": layer_one, "skip": skip})
    loss, gradients = one_step(module, monkeypatch)
    assert float(loss) == pytest.approx(module.objective(batch_of()).loss.item(), rel=1e-13)
    for name, expected in plain_gradients(module, batch_of()[0]).items():
        assert torch.allclose(gradients[name], (m - skip) * expected, rtol=0, atol=1e-13), name


def hand_made_ascent(module, start, radius, step_size):
    """One projected step along the sign of the whole network's gradient."""
    x, target = batch_of()
    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module.objective_at(leaf, target).loss, leaf)
    return x + (start + step_size * gradient.sign() - x).clamp(-radius, radius)


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_yopo_with_one_inner_step_is_ascent_by_signs(skip, monkeypatch):
    """n = 1: p is that of the very x', so layer one's Hamiltonian has the slope of J itself."""
    module = module_of({"name": "yopo", "m": 3, "n": 1, "eps": 0.4, "step_size": 0.3, "skip": skip})
    loss, gradients = one_step(module, monkeypatch)
    moved = Ball(0.4).draw(batch_of()[0], Noise(0, torch.arange(8)).on(0))
    total, losses = {name: torch.zeros_like(value) for name, value in gradients.items()}, []
    for j in range(3):
        if j >= skip:
            losses.append(module.objective_at(moved, batch_of()[1]).loss.item())
            for name, value in plain_gradients(module, moved).items():
                total[name] += value
        moved = hand_made_ascent(module, moved, 0.4, 0.3)
    assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-13)
    for name, expected in total.items():
        assert torch.allclose(gradients[name], expected, rtol=0, atol=1e-13), name


def test_yopo_1_1_by_hand_with_the_hamiltonian_of_layer_one(monkeypatch):
    module = module_of({"name": "yopo", "m": 1, "n": 1, "eps": 0.4, "step_size": 0.3, "layer_one": "hamiltonian"})
    _, gradients = one_step(module, monkeypatch)
    (x, target), stem = batch_of(), module.network.stages["stem"]
    start = Ball(0.4).draw(x, Noise(0, torch.arange(8)).on(0))
    moved = hand_made_ascent(module, start, 0.4, 0.3)
    made = []
    handle = stem.register_forward_hook(lambda *args: made.append(args[2]))
    loss = module.objective_at(start, target).loss
    handle.remove()
    (slope_of_x1,) = torch.autograd.grad(loss, made[0])
    own = torch.autograd.grad((slope_of_x1 * stem(moved)).sum(), list(stem.parameters()))
    expected = plain_gradients(module, start)
    expected |= dict(zip((f"stages.stem.{name}" for name, _ in stem.named_parameters()), own, strict=True))
    assert not torch.allclose(own[0], plain_gradients(module, start)["stages.stem.weight"])
    for name, value in expected.items():
        assert torch.allclose(gradients[name], value, rtol=0, atol=1e-13), name


@pytest.mark.parametrize(
    ("solver", "control"),
    [("euler", "piecewise_constant"), ("rk4", "constant"), ("ab2", "constant")],
)
def test_the_costate_is_minus_the_slope_of_the_objective(solver, control):
    module = module_of("gradient", solver=solver, control=control)
    x, target = batch_of()
    layers = LayerOne(module.network.steps())
    found = layers.costate(layers(x), lambda z: objective_of(module, z, target))
    made = []
    module.network.stages["stem"].register_forward_hook(lambda *args: made.append(args[2]))
    (expected,) = torch.autograd.grad(module.objective_at(x, target).loss, made[0])
    assert torch.allclose(found.p[0], -expected, rtol=0, atol=1e-14)
    assert torch.allclose(
        slope(lambda v: layers.hamiltonian(v, found.p), x),
        -slope(lambda v: module.objective_at(v, target).loss, x),
        rtol=0,
        atol=1e-14,
    )


def test_without_a_stem_layer_one_is_the_first_step_of_the_flow():
    network = Network({"flow": Flow(nn.Linear(3, 3), solver={"name": "euler", "steps": 4})})
    layers = LayerOne(network.steps())
    x = torch.ones(2, 3)
    assert torch.equal(layers(x)[0], x + 0.25 * network.flows[0].dynamics(torch.zeros(()), x))
    assert torch.allclose(layers.costate(layers(x), lambda z: z[0].sum()).objective, network(x).sum())


@pytest.mark.parametrize(
    ("trainer", "full", "first"),
    [
        ({"name": "pgd", "steps": 4}, 5, 0),
        ({"name": "trades", "steps": 4}, 7, 0),
        ({"name": "free", "m": 4}, 4, 0),
        ({"name": "yopo", "m": 4, "n": 2}, 4, 6),
        ({"name": "yopo", "m": 4, "n": 2, "layer_one": "hamiltonian"}, 4, 12),
        ({"name": "yopo", "m": 4, "n": 2, "skip": 2}, 4, 6),
        ({"name": "yopo", "m": 4, "n": 2, "layer_one": "hamiltonian", "skip": 1}, 4, 11),
        ({"name": "trades_yopo", "m": 4, "n": 2}, 7, 8),
    ],
)
def test_passes_are_counted_as_they_are_made(trainer, full, first, tmp_path):
    run = odeframe.compose(
        {"name": "resnet", "width": 4, "blocks": 1}, {"name": "two_moons", "n": 40}, trainer=trainer, output=tmp_path
    )
    calls = {"stem": 0, "head": 0}
    for name in calls:

        def count(*_, name=name):
            calls[name] += 1

        run.module.network.stages[name].register_forward_hook(count)
    if "yopo" in trainer["name"]:
        before = dict(calls)
        run.module.network.steps(torch.zeros(1, 2))  # shows each stage an example, which is no pass
        shown = {name: calls[name] - before[name] for name in calls}
        calls.update(before)
    else:
        shown = {"stem": 0, "head": 0}
    run.fit(max_epochs=1, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
    logged = run.trainer.callback_metrics
    assert (logged["train_full_passes"], logged["train_first_layer_passes"]) == (full, first)
    assert run.trainer.global_step == 1
    assert calls["head"] == full + shown["head"]
    assert calls["stem"] == full + first + shown["stem"]


@pytest.mark.parametrize("name", ["pgd", "trades"])
def test_starts_differ_from_batch_to_batch_under_accumulation_and_after_a_resume(name, monkeypatch, tmp_path):
    """One step of the optimiser is made of several batches, each with an attack of its own."""
    drawn: list[int] = []
    draw = Ball.draw
    monkeypatch.setattr(Ball, "draw", lambda ball, x, noise: (drawn.append(noise.step), draw(ball, x, noise))[1])
    kit = type("Kit", (LabelConformance,), {"trainer": {"name": name, "steps": 1}})()
    options: dict[str, Any] = {**QUIET, "accumulate_grad_batches": 3}

    def fit(epochs, **more):
        module = kit.module()
        trainer = pl.Trainer(max_epochs=epochs, **{**options, **more})
        path = tmp_path / "last.ckpt" if epochs == 2 and "callbacks" not in more else None
        trainer.fit(module, datamodule=SmallData(batch_size=4, labels=kit.labels()), ckpt_path=path, weights_only=True)
        return kit.weights(module)

    whole = fit(2, callbacks=[])
    assert drawn == list(range(8)), "batches of a fit"
    drawn.clear()
    fit(1, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True)
    assert torch.equal(fit(2), whole)
    assert drawn == list(range(8))


# --- what each rule claims -------------------------------------------------------------------------------------------


def test_trades_without_weight_is_the_plain_objective_and_its_divergence_is_that_of_softmaxes(monkeypatch):
    module = module_of({"name": "trades", "beta": 0.0, "steps": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = module.rule.training_step(module, batch_of())
    assert loss.item() == pytest.approx(module.objective(batch_of()).loss.item(), rel=1e-14)
    a, b = torch.randn(2, 5, 3, dtype=torch.float64).unbind()
    expected = (a.softmax(1) * (a.softmax(1) / b.softmax(1)).log()).sum(1)
    assert torch.allclose(divergence(a, b), expected, rtol=1e-12)
    assert torch.equal(divergence(a, a), torch.zeros(5, dtype=torch.float64))


def test_free_moves_the_weights_in_each_replay_and_carries_the_perturbation():
    module, rule = module_of({"name": "free", "m": 2, "eps": 0.3}), FreeTrainer(m=2, eps=0.3)
    x, target = batch_of(6)
    carried = rule._carried(x)
    assert torch.equal(carried, torch.zeros_like(x))
    rule._carry(x)
    assert torch.equal(rule._carried(x[:4]), x[:4])
    rule._carry(2 * x[:4])
    assert torch.equal(rule._carried(x), torch.cat([2 * x[:4], x[4:]]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    expected, eta = FlowModule(**module.hparams).double(), torch.zeros_like(x)
    expected.load_state_dict(module.state_dict())
    hand = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        moved = (x + eta).requires_grad_()
        hand.zero_grad()
        expected.objective_at(moved, target).loss.backward()
        hand.step()
        eta = (eta + 0.3 * moved.grad.sign()).clamp(-0.3, 0.3)
    optimizer.optimizer = optimizer  # as Lightning's wrapper has it
    module.optimizers = lambda: optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.rule.training_step(module, (x, target))
    for ours, theirs in zip(module.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)
    assert torch.allclose(module.rule.state_dict()["eta"], eta, rtol=0, atol=1e-14)


@pytest.mark.timeout(90)
def test_the_checkpoint_of_two_ranks_has_the_perturbation_of_one_process(tmp_path):
    torch.set_num_threads(1)
    kit, found = TestFree(), []
    for ranks in (1, 2):
        saver = ModelCheckpoint(tmp_path / str(ranks), save_last=True)
        kit.fit(kit.module(), 1, ranks, callbacks=[saver], enable_checkpointing=True)
        content = torch.load(tmp_path / str(ranks) / "last.ckpt", weights_only=True)
        found.append(content[CHECKPOINT_KEY]["trainer"]["eta"])
    assert float(found[0].abs().max()) == pytest.approx(0.05)
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_pgd_20_breaks_a_naturally_trained_network_and_less_so_an_adversarially_trained_one(tmp_path):
    eps, found = 0.3, {}
    for rule in ("gradient", {"name": "yopo", "eps": eps, "robust": ["pgd20", "fgsm"]}):
        torch.manual_seed(0)
        run = odeframe.compose(
            {"name": "resnet", "width": 32, "blocks": 2},
            {"name": "digits", "flat": True},
            trainer=rule,
            output=tmp_path,
        )
        run.fit(max_epochs=6, limit_val_batches=0, num_sanity_val_steps=0, **QUIET)
        callbacks = [RobustAccuracy(eps, ("pgd20", "fgsm")), RobustAccuracy(0.0, "pgd20")]
        tester = pl.Trainer(callbacks=callbacks, **QUIET)
        found[str(rule)] = tester.test(run.module, datamodule=run.data, verbose=False)[0]
    natural, robust = found.values()
    assert natural["test_accuracy"] > 0.9
    assert natural["test_accuracy_pgd20_0"] == pytest.approx(natural["test_accuracy"])
    assert natural["test_accuracy_pgd20_0.3"] <= natural["test_accuracy_fgsm_0.3"] < natural["test_accuracy"] - 0.2
    assert robust["test_accuracy_pgd20_0.3"] > natural["test_accuracy_pgd20_0.3"] + 0.1
    # the rule's own measure starts elsewhere: within three samples of 360 of the callback's
    assert robust["test_accuracy_pgd20"] == pytest.approx(robust["test_accuracy_pgd20_0.3"], abs=3 / 360)
    assert robust["test_accuracy_fgsm"] == pytest.approx(robust["test_accuracy_fgsm_0.3"])


def test_robust_accuracy_of_a_linear_classifier_is_that_of_its_margins():
    """Scores (w . x, 0): a sample keeps its label iff its margin is above eps |w|_1."""
    torch.manual_seed(0)
    w, x = torch.randn(4, dtype=torch.float64), torch.randn(500, 4, dtype=torch.float64)
    net = nn.Linear(4, 2, bias=False).double()
    net.weight.data = torch.stack([torch.zeros_like(w), w])
    target = (x @ w > 0).long()
    found = robust_accuracy(net, Classification(), x, target, Ball(0.2), ("fgsm", "pgd20"))
    expected = float(((x @ w).abs() > 0.2 * w.abs().sum()).double().mean())
    assert found == {"fgsm": pytest.approx(expected), "pgd20": pytest.approx(expected)}


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "pgd", "eps": -0.1}, "eps.*got -0.1"),
        ({"name": "pgd", "eps": float("nan")}, "eps.*got nan"),
        ({"name": "pgd", "step_size": 0.0}, r"step_size: got 0\.0"),
        ({"name": "pgd", "steps": 0}, "steps: got 0"),
        ({"name": "pgd", "clip": "digits"}, "clip: got 'digits'"),
        ({"name": "pgd", "clip": [1.0, 0.0]}, r"clip.*got \(1\.0, 0\.0\)"),
        ({"name": "pgd", "robust": "pgd"}, "got 'pgd', expected 'fgsm'"),
        ({"name": "free", "m": 0}, "m: got 0"),
        ({"name": "yopo", "m": 0}, "m: got 0"),
        ({"name": "yopo", "n": 0}, "n: got 0"),
        ({"name": "yopo", "m": 3, "skip": 3}, "skip: got 3, expected 0 to 2"),
        ({"name": "yopo", "skip": -1}, "skip: got -1"),
        ({"name": "yopo", "layer_one": "both"}, "layer_one: got 'both'"),
        ({"name": "trades", "beta": -1.0}, r"beta: got -1\.0"),
        ({"name": "trades_yopo", "n": 0}, "n: got 0"),
    ],
)
def test_options_outside_their_range_are_refused(options, named):
    with pytest.raises(InvalidOption, match=named):
        odeframe.build("trainer", options.pop("name"), **options)


class Values(odeframe.DataModule):
    def specify(self):
        return DataSpec("values", (3,), "value", None, (2,), "regression")

    def load(self):
        x = torch.randn(8, 3)
        return dict.fromkeys(("train", "val", "test"), torch.utils.data.TensorDataset(x, x[:, :2]))


def refused(module, data, error, match):
    """A fit is refused in one line before a weight has moved."""
    before = TrainerConformance.weights(module).clone()
    with pytest.raises(error, match=match) as raised:
        pl.Trainer(max_epochs=1, devices=1, num_sanity_val_steps=0, **QUIET).fit(module, datamodule=data)
    assert "\n" not in str(raised.value)
    assert torch.equal(TrainerConformance.weights(module), before)


@pytest.mark.parametrize("trainer", [{"name": "pgd", "robust": ["pgd20"]}, {"name": "trades"}, {"name": "trades_yopo"}])
def test_what_needs_classes_refuses_a_task_without(trainer):
    module = FlowModule(Values().specify().to_dict(), {"name": "resnet", "width": 4, "blocks": 1}, trainer=trainer)
    refused(module, Values(), Incompatible, "needs the scores of classes.*task: classification")


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5)])
def test_yopo_refuses_a_layer_one_that_is_another_function_in_each_pass(layer):
    module = FlowModule(Values().specify().to_dict(), {"name": "resnet", "width": 4, "blocks": 1}, trainer="yopo")
    module.network.stages["stem"] = nn.Sequential(module.network.stages["stem"], layer)
    refused(module, Values(), Incompatible, type(layer).__name__)


def test_inputs_outside_the_limits_are_refused():
    trainer = {"name": "pgd", "clip": [0.0, 0.1]}
    module = FlowModule(Values().specify().to_dict(), {"name": "resnet", "width": 4, "blocks": 1}, trainer=trainer)
    refused(module, Values(), DataError, "outside the limits clip")


def test_inputs_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match=r"got torch\.int64"):
        Ball(0.1).check(torch.zeros(2, dtype=torch.int64))


def test_yopo_refuses_solvers_and_gradients_without_step_maps():
    with pytest.raises(Incompatible, match="needs a solver with the trait 'step'"):
        odeframe.compose("neural_ode", "two_moons", trainer="yopo")
    with pytest.raises(Incompatible, match="backprop"):
        odeframe.compose("resnet", "two_moons", trainer="yopo", gradient="checkpoint")


def test_the_callback_refuses_what_it_cannot_measure():
    module = FlowModule(Values().specify().to_dict(), {"name": "resnet", "width": 4, "blocks": 1})
    with pytest.raises(Incompatible, match="RobustAccuracy needs the scores of classes"):
        pl.Trainer(callbacks=[RobustAccuracy(0.1)], **QUIET).test(module, datamodule=Values(), verbose=False)
    with pytest.raises(InvalidOption, match="eps"):
        RobustAccuracy(-1.0)


def test_dropout_and_running_statistics_are_left_alone_by_the_attack():
    """Batch norm counts one batch for the one pass that trains."""
    module = module_of({"name": "pgd", "steps": 3})
    module.network.stages["stem"] = nn.Sequential(module.network.stages["stem"], nn.BatchNorm1d(5).double())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.train().rule.training_step(module, batch_of())
    assert int(module.network.stages["stem"][1].num_batches_tracked) == 1
    assert module.network.training


def test_cross_entropy_is_what_a_classifier_is_attacked_by():
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.allclose(Classification().cost(x, target).sum(), F.cross_entropy(x, target, reduction="sum"))
