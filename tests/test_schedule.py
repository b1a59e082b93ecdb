"""The step length over a fit: its values by step, also after a fit that goes on, and what replaces it."""

import math

import pytest
import pytorch_lightning as pl
from hypothesis import given
from hypothesis import strategies as st

import odeframe
from odeframe.errors import InvalidOption
from odeframe.module import LEARNING_RATE, warm_cosine

DATA = {"name": "two_moons", "batch_size": 64}
QUIET = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}


class Lengths(pl.Callback):
    """The step length of every step of the optimiser."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.found.append(optimizer.param_groups[0]["lr"])


def fitted(run, watch, **options):
    return run.fit(callbacks=[watch], **{**QUIET, **options})


@given(st.integers(1, 5000), st.data())
def test_factor_rises_to_one_and_falls_towards_zero(num_steps, data):
    rise = max(1, math.ceil(0.1 * num_steps))
    step = data.draw(st.integers(0, num_steps - 1))
    factor, following = warm_cosine(step, num_steps), warm_cosine(step + 1, num_steps)
    assert 0 < factor <= 1 and 0 <= following <= 1
    assert following > factor if step < rise - 1 else following <= factor
    assert warm_cosine(rise - 1, num_steps) == 1
    assert warm_cosine(num_steps + 7, num_steps) == pytest.approx(0, abs=1e-15)


def test_factor_by_hand():
    assert [warm_cosine(step, 20) for step in (0, 1, 2)] == [0.5, 1, 1]
    assert warm_cosine(11, 20) == pytest.approx(0.5)
    assert warm_cosine(8, 20) == pytest.approx(0.75)
    assert warm_cosine(123, math.inf) == 1


def test_a_fit_takes_the_factor_of_each_step(tmp_path):
    run, watch = odeframe.compose("resnet", DATA, output=tmp_path, learning_rate=0.01), Lengths()
    trainer = fitted(run, watch, max_epochs=2)
    assert trainer.global_step == len(watch.found) > 10
    expected = [0.01 * warm_cosine(step, len(watch.found)) for step in range(len(watch.found))]
    assert watch.found == pytest.approx(expected)


def test_accumulated_batches_are_one_step(tmp_path):
    run, watch = odeframe.compose("resnet", DATA, output=tmp_path), Lengths()
    trainer = fitted(run, watch, max_epochs=1, accumulate_grad_batches=3)
    taken = sorted(set(watch.found))
    expected = [LEARNING_RATE * warm_cosine(step, trainer.global_step) for step in range(trainer.global_step)]
    assert taken == pytest.approx(sorted(set(expected)))


@pytest.mark.slow
def test_a_fit_that_goes_on_has_the_lengths_of_one_that_never_stopped(tmp_path):
    whole, first, second = Lengths(), Lengths(), Lengths()
    fitted(odeframe.compose("resnet", DATA, output=tmp_path), whole, max_epochs=3)
    run = odeframe.compose("resnet", DATA, output=tmp_path)
    fitted(run, first, max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    again = odeframe.compose("resnet", DATA, output=tmp_path)
    fitted(again, second, max_epochs=3, ckpt_path=tmp_path / "one.ckpt")
    assert second.found == pytest.approx(whole.found[len(first.found) :]) and second.found


def test_constant_keeps_the_length_and_a_fit_without_an_end_too(tmp_path):
    run, watch = odeframe.compose("resnet", DATA, output=tmp_path, schedule="constant"), Lengths()
    fitted(run, watch, max_epochs=1)
    assert set(watch.found) == {LEARNING_RATE}
    run, watch = odeframe.compose("resnet", DATA, output=tmp_path), Lengths()
    fitted(run, watch, max_epochs=-1, max_time={"seconds": 1})
    assert set(watch.found) == {LEARNING_RATE}


def test_an_optimiser_of_the_users_own_is_left_alone(tmp_path):
    import torch

    run, watch = odeframe.compose("resnet", DATA, output=tmp_path), Lengths()
    run.module.configure_optimizers()  # as the command line does to check the words
    run.module.configure_optimizers = lambda: torch.optim.SGD(run.module.parameters(), lr=0.125)
    fitted(run, watch, max_epochs=1)
    assert set(watch.found) == {0.125}


def test_a_wrong_schedule_is_refused():
    with pytest.raises(InvalidOption, match=r"schedule: got 'cosin', expected 'cosine' or 'constant'"):
        odeframe.compose("resnet", DATA, schedule="cosin")
