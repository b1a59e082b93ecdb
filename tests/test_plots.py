"""Pictures from plain data: what is drawn, what is refused, and that no half of a file is ever seen."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.decomposition import PCA

from odeframe.errors import DataError, InvalidOption
from odeframe.plots import Trajectories, depth_trajectories, learning_curves, principal_plane, save

NAN, INF = float("nan"), float("inf")
HISTORY = {"train_loss": [2.0, 1.0, 0.5], "val_loss": [2.1, 1.2, 0.8], "val_accuracy": [0.2, 0.6, 0.9]}


def trajectories(num_times=4, **changed):
    random = np.random.default_rng(0)
    fields = {
        "title": "resnet",
        "times": np.linspace(0.0, 3.0, num_times),
        "states": random.normal(size=(num_times, 5, 2, 3)),
        "labels": np.array([0, 1, 2, 1, 0]),
        "stepwise": True,
    }
    return Trajectories(**{**fields, **changed})


def test_learning_curves_show_every_series_by_epoch():
    figure = learning_curves({"resnet": HISTORY, "neural_ode": HISTORY}, loss="loss (nats)")
    losses, scores = figure.axes
    assert [line.get_label() for line in losses.lines] == [
        "resnet, training",
        "resnet, validation",
        "neural_ode, training",
        "neural_ode, validation",
    ]
    for line, key in zip(losses.lines, ["train_loss", "val_loss"] * 2, strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == HISTORY[key]
    assert [line.get_ydata().tolist() for line in scores.lines] == [HISTORY["val_accuracy"]] * 2
    colours = [line.get_color() for line in losses.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert (losses.get_xlabel(), losses.get_ylabel(), losses.get_yscale()) == ("epoch", "loss (nats)", "log")
    assert (scores.get_xlabel(), scores.get_ylabel(), scores.get_yscale()) == ("epoch", "accuracy", "linear")


def test_learning_curves_of_another_metric_and_of_a_loss_that_is_not_positive():
    history = {"train_loss": [1.0], "val_loss": [-1.0], "val_r2": [0.5]}
    losses, scores = learning_curves({"mlp": history}, metric="r2").axes
    assert losses.get_yscale() == "linear" and scores.get_ylabel() == "r2"


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "got no model"),
        ({"mlp": {}}, "'mlp': there is no series 'train_loss', got none"),
        ({"mlp": HISTORY | {"train_loss": []}}, "train_loss has the shape (0,)"),
        ({"mlp": HISTORY | {"val_loss": [1.0, NAN, 1.0]}}, "val_loss is nan in epoch 2"),
        ({"mlp": HISTORY | {"val_accuracy": [0.1, 0.2, INF]}}, "val_accuracy is inf in epoch 3"),
        ({"mlp": HISTORY | {"val_loss": [1.0]}}, "train_loss 3, val_loss 1, val_accuracy 3"),
        ({"mlp": HISTORY | {"val_loss": [[1.0, 2.0, 3.0]]}}, "val_loss has the shape (1, 3)"),
    ],
)
def test_learning_curves_refuse_what_is_no_curve(histories, message):
    with pytest.raises(DataError) as caught:
        learning_curves(histories)
    assert message in str(caught.value)


def test_principal_plane_is_that_of_an_independent_implementation():
    states = np.random.default_rng(1).normal(size=(6, 7, 2, 4)) * np.arange(1.0, 9.0).reshape(2, 4)
    points, shares = principal_plane(states)
    reference = PCA(2).fit(states.reshape(42, 8))
    expected = reference.transform(states.reshape(42, 8)).reshape(6, 7, 2)
    signs = np.sign((points * expected).sum((0, 1)))
    np.testing.assert_allclose(points * signs, expected, atol=1e-10)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, atol=1e-12)


def test_principal_plane_keeps_distances_within_a_plane_and_does_not_flip():
    random = np.random.default_rng(2)
    flat = random.normal(size=(3, 4, 2))
    frame, _ = np.linalg.qr(random.normal(size=(5, 2)))
    states = flat @ frame.T + 7.0
    points, shares = principal_plane(states)
    apart, expected = (np.linalg.norm(each[:, :, None] - each[:, None], axis=-1) for each in (points, flat))
    np.testing.assert_allclose(apart, expected, atol=1e-12)
    assert shares.sum() == pytest.approx(1.0)
    again, _ = principal_plane(states[:, ::-1])
    np.testing.assert_allclose(again[:, ::-1], points, atol=1e-12)


def test_principal_plane_of_what_does_not_move():
    points, shares = principal_plane(np.ones((2, 3, 4)))
    assert not points.any() and not shares.any()


@pytest.mark.parametrize("shape", [(3, 4, 1), (1, 1, 5)])
def test_principal_plane_refuses_what_spans_none(shape):
    with pytest.raises(DataError, match="principal plane: got states of shape"):
        principal_plane(np.zeros(shape))


def test_depth_trajectories_draw_each_sample_from_its_start_to_its_class():
    step, curve = trajectories(), trajectories(9, title="neural_ode", stepwise=False)
    figure = depth_trajectories([step, curve], ["zero", "one", "two"])
    left, right = figure.axes
    assert left.get_title() == "resnet\nt = 0 to 3 in 3 steps" and right.get_title() == "neural_ode\nt = 0 to 3"
    assert "% of variance" in left.get_xlabel() and "% of variance" in right.get_ylabel()
    for axes, panel, marker in ((left, step, "."), (right, curve, "None")):
        points, _ = principal_plane(panel.states)
        assert [text.get_text() for text in axes.texts] == ["zero", "zero", "one", "one", "two"]
        paths = axes.lines[::2]
        for sample, path, text in zip([0, 4, 1, 3, 2], paths, axes.texts, strict=True):
            np.testing.assert_allclose(path.get_xydata(), points[:, sample])
            assert text.get_position() == tuple(points[-1, sample]) and path.get_marker() == marker
        assert paths[0].get_color() == paths[1].get_color() != paths[2].get_color()


def test_depth_trajectories_name_classes_by_number_where_they_have_no_names():
    (axes,) = depth_trajectories([trajectories()]).axes
    assert [text.get_text() for text in axes.texts] == ["0", "0", "1", "1", "2"]


def spoilt(value):
    states = np.zeros((4, 5, 3))
    states[2, 1, 0] = value
    return states


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"states": spoilt(NAN)}, "'resnet': the state of sample 1 is not finite at t = 2"),
        ({"states": spoilt(INF)}, "'resnet': the state of sample 1 is not finite at t = 2"),
        ({"states": np.zeros((4, 5))}, "states (4, 5)"),
        ({"states": np.zeros((3, 5, 2))}, "got times (4,), states (3, 5, 2)"),
        ({"labels": np.zeros(4, dtype=int)}, "labels (4,)"),
        ({"times": [0.0, 1.0, 1.0, 2.0]}, "must be finite and increase"),
        ({"times": [0.0, 1.0, NAN, 2.0]}, "must be finite and increase"),
        ({"states": np.zeros((4, 0, 2)), "labels": []}, "4 times of 0 samples"),
        ({"states": np.zeros((1, 5, 2)), "times": [0.0]}, "1 times of 5 samples"),
        ({"states": np.zeros((4, 5, 1))}, "of two or more entries"),
        ({"labels": np.array([0, -1, 0, 0, 0])}, "labels must be whole numbers from 0"),
        ({"labels": np.array([0, 0.5, 0, 0, 0])}, "labels must be whole numbers from 0"),
    ],
)
def test_depth_trajectories_refuse_what_is_no_trajectory(changed, message):
    with pytest.raises(DataError) as caught:
        depth_trajectories([trajectories(**changed)])
    assert message in str(caught.value)


def test_depth_trajectories_refuse_an_empty_list():
    with pytest.raises(DataError, match="got no panel"):
        depth_trajectories([])


def test_save_writes_a_picture_and_leaves_nothing_else(tmp_path):
    path = save(learning_curves({"resnet": HISTORY}), tmp_path / "new" / "curves.png", dpi=100)
    assert [entry.name for entry in path.parent.iterdir()] == ["curves.png"]
    pixels = imread(path)
    assert pixels.shape[1] == 800 and pixels[..., :3].std() > 0.01


def test_save_replaces_a_picture_whole_or_not_at_all(tmp_path, monkeypatch):
    figure, path = learning_curves({"resnet": HISTORY}), tmp_path / "curves.png"
    save(figure, path)
    before = path.read_bytes()

    def fill_the_disk(target, **options):
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fill_the_disk)
    with pytest.raises(InvalidOption, match=r"curves\.png: cannot be written: No space left on device"):
        save(figure, path)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_save_refuses_another_format_and_a_folder_that_cannot_be(tmp_path):
    figure = learning_curves({"resnet": HISTORY})
    with pytest.raises(InvalidOption, match=r"got the suffix '.pdf', expected '.png'"):
        save(figure, tmp_path / "curves.pdf")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidOption, match="cannot be written"):
        save(figure, tmp_path / "file" / "curves.png")


def test_pictures_need_no_window_and_leave_pyplot_alone():
    code = (
        "import sys, odeframe.plots as p\n"
        f"p.learning_curves({{'resnet': {HISTORY!r}}})\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False False"
