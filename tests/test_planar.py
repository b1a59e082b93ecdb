"""Point sets in the plane: classes, shapes, and what makes them hard."""

import numpy as np
import pytest
import torch

from odeframe import InvalidOption, build
from odeframe_plugins.data.peaks import peaks


@pytest.mark.parametrize(
    ("name", "classes", "n"), [("swiss_roll", 2, 1000), ("peaks", 5, 5000), ("two_moons", 2, 1000)]
)
def test_draws_are_fixed_and_of_their_own(name, classes, n):
    data = build("data", name)
    sets = {split: data.dataset(split).tensors for split in ("train", "val", "test")}
    assert [len(sets[split][0]) for split in sets] == [0.7 * n, 0.1 * n, 0.2 * n]
    x, y = sets["train"]
    assert x.shape[1:] == data.spec.input_shape == (2,) and y.unique().tolist() == list(range(classes))
    assert float(torch.bincount(y).min()) > 0.8 * len(y) / classes
    assert torch.equal(build("data", name).dataset("train").tensors[0], x)
    assert not torch.equal(build("data", name, seed=1).dataset("train").tensors[0], x)


def test_arms_of_the_roll_are_apart_by_their_radius():
    x, y = build("data", "swiss_roll", noise=0.0).dataset("train").tensors
    radius, angle = x.norm(dim=1) - 0.2 * y, torch.atan2(x[:, 1], x[:, 0])
    turns = (4 * torch.pi * radius - angle) / (2 * torch.pi)
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-5)


def test_peaks_has_its_extrema():
    axis = np.linspace(-3, 3, 601)
    values = peaks(axis[:, None], axis[None, :])
    assert values.max() == pytest.approx(8.106, abs=1e-3) and values.min() == pytest.approx(-6.551, abs=1e-3)


@pytest.mark.parametrize("name", ["swiss_roll", "peaks"])
@pytest.mark.parametrize(("option", "value"), [("n", 5), ("noise", -1.0), ("seed", -1)])
def test_options_are_checked(name, option, value):
    with pytest.raises(InvalidOption, match=f"{name}.*{option}"):
        build("data", name, **{option: value})
