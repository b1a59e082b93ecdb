"""Tasks: Phi against its formula by hand, metrics against scikit-learn, and every batch they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import Tensor

from odeframe.errors import DataError, Incompatible, InvalidOption
from odeframe.specification import DataSpec
from odeframe.task import Task
from odeframe_plugins.tasks.classification import Classification
from odeframe_plugins.tasks.regression import R2, Regression, RootMeanSquaredError

CLASSES = DataSpec("some", (4,), "class", 3)
VALUES = DataSpec("some", (4,), "value", None, (1,), "regression")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_split_of_a_batch(task: Task) -> None:
    x, y = normal(5, 4), torch.zeros(5, 1)
    assert task.split((x, y)) == (x, y)
    assert task.split([x, y]) == (x, y)
    assert task.split(x) == (x, None)
    assert task.split([x]) == (x, None)
    with pytest.raises(DataError, match="got NoneType"):
        task.cost(x, None)


@pytest.mark.parametrize(("task", "target"), [(Classification(), torch.tensor([2])), (Regression(), None)])
def test_cost_of_a_sample_does_not_depend_on_its_batch(task: Task, target: Tensor | None) -> None:
    output = normal(6, 3)
    targets = torch.tensor([0, 2, 1, 1, 0, 2]) if target is not None else normal(6, 3, seed=1)
    whole = task.cost(output, targets)
    alone = torch.cat([task.cost(output[i : i + 1], targets[i : i + 1]) for i in range(6)])
    assert whole.shape == (6,)
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


# -- classification


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_by_hand(smoothing: float) -> None:
    output = normal(7, 3)
    labels = [0, 2, 1, 1, 0, 2, 2]
    expected = []
    for row, label in zip(output.tolist(), labels, strict=True):
        log_total = math.log(sum(math.exp(value) for value in row))
        share = [(1 - smoothing) * (c == label) + smoothing / 3 for c in range(3)]
        expected.append(-sum(q * (value - log_total) for q, value in zip(share, row, strict=True)))
    cost = Classification(label_smoothing=smoothing).cost(output, torch.tensor(labels))
    assert cost.dtype == torch.float64
    np.testing.assert_allclose(cost.numpy(), expected, rtol=1e-12)


def test_cross_entropy_gradient_is_softmax_minus_label() -> None:
    output = normal(5, 3).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1, 0])
    (gradient,) = torch.autograd.grad(Classification().cost(output, labels).sum(), output)
    expected = output.detach().softmax(1) - torch.eye(3, dtype=torch.float64)[labels]
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_any_integer_labels_will_do(dtype: torch.dtype) -> None:
    output, labels = normal(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.equal(Classification().cost(output, labels.to(dtype)), Classification().cost(output, labels))


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.half, torch.float32)]
)
def test_precision_of_cost(dtype: torch.dtype, kept: torch.dtype) -> None:
    output = normal(4, 3).to(dtype)
    assert Classification().cost(output, torch.tensor([0, 2, 1, 1])).dtype == kept
    for target in (normal(4, 3), normal(4, 3).float(), torch.ones(4, 3, dtype=torch.int64)):
        assert Regression().cost(output, target).dtype == kept


def test_cost_of_an_empty_batch_is_empty() -> None:
    assert Classification().cost(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert Classification(0.1).cost(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    for shape in [(0, 1), (0, 2, 3)]:
        assert Regression().cost(torch.zeros(shape), torch.zeros(shape)).shape == (0,)
    assert Regression().cost(torch.zeros(0, 1), torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ((4, 3), torch.tensor([0, 1, 3, 5]), "got the label 3, expected 0 to 2 for 3 classes"),
        ((4, 3), torch.tensor([0, -1, 2, 1]), "got the label -1, expected 0 to 2 for 3 classes"),
        ((4, 3), torch.tensor([[0], [1], [2], [1]]), r"outputs \(4, 3\) and labels \(4, 1\)"),
        ((4, 3), torch.tensor([0, 1, 2]), r"outputs \(4, 3\) and labels \(3,\)"),
        ((4,), torch.tensor([0, 1, 1, 0]), r"outputs \(4,\) and labels \(4,\)"),
        ((4, 3, 2), torch.tensor([0, 1, 1, 0]), r"outputs \(4, 3, 2\) and labels \(4,\)"),
        ((4, 3), torch.tensor([0.0, 1.0, 2.0, 1.0]), "got labels of torch.float32, expected integers"),
        ((4, 3), torch.tensor([True, False, True, True]), "got labels of torch.bool, expected integers"),
        ((4, 3), [0, 1, 2, 1], "got list for the labels"),
    ],
)
def test_classification_refuses(output: tuple[int, ...], target: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Classification().cost(torch.zeros(output), target)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_is_checked(smoothing: float) -> None:
    with pytest.raises(InvalidOption, match="label_smoothing: got"):
        Classification(label_smoothing=smoothing)


def test_classification_states_its_output() -> None:
    assert Classification().output_shape(CLASSES) == (3,)
    assert (Classification.monitor, Classification.monitor_mode) == ("accuracy", "max")
    for ask in (Classification().output_shape, Classification().metrics):
        with pytest.raises(Incompatible, match="has the target 'value'; write task: regression"):
            ask(VALUES)


def test_classification_predicts() -> None:
    output = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    found = Classification().predict(output, CLASSES)
    assert found["label"].tolist() == [1, 0]
    torch.testing.assert_close(found["probability"], torch.tensor([[0.25, 0.75], [0.8, 0.2]]))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 1000))
def test_classification_metrics_equal_scikit_learns(sizes: list[int], seed: int) -> None:
    found = Classification().metrics(CLASSES)
    outputs, labels = normal(sum(sizes), 3, seed=seed), torch.arange(sum(sizes)) % 3
    for output, label in zip(outputs.split(sizes), labels.split(sizes), strict=True):
        found.update(output, label)
    guesses = outputs.argmax(1)
    values = found.compute()
    assert set(values) == {"accuracy", "f1"}
    assert float(values["accuracy"]) == pytest.approx(reference.accuracy_score(labels, guesses), abs=1e-6)
    expected = reference.f1_score(labels, guesses, average="macro", zero_division=0)
    assert float(values["f1"]) == pytest.approx(expected, abs=1e-6)


def test_monitors_are_among_the_metrics() -> None:
    assert Classification.monitor in Classification().metrics(CLASSES)
    assert Regression.monitor in Regression().metrics(VALUES)


# -- regression


def test_squared_error_by_hand() -> None:
    output = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 4.0], [0.5, -1.0]], dtype=torch.float64)
    assert Regression().cost(output, target).tolist() == [(1 + 4) / 2, 0.25 / 2]


def test_images_are_averaged_over_all_their_dimensions() -> None:
    output, target = normal(3, 2, 4, 5), normal(3, 2, 4, 5, seed=1)
    expected = ((output - target) ** 2).numpy().reshape(3, -1).mean(1)
    np.testing.assert_allclose(Regression().cost(output, target).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_scalar_targets_are_a_column_and_never_broadcast(n: int) -> None:
    task, output, target = Regression(), normal(n, 1), normal(n, seed=1)
    expected = (output[:, 0] - target) ** 2
    for given_target in (target, target[:, None], task.split((output, target))[1]):
        cost = task.cost(output, given_target)
        assert cost.shape == (n,)
        torch.testing.assert_close(cost, expected, rtol=1e-12, atol=0)
    assert task.split((output, target))[1].shape == (n, 1)
    assert task.split((output, target[:, None]))[1].shape == (n, 1)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ((4, 1), (4, 4)),
        ((4, 2), (4,)),
        ((4, 2), (2,)),
        ((4, 2), (4, 1)),
        ((4, 1), (1, 1)),
        ((1, 1), ()),
        ((4,), (4,)),
        ((4,), (4, 1)),
        ((2, 1), (4,)),
    ],
)
def test_regression_refuses_other_shapes(output: tuple[int, ...], target: tuple[int, ...]) -> None:
    wrong = torch.zeros(output), torch.zeros(target)
    with pytest.raises(DataError, match="expected one shape"):
        Regression().cost(*wrong)
    with pytest.raises(DataError, match="expected one shape"):
        R2().update(*wrong)
    with pytest.raises(DataError, match="expected one shape"):
        RootMeanSquaredError().update(*wrong)


@pytest.mark.parametrize(("shape", "expected"), [((), (1,)), ((1,), (1,)), ((3,), (3,)), ((2, 4, 4), (2, 4, 4))])
def test_regression_states_its_output(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert Regression().output_shape(DataSpec("some", (4,), "value", None, shape, "regression")) == expected


def test_regression_refuses_labels() -> None:
    for ask in (Regression().output_shape, Regression().metrics):
        with pytest.raises(Incompatible, match="has the target 'class'; write task: classification"):
            ask(CLASSES)
        with pytest.raises(Incompatible, match=r"has the target 'none'$"):
            ask(DataSpec("some", (4,)))


def test_regression_predicts() -> None:
    output = normal(4, 1)
    spec = DataSpec("some", (4,), "value", None, (1,), "regression", target_mean=3.0, target_scale=2.0)
    torch.testing.assert_close(Regression().predict(output, spec)["value"], 3.0 + 2.0 * output)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    columns=st.sampled_from([1, 3]),
    offset=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 1000),
)
def test_regression_metrics_equal_scikit_learns(sizes: list[int], columns: int, offset: float, seed: int) -> None:
    scale = 7.5
    spec = DataSpec("some", (4,), "value", None, (columns,), "regression", target_scale=scale)
    n = sum(sizes)
    target = offset + normal(n, columns, seed=seed, dtype=torch.float32)
    output = target + 0.5 * normal(n, columns, seed=seed + 1, dtype=torch.float32)
    found = Regression().metrics(spec)
    for batch in zip(output.split(sizes), target.split(sizes), strict=True):
        found.update(*batch)
    values = {name: float(value) for name, value in found.compute().items()}
    x, y = output.double().numpy(), target.double().numpy()
    mse = reference.mean_squared_error(y, x)
    assert values["mse"] == pytest.approx(mse, rel=1e-4)
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(y, x), rel=1e-4)
    assert values["rmse"] == pytest.approx(scale * math.sqrt(mse), rel=1e-4)
    # Variances of two points may be small against the offset, whose own rounding is 6e-5 in float32.
    assert 1 - values["r2"] == pytest.approx(1 - reference.r2_score(y, x), rel=2e-2)


def test_mse_is_the_mean_of_the_cost() -> None:
    output, target = normal(9, 2, dtype=torch.float32), normal(9, 2, seed=1, dtype=torch.float32)
    found = Regression().metrics(DataSpec("some", (4,), "value", None, (2,), "regression"))
    found.update(output, target)
    assert float(found.compute()["mse"]) == pytest.approx(float(Regression().cost(output, target).mean()), rel=1e-6)


def test_r2_does_not_cancel_far_from_zero() -> None:
    # In float32 the squares of 2000 +- 1 summed 4,000 times have a rounding larger than the variance.
    target = 2000 + normal(4000, 1, dtype=torch.float32)
    output = target + 0.1 * normal(4000, 1, seed=1, dtype=torch.float32)
    found = R2()
    for batch in zip(output.split(64), target.split(64), strict=True):
        found.update(*batch)
    expected = reference.r2_score(target.double(), output.double())
    assert float(found.compute()) == pytest.approx(expected, abs=1e-4)


def test_r2_is_nan_where_it_is_undefined() -> None:
    found = R2()
    found.update(torch.zeros(0, 1), torch.zeros(0, 1))
    assert math.isnan(float(found.compute()))
    found.update(torch.ones(1, 1), torch.zeros(1, 1))
    assert math.isnan(float(found.compute()))
    found.update(torch.ones(1, 1), torch.ones(1, 1))
    assert float(found.compute()) == pytest.approx(1 - 1 / 0.5)
    constant = R2()
    for _ in range(7):
        constant.update(torch.zeros(3, 1), torch.full((3, 1), 0.1))
    assert math.isnan(float(constant.compute()))


@pytest.mark.parametrize("shares", [(30,), (10, 20), (0, 30), (1, 0, 29)])
def test_r2_over_ranks_is_that_of_all_samples(shares: tuple[int, ...]) -> None:
    output, target = normal(30, 2), 5 + normal(30, 2, seed=1)
    ranks = []
    for x, y in zip(output.split(shares), target.split(shares), strict=True):
        ranks.append(R2(2))
        ranks[-1].update(x, y)
    states = {name: [getattr(rank, name) for rank in ranks] for name in ("residual", "mean", "spread", "count")}
    gathered = iter(states.values())
    found = R2(2)
    found.update(output[:1], target[:1])
    found.dist_sync_fn = lambda tensor, group=None: next(gathered)
    found.distributed_available_fn = lambda: True
    assert float(found.compute()) == pytest.approx(reference.r2_score(target, output), rel=1e-10)


def test_r2_resets_and_forwards() -> None:
    found, output, target = R2(), normal(8, 1), normal(8, 1, seed=1)
    expected = reference.r2_score(target, output)
    assert float(found(output, target)) == pytest.approx(expected)
    assert float(found(output[:3], target[:3])) == pytest.approx(reference.r2_score(target[:3], output[:3]))
    found.reset()
    found.update(output, target)
    assert float(found.compute()) == pytest.approx(expected)
