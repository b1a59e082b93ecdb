"""Whatever ends a fit, the last complete checkpoint is there, and what goes on from it is the uninterrupted fit."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

import odeframe
from odeframe import CheckpointError
from odeframe.callbacks import InterruptCheckpoint, Interrupted
from odeframe.checkpoint_files import WholeFiles, last_complete, with_whole_files
from odeframe.cli import main
from odeframe.run import NothingLeft

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "devices": 1, "logger": False}
EPOCHS, BATCHES = 3, 5


def compose(folder, seed=0):
    torch.manual_seed(seed)
    data = {"name": "two_moons", "n": 100, "batch_size": 14}
    return odeframe.compose({"name": "resnet", "width": 4, "blocks": 2}, data, output=folder)


class Stop(pl.Callback):
    """Asks a fit to stop at a batch."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), 15)


class Seen(pl.Callback):
    """The first numbers of each batch, by step."""

    def __init__(self):
        self.batches = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches[trainer.global_step] = batch[0][:, 0].tolist()


def weights(run):
    return torch.cat([parameter.detach().reshape(-1) for parameter in run.module.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit that nothing happens to: its folder, weights and batches."""
    run, seen = compose(tmp_path_factory.mktemp("whole")), Seen()
    run.fit(max_epochs=EPOCHS, callbacks=[seen], **QUIET)
    return run.output, weights(run), seen.batches


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [1, 4, 7, 9])
def test_a_fit_stopped_within_an_epoch_goes_on_with_the_same_batches_to_the_bit(whole, tmp_path, step, workers):
    _, expected, batches = whole
    first = compose(tmp_path)
    first.data.num_workers = workers
    with pytest.raises(Interrupted):
        stops = [InterruptCheckpoint(tmp_path / "checkpoints"), Stop(step)]
        first.fit(max_epochs=EPOCHS, callbacks=stops, **QUIET)
    path = last_complete(tmp_path / "checkpoints")
    assert path is not None and path.name == "interrupted.ckpt"
    second, seen = compose(tmp_path, seed=5), Seen()
    second.data.num_workers = workers
    second.fit(ckpt_path=path, max_epochs=EPOCHS, callbacks=[seen], **QUIET)
    assert seen.batches == {at: rows for at, rows in batches.items() if at > step}
    assert torch.equal(weights(second), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_batches_of_an_epoch_are_its_own_and_all_of_them(whole):
    _, _, batches = whole
    epochs = [[row for b in range(BATCHES) for row in batches[e * BATCHES + b]] for e in range(EPOCHS)]
    assert all(sorted(each) == sorted(epochs[0]) and len(each) == 70 for each in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fit_that_is_done_says_so(whole, tmp_path):
    folder, *_ = whole
    with pytest.raises(NothingLeft, match=f"had {EPOCHS * BATCHES} steps"):
        compose(tmp_path).fit(ckpt_path=last_complete(folder / "checkpoints"), max_epochs=EPOCHS, **QUIET)


def test_a_file_is_whole_or_the_earlier_one_is_still_there(tmp_path, monkeypatch):
    path = tmp_path / "new" / "last.ckpt"
    WholeFiles().save_checkpoint({"a": torch.ones(3)}, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt: cannot be written: No space left.*one that is there is whole"
    ):
        WholeFiles().save_checkpoint({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits the size of files in a forked process")
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_disk_that_fills_up_while_torch_writes_is_one_error(tmp_path, share):
    import resource
    import signal

    path, checkpoint = tmp_path / "last.ckpt", {"a": torch.ones(5000)}
    WholeFiles().save_checkpoint(checkpoint, path)
    size, before = path.stat().st_size, path.read_bytes()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), int(share * size)))
        try:
            WholeFiles().save_checkpoint(checkpoint, path)
        except CheckpointError as error:
            os._exit(0 if "cannot be written: File too large" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_a_way_to_write_that_is_given_stays():
    own = TorchCheckpointIO()
    assert with_whole_files([own]) == [own]
    (added,) = with_whole_files(None)
    assert isinstance(added, WholeFiles) and with_whole_files("fsdp")[0] == "fsdp"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_and_foreign_checkpoints_are_left_out_with_a_warning(whole, tmp_path, share):
    source = whole[0] / "checkpoints" / "last.ckpt"
    good, bad = tmp_path / "a.ckpt", tmp_path / "last.ckpt"
    good.write_bytes(source.read_bytes())
    bad.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    torch.save({"state_dict": {}}, tmp_path / "theirs.ckpt")
    with pytest.warns(UserWarning) as told:
        assert last_complete(tmp_path) == good
    texts = [str(each.message) for each in told]
    assert any("last.ckpt" in text and "truncated" in text for text in texts)
    assert any("theirs.ckpt" in text and "not written by odeframe" in text for text in texts)
    assert last_complete(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("fit", "--resume", "auto"), "--output DIR"),
        (("test", "--resume", "auto", "--output", "x"), "fit goes on from"),
        (("fit", "--resume", "auto", "--output", "x", "--ckpt_path", "y.ckpt"), "no --ckpt_path"),
        (("fit", "--resume", "last", "--output", "x"), "'last', expected 'auto'"),
    ],
)
def test_what_resume_does_not_go_with_is_refused(arguments, named, capsys):
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_injected_faults_lose_nothing():
    command = [sys.executable, "-m", "benchmarks.faults", "--injections", "10", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment, timeout=270)
    assert done.returncode == 0, done.stdout
    assert "10 of 10 injections lost nothing" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_fit_resume_auto_on_two_processes_leaves_out_a_truncated_checkpoint(tmp_path):
    words = ["--data=two_moons", "--data.n=100", "--data.batch_size=7", "--model.architecture.width=4"]
    devices = ["--trainer.devices=2", "--trainer.strategy=ddp", "--quiet"]
    command = [sys.executable, "-m", "odeframe", "fit", *words, *devices, f"--output={tmp_path}", "--resume=auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def fit(epochs):
        line = [*command, f"--trainer.max_epochs={epochs}"]
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=130)

    first = fit(2)
    assert first.returncode == 0 and "from the start" in first.stdout, first.stderr
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"half")
    second = fit(3)
    assert second.returncode == 0 and "going on from" in second.stdout, second.stderr
    assert "best.ckpt" in second.stderr
    found = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["global_step"] == 3 * 5 and found["epoch"] == 2
