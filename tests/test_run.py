"""A run's fit, test and predict; what an interrupted or resumed fit leaves and continues."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger

import odeframe
from odeframe.callbacks import EpochLines, InterruptCheckpoint, Interrupted
from odeframe.errors import CheckpointError, InvalidOption, OdeframeError
from odeframe.replica_guard import ReplicaGuard
from odeframe.run import EPOCHS, default_output, endless, output_folder, trainer_options, write_predictions

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
BATCHES, EPOCHS_RUN = 5, 3


def compose(output, **words):
    pl.seed_everything(0)
    words = {"architecture": {"name": "resnet", "width": 4, "blocks": 1}, "data": moons(), **words}
    return odeframe.compose(output=output, **words)


def moons(**options):
    """Two moons with five batches a training epoch."""
    return {"name": "two_moons", "n": 100, "batch_size": 14, **options}


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


class Record(Callback):
    """Notes every training batch, and sends a signal before one of them or before a validation batch."""

    def __init__(self, kill_at=None, validating=False, signum=signal.SIGINT):
        self.batches, self.seen = [], 0
        self.kill_at, self.validating, self.signum = kill_at, validating, signum

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._kill(not self.validating)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self._kill(self.validating and not trainer.sanity_checking)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch_idx, trainer.global_step))

    def _kill(self, counts):
        self.seen += counts
        if counts and self.seen == self.kill_at:
            os.kill(os.getpid(), self.signum)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run after its fit."""
    run = compose(tmp_path_factory.mktemp("fitted"))
    run.fit(max_epochs=EPOCHS_RUN, **QUIET)
    return run


def test_a_fit_leaves_metrics_of_every_epoch_and_two_checkpoints(fitted):
    assert sorted(path.name for path in (fitted.output / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    found = rows(fitted.output / "metrics.csv")
    validated = [row for row in found if row["val_loss"]]
    trained = [row for row in found if row["train_loss_epoch"]]
    assert [int(row["epoch"]) for row in validated] == [int(row["epoch"]) for row in trained] == [0, 1, 2]
    for name in ("val_accuracy", "val_nfe", "val_accepted", "val_rejected"):
        assert all(row[name] for row in validated), name
    for name in ("train_nfe", "train_nfe_backward", "train_accepted", "train_rejected"):
        assert all(row[name] for row in trained), name


def test_the_best_checkpoint_is_that_of_the_best_metric(fitted):
    keeper = fitted.trainer.checkpoint_callback
    best = max(float(row["val_accuracy"]) for row in rows(fitted.output / "metrics.csv") if row["val_accuracy"])
    assert float(keeper.best_model_score) == pytest.approx(best)
    module = odeframe.FlowModule.load(fitted.output / "checkpoints" / "best.ckpt")
    run = odeframe.Run(module, fitted.data, fitted.output)
    assert run.validate(**QUIET)["val_accuracy"] == pytest.approx(best)


def test_the_last_checkpoint_is_that_of_the_last_epoch(tmp_path):
    run = compose(tmp_path, learning_rate=0.0)  # no epoch after the first is better
    run.fit(max_epochs=3, **QUIET)
    steps = {
        path.stem: torch.load(path, weights_only=True)["global_step"] for path in (tmp_path / "checkpoints").iterdir()
    }
    assert steps == {"best": BATCHES, "last": 3 * BATCHES}


def test_a_pass_leaves_the_weights_and_writes_nothing(fitted, tmp_path):
    before = [parameter.clone() for parameter in fitted.module.parameters()]
    run = odeframe.Run(fitted.module, fitted.data, tmp_path / "none")
    found = run.test(**QUIET)
    assert {"test_loss", "test_accuracy", "test_nfe"} <= found.keys()
    assert all(map(torch.equal, before, fitted.module.parameters()))
    assert not (tmp_path / "none").exists()


def test_predictions_are_those_of_the_network_in_the_order_of_the_data(fitted):
    path = fitted.predict(**QUIET)
    assert path == fitted.output / "predictions.csv" and not path.with_suffix(".part").exists()
    inputs = torch.cat([batch[0] for batch in fitted.data.predict_dataloader()])
    probabilities = fitted.module.eval()(inputs).softmax(1)
    found = rows(path)
    assert [int(row["sample"]) for row in found] == list(range(len(inputs)))
    assert [int(row["label"]) for row in found] == probabilities.argmax(1).tolist()
    written = torch.tensor([[float(row[f"probability_{k}"]) for k in range(2)] for row in found])
    torch.testing.assert_close(written, probabilities.detach())


def test_predictions_of_a_regression_are_in_the_target_s_unit(tmp_path):
    run = compose(tmp_path, data="diabetes", architecture={"name": "resnet", "width": 4, "blocks": 1})
    found = rows(run.predict(**QUIET))
    inputs = torch.cat([batch[0] for batch in run.data.predict_dataloader()])
    spec = run.data.spec
    expected = spec.target_mean + spec.target_scale * run.module.eval()(inputs)[:, 0]
    torch.testing.assert_close(torch.tensor([float(row["value_0"]) for row in found]), expected.detach())


def test_predictions_must_be_named_tensors(tmp_path):
    with pytest.raises(OdeframeError, match="got Tensor from predict_step"):
        write_predictions(tmp_path / "p.csv", [torch.zeros(3)])
    batches = [
        {"a": torch.tensor([1, 2]), "b": torch.zeros(2, 1, 2)},
        {"a": torch.tensor([3]), "b": torch.ones(1, 1, 2)},
    ]
    text = write_predictions(tmp_path / "p.csv", batches).read_text()
    assert text.split() == ["sample,a,b_0,b_1", "0,1,0.0,0.0", "1,2,0.0,0.0", "2,3,1.0,1.0"]
    assert write_predictions(tmp_path / "p.csv", []).read_text().split() == ["sample"]


def test_a_resumed_fit_continues_epoch_step_and_optimiser(fitted, tmp_path):
    run = compose(tmp_path)
    trainer = run.fit(ckpt_path=fitted.output / "checkpoints" / "last.ckpt", max_epochs=EPOCHS_RUN + 1, **QUIET)
    assert trainer.global_step == BATCHES * (EPOCHS_RUN + 1)
    assert trainer.current_epoch == EPOCHS_RUN + 1
    steps = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {BATCHES * (EPOCHS_RUN + 1)}  # Adam's own count: its moments went on
    epochs = [int(row["epoch"]) for row in rows(tmp_path / "metrics.csv") if row["val_loss"]]
    assert epochs == [EPOCHS_RUN]


def test_a_fit_that_goes_on_in_its_folder_keeps_the_earlier_metrics(tmp_path):
    compose(tmp_path).fit(max_epochs=2, **QUIET)
    compose(tmp_path).fit(ckpt_path=tmp_path / "checkpoints" / "last.ckpt", max_epochs=4, **QUIET)
    found = rows(tmp_path / "metrics.csv")
    assert [int(row["epoch"]) for row in found if row["val_loss"]] == [0, 1, 2, 3]
    steps = [int(row["step"]) for row in found]
    assert steps == sorted(steps) and steps[-1] == 4 * BATCHES - 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_going_on_from_an_earlier_checkpoint_drops_the_metrics_behind_it(tmp_path):
    keep = ModelCheckpoint(tmp_path / "all", filename="{epoch}", save_top_k=-1)
    compose(tmp_path).fit(max_epochs=3, callbacks=keep, **QUIET)
    compose(tmp_path).fit(ckpt_path=tmp_path / "all" / "epoch=0.ckpt", max_epochs=2, **QUIET)
    assert [int(row["epoch"]) for row in rows(tmp_path / "metrics.csv") if row["val_loss"]] == [0, 1]


def test_a_fit_that_has_nothing_left_to_do_says_so(fitted, tmp_path):
    with pytest.raises(InvalidOption, match=f"has had {BATCHES * EPOCHS_RUN} steps.*max_epochs={EPOCHS_RUN}"):
        compose(tmp_path).fit(ckpt_path=fitted.output / "checkpoints" / "last.ckpt", max_epochs=EPOCHS_RUN, **QUIET)


def test_a_checkpoint_of_other_data_or_parts_is_refused(fitted, tmp_path):
    path = fitted.output / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"input_shape \(2,\).*'digits' has \(64,\)"):
        compose(tmp_path, data={"name": "digits", "flat": True}).fit(ckpt_path=path, **QUIET)
    with pytest.raises(CheckpointError, match="do not fit the parts"):
        compose(tmp_path, architecture={"name": "resnet", "width": 8, "blocks": 1}).fit(ckpt_path=path, **QUIET)


@pytest.mark.parametrize(
    ("kill_at", "validating"),
    [(1, False), (3, False), (BATCHES, False), (BATCHES + 1, False), (1, True), (3 * BATCHES, False)],
)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_is_resumed_without_a_batch_more_or_less(tmp_path, kill_at, validating, signum):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    first, second = Record(kill_at, validating, signum), Record()
    stop = InterruptCheckpoint(tmp_path / "checkpoints")
    with pytest.raises(Interrupted) as caught:
        compose(tmp_path).fit(max_epochs=EPOCHS_RUN, callbacks=[first, stop], **QUIET)
    assert caught.value.signum == signum
    assert caught.value.path == stop.path == tmp_path / "checkpoints" / "interrupted.ckpt"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    run = compose(tmp_path / "more")
    if len(first.batches) == BATCHES * EPOCHS_RUN:  # the last epoch was finished first
        run.restore(stop.path)
    else:
        trainer = run.fit(ckpt_path=stop.path, max_epochs=EPOCHS_RUN, callbacks=second, **QUIET)
        assert trainer.global_step == BATCHES * EPOCHS_RUN
    expected = [(e, b, e * BATCHES + b + 1) for e in range(EPOCHS_RUN) for b in range(BATCHES)]
    assert first.batches + second.batches == expected
    assert len(first.batches) == (BATCHES if validating else kill_at)


def test_a_fit_resumed_within_an_epoch_prints_its_lines(tmp_path, capsys):
    class After(Record):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            if len(self.batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    stop = InterruptCheckpoint(tmp_path / "checkpoints")
    with pytest.raises(Interrupted):
        compose(tmp_path).fit(max_epochs=1, callbacks=[stop, After()], **QUIET)
    compose(tmp_path / "more").fit(ckpt_path=stop.path, max_epochs=1, callbacks=[EpochLines()], **QUIET)
    assert "epoch 1/1" in capsys.readouterr().out


def test_a_second_interrupt_stops_at_once(tmp_path):
    class Twice(Record):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            noting = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # to this thread
            while signal.getsignal(signal.SIGINT) == noting:  # two that are pending in a process are one
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)

    record, stop = Twice(), InterruptCheckpoint(tmp_path / "checkpoints")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
    try:
        with pytest.raises(SystemExit) as caught:
            compose(tmp_path).fit(max_epochs=1, callbacks=[stop, record], **QUIET)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert len(record.batches) == 1 and not stop.path.exists()


def test_an_interruption_before_the_first_step_has_nothing_to_save(tmp_path):
    class InTheSanityCheck(Callback):
        def on_validation_batch_start(self, *arguments):
            os.kill(os.getpid(), signal.SIGTERM)

    stop = InterruptCheckpoint(tmp_path / "checkpoints")
    with pytest.raises(Interrupted) as caught:
        compose(tmp_path).fit(max_epochs=1, callbacks=[stop, InTheSanityCheck()], **QUIET)
    assert caught.value.path is None and not stop.path.exists()


def test_a_fit_without_interruption_leaves_no_trace_of_the_callback(tmp_path):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stop = InterruptCheckpoint(tmp_path / "checkpoints")
    compose(tmp_path).fit(max_epochs=1, callbacks=stop, **QUIET)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert not stop.path.exists()


def test_lines_in_place_of_a_bar(tmp_path, capsys):
    compose(tmp_path).fit(max_epochs=2, callbacks=EpochLines(), **QUIET)
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert first.startswith("epoch 1/2  train_loss ") and second.startswith("epoch 2/2  train_loss ")
    assert "val_loss" in second and "val_accuracy" in second and "_step" not in second


def options(run, fitting=True, extra=(), **given):
    return trainer_options(run.module, run.data, run.folder, given, extra, fitting=fitting)


def kinds(chosen):
    """The kinds of the callbacks, behind the guard of replicas that every fit has first."""
    first, *rest = chosen["callbacks"]
    assert isinstance(first, ReplicaGuard)
    return [type(callback) for callback in rest]


def test_what_is_given_replaces_what_a_run_adds(tmp_path):
    run = compose(tmp_path / "run")
    own = options(run)
    assert own["max_epochs"] == EPOCHS and isinstance(own["logger"], CSVLogger)
    assert kinds(own) == [ModelCheckpoint, ModelCheckpoint] and own["default_root_dir"] == str(tmp_path / "run")
    stopping, mine = EarlyStopping("val_loss"), ModelCheckpoint(tmp_path)
    assert kinds(options(run, callbacks=stopping)) == [EarlyStopping, ModelCheckpoint, ModelCheckpoint]
    assert options(run, callbacks=[mine])["callbacks"][1:] == [mine]
    assert kinds(options(run, enable_checkpointing=False)) == []
    assert options(run, logger=False, max_epochs=3, default_root_dir="x")["logger"] is False
    assert "max_epochs" not in options(run, max_steps=7)
    assert [each.monitor for each in options(run, limit_val_batches=0)["callbacks"][1:]] == [None]
    assert not (tmp_path / "run").exists()


def test_one_bar_at_most_and_none_where_it_is_not_wanted(tmp_path):
    run, bar = compose(tmp_path / "run"), RichProgressBar()
    assert kinds(options(run, extra=[bar])) == [RichProgressBar, ModelCheckpoint, ModelCheckpoint]
    assert options(run, extra=[bar], callbacks=[RichProgressBar()])["callbacks"][1] is not bar
    assert kinds(options(run, extra=[bar], enable_progress_bar=False)) == [ModelCheckpoint, ModelCheckpoint]
    assert kinds(options(run, extra=[bar], barebones=True)) == []
    assert options(run, fitting=False)["enable_checkpointing"] is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"max_epochs": None, "max_steps": -1, "max_time": None, "fast_dev_run": False}, True),
        ({"max_epochs": -1}, False),
        ({"max_steps": 4}, False),
        ({"max_time": "00:00:01:00"}, False),
        ({"fast_dev_run": True}, False),
    ],
)
def test_a_fit_gets_a_length_where_nothing_says_one(given, expected):
    assert endless(given) is expected


def test_default_folders_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = output_folder(default_output("resnet"))
    second = default_output("resnet")
    assert first.parent == Path("runs") and first.name.endswith("-resnet") and second != first
    assert compose(None).folder.name.rpartition("-")[2] in ("resnet", "2", "3")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="cannot be made"):
        output_folder(tmp_path / "file" / "run")
