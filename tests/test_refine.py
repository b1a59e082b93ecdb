"""Multi-level training: the control prolonged in the middle of a fit, and what a refined checkpoint loads as."""

import copy

import pytest
import torch
from pytorch_lightning.callbacks import Callback

import odeframe
from odeframe import FlowModule, Incompatible, InvalidOption
from odeframe.cli import main
from odeframe.errors import CheckpointError
from odeframe.refine import Refine
from odeframe.schedule import warm_cosine

SMALL = {
    "architecture": {"name": "resnet", "width": 4, "blocks": 1, "stages": 1},
    "data": {"name": "two_moons", "n": 200},
}
QUIET = {"enable_progress_bar": False, "logger": False}


def small(folder, **words):
    torch.manual_seed(0)
    return odeframe.compose(**{**SMALL, **words}, output=folder)


class Watch(Callback):
    """The depth, the step length and the number of parameters that the optimiser has, batch by batch."""

    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        optimizer = trainer.optimizers[0]
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert known == {id(p) for p in pl_module.parameters()}, "the optimiser holds parameters that are gone"
        self.found.append((pl_module.network.flows[0].control.pieces, optimizer.param_groups[0]["lr"]))


def test_a_fit_is_refined_and_its_schedule_starts_anew(tmp_path):
    run, watch, refine = small(tmp_path), Watch(), Refine(after=[1, 2])
    trainer = run.fit(max_epochs=4, callbacks=[refine, watch], **QUIET)
    batches = trainer.num_training_batches
    assert [depth for depth, _ in watch.found] == [1] * batches + [2] * batches + [4] * 2 * batches
    rates = [rate for _, rate in watch.found]
    cycles = ((0, batches), (batches, batches), (2 * batches, 2 * batches))
    for start, length in cycles:
        expected = [2e-3 * warm_cosine(step, length) for step in range(length)]
        assert rates[start : start + length] == pytest.approx(expected, abs=1e-12)
    flow = run.module.network.flows[0]
    assert flow.solver.steps == 4
    assert flow.horizon == (0.0, 1.0), "the steps are shorter, not the horizon longer"
    assert refine.evaluations == batches * (1 + 2 + 2 * 4)
    assert run.module.cycle is None


def test_three_equal_cycles_take_58_percent_of_the_layer_evaluations(tmp_path):
    refine = Refine(after=[1, 2])
    trainer = small(tmp_path).fit(max_epochs=3, callbacks=[refine], **QUIET)
    assert refine.evaluations / (4 * 3 * trainer.num_training_batches) == pytest.approx((1 / 4 + 1 / 2 + 1) / 3)


def test_the_loss_right_after_changes_by_the_order_of_the_step(tmp_path):
    """The same function of depth on half the step: the change of the loss halves with the step."""
    changes = []
    for blocks in (16, 32, 64):
        words = {"name": "resnet", "width": 4, "blocks": 2, "stages": 1}
        module = small(tmp_path, architecture=words, dynamics="mlp").module.double()
        module.refine(blocks // 2)
        x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        batch = (x, torch.arange(64) % 2)
        before = float(module.objective(batch).loss.detach())
        module.refine(2)
        changes.append(abs(float(module.objective(batch).loss.detach()) - before))
    assert changes[0] / changes[1] == pytest.approx(2, abs=0.2)
    assert changes[1] / changes[2] == pytest.approx(2, abs=0.1)


def test_refined_checkpoints_load_and_fits_go_on_from_them(tmp_path):
    first = small(tmp_path / "first")
    first.fit(max_epochs=2, callbacks=[Refine(after=1)], enable_progress_bar=False)
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"

    loaded = FlowModule.load(path)
    assert loaded.network.flows[0].control.pieces == 2
    x = torch.randn(5, 2)
    assert torch.equal(loaded(x), first.module.eval()(x))
    fresh = small(tmp_path / "fresh")
    assert fresh.restore(path) and fresh.module.network.flows[0].control.pieces == 2

    again, refine = small(tmp_path / "again"), Refine(after=1)
    trainer = again.fit(ckpt_path=path, max_epochs=3, callbacks=[refine], enable_progress_bar=False)
    assert again.module.network.flows[0].control.pieces == 2, "refined once, not once more"
    assert refine.evaluations == trainer.num_training_batches * (1 + 2 + 2)
    with pytest.raises(CheckpointError, match=r"after the epochs \[1\]"):
        small(tmp_path / "other").fit(ckpt_path=path, max_epochs=4, callbacks=[Refine(after=3)], **QUIET)
    finer = small(tmp_path / "finer", refined=3)
    with pytest.raises(CheckpointError, match="refined 2 times, and the model 3"):
        finer.restore(path)


def test_resuming_at_the_refinement_is_the_uninterrupted_fit(tmp_path):
    """The checkpoint of the epoch before is the coarse one; the fit that goes on from it refines first."""
    fits = {name: (small(tmp_path / name), Watch()) for name in ("whole", "stopped", "again")}
    run, whole = fits["whole"]
    batches = run.fit(max_epochs=2, callbacks=[Refine(after=1), whole], **QUIET).num_training_batches
    run, stopped = fits["stopped"]
    run.fit(max_epochs=2, max_steps=batches, callbacks=[Refine(after=1), stopped], **QUIET)
    path = tmp_path / "stopped" / "coarse.ckpt"
    run.trainer.save_checkpoint(path)
    run, again = fits["again"]
    run.fit(ckpt_path=path, max_epochs=2, callbacks=[Refine(after=1), again], **QUIET)
    assert stopped.found + again.found == whole.found
    assert [depth for depth, _ in again.found] == [2] * batches


def test_batch_norm_and_trained_coefficients_are_copied(tmp_path):
    words = {"architecture": {"name": "lm_resnet", "width": 4, "blocks": 2, "stages": 1}}
    module = small(tmp_path, **words, data="digits", dynamics={"name": "conv", "norm": "batch"}).module
    control = module.network.flows[0].control
    with torch.no_grad():
        for name, value in [*control.named_parameters(), *control.named_buffers()]:
            if value.is_floating_point():
                value.add_(hash(name) % 7)
    before = copy.deepcopy(control.blocks)
    module.refine(2)
    for k, block in enumerate(control.blocks):
        old = before[k // 2].state_dict()
        assert all(torch.equal(value, old[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"after": []}, "increasing"),
        ({"after": [0]}, "from 1 on"),
        ({"after": [1.5]}, "from 1 on"),
        ({"after": 2, "factor": 1.5}, "option factor"),
        ({"after": [3, 2]}, "increasing"),
        ({"after": 2, "factor": 1}, "option factor"),
        ({"after": None}, "option after: got None"),
    ],
)
def test_wrong_options_are_named(options, text):
    with pytest.raises(InvalidOption, match=text):
        Refine(**options)


@pytest.mark.parametrize(
    ("words", "epochs", "text"),
    [
        ({}, 2, "ends after 2 epochs"),
        ({"control": "constant"}, 3, "no pieces"),
        ({"solver": {"name": "euler", "dt": 1.0}, "control": {"name": "piecewise_constant", "pieces": 1}}, 3, "dt=1.0"),
    ],
)
def test_what_cannot_be_refined_is_refused_before_the_fit(words, epochs, text, tmp_path):
    with pytest.raises(InvalidOption, match=text):
        small(tmp_path, **words).fit(max_epochs=epochs, callbacks=[Refine(after=2)], **QUIET)


def test_a_rule_that_remembers_parameters_is_refused(tmp_path):
    run = small(tmp_path)
    run.module.rule.state_dict = lambda: {"momentum": torch.zeros(3)}
    with pytest.raises(Incompatible, match="remembers"):
        run.fit(max_epochs=2, callbacks=[Refine(after=1)], enable_checkpointing=False, **QUIET)


def test_a_rule_whose_memory_is_of_no_parameter_is_refined(tmp_path):
    run = small(tmp_path, trainer={"name": "emsa", "iterations": 1})
    run.fit(max_epochs=2, limit_train_batches=1, callbacks=[Refine(after=1)], enable_checkpointing=False, **QUIET)
    assert run.module.network.flows[0].control.pieces == 2


def test_a_fit_whose_steps_end_before_the_last_refinement_says_so(tmp_path):
    run, options = small(tmp_path), {"enable_checkpointing": False, **QUIET}
    with pytest.warns(UserWarning, match="ends after 3 steps, and the last refinement is after 9"):
        run.fit(max_epochs=9, max_steps=3, callbacks=[Refine(after=[1, 3])], **options)


@pytest.mark.parametrize("refined", [0, 1.5, True])
def test_refined_is_a_whole_number(refined, tmp_path):
    with pytest.raises(InvalidOption, match="refined"):
        small(tmp_path, refined=refined)


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    words = ["--model.architecture.width=4", "--model.architecture.blocks=1", "--model.architecture.stages=1"]
    more = [
        "--data.name=two_moons",
        "--data.n=200",
        f"--output={tmp_path}",
        "--quiet",
        "--trainer.enable_progress_bar=false",
    ]
    callback = ["--trainer.callbacks=odeframe.refine.Refine", "--trainer.callbacks.after=[1]"]
    assert main(["fit", *words, *more, "--trainer.max_epochs=2", *callback]) == 0
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert FlowModule.load(path).network.flows[0].control.pieces == 2
    assert "layer_evaluations" in (tmp_path / "metrics.csv").read_text()
    on = ["fit", f"--ckpt_path={path}", f"--output={tmp_path}", "--quiet", "--trainer.max_epochs=3"]
    assert main([*on, *callback]) == 0
    assert main(["test", f"--ckpt_path={path}", "--quiet"]) == 0
    assert "refined: 2" in (tmp_path / "config.yaml").read_text()
