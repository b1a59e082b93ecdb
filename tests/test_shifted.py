"""Training images moved by whole pixels: what is drawn, where it applies, and that a resumed fit draws the same."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from odeframe import InvalidOption
from odeframe.composition import compose
from odeframe.noise import Noise
from odeframe.registry import build
from odeframe_plugins.data.shifted import drawn_shifts, shifted

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
DATA = {"name": "digits", "shift": 2, "limit": 60, "batch_size": 20}


def test_a_shift_by_hand():
    image = torch.arange(9.0).reshape(1, 3, 3)
    down_left = shifted(image, torch.tensor([[1, -1]]), -1.0)
    assert down_left.tolist() == [[[-1, -1, -1], [1, 2, -1], [4, 5, -1]]]
    assert torch.equal(shifted(image, torch.tensor([[0, 0]]), -1.0), image)


def test_samples_move_apart_from_each_other():
    images = torch.randn(25, 5, 7, generator=torch.Generator().manual_seed(0))
    shifts = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), value=0.5)
    expected = [padded[i, 2 - r : 7 - r, 2 - c : 9 - c] for i, (r, c) in enumerate(shifts.tolist())]
    assert torch.equal(shifted(images, shifts, 0.5), torch.stack(expected))


def test_every_shift_within_reach_is_as_likely():
    draws = drawn_shifts(torch.zeros(9000, 4), 1, Noise(0).on(3))
    counts = torch.bincount(3 * (draws[:, 0] + 1) + draws[:, 1] + 1, minlength=9)
    assert draws.abs().max() == 1
    assert float((counts - 1000.0).pow(2).sum() / 1000) < 26.1, "chi-squared, 8 degrees of freedom, 0.999"


@pytest.mark.parametrize(("options", "named"), [({"shift": -1}, "0 to 7"), ({"shift": 8}, "0 to 7")])
def test_a_shift_beyond_the_image_is_refused(options, named):
    with pytest.raises(InvalidOption, match=named):
        build("data", "digits", **options)
    with pytest.raises(InvalidOption, match="dequantise: 1"):
        build("data", "digits", shift=1, dequantise=1)


class Seen(pl.Callback):
    """Batches as the network gets them."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.train.append(batch[0].clone())

    def on_validation_batch_start(self, trainer, module, batch, index, loader=0):
        self.val.append(batch[0].clone())


def fit(epochs, folder, flat=False, resume=None, **options):
    torch.manual_seed(7)
    run = compose({"name": "resnet", "width": 4, "blocks": 1}, data={**DATA, "flat": flat, **options})
    seen = Seen()
    saver = ModelCheckpoint(folder, save_last=True)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[seen, saver], **QUIET)
    trainer.fit(run.module, datamodule=run.data, ckpt_path=resume)
    return seen


@pytest.mark.parametrize("flat", [False, True])
def test_training_images_move_anew_each_epoch_and_validation_images_stay(flat, tmp_path):
    moved, still = (fit(2, tmp_path / str(s), flat, shift=s) for s in (2, 0))
    assert len(moved.train) == 6 and all(a.shape == b.shape for a, b in zip(moved.train, still.train, strict=True))
    assert torch.equal(torch.cat(moved.val), torch.cat(still.val))
    black = still.train[0].min()
    found = []
    for a, b in zip(moved.train, still.train, strict=True):
        a, b = (x.reshape(-1, 8, 8) for x in (a, b))
        every = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
        same = torch.stack([(shifted(b, s.expand(len(b), 2), float(black)) == a).flatten(1).all(1) for s in every])
        assert bool(same.any(0).all()), "each is a shift of its own image, black where nothing was"
        found.append(same.float().argmax(0))
    assert not torch.equal(torch.cat(found[:3]), torch.cat(found[3:]))


def test_a_resumed_fit_moves_as_the_whole_one(tmp_path):
    whole = fit(2, tmp_path / "whole")
    first = fit(1, tmp_path / "first")
    rest = fit(2, tmp_path / "rest", resume=tmp_path / "first" / "last.ckpt")
    assert torch.equal(torch.cat(whole.train), torch.cat([*first.train, *rest.train]))
