"""Fixed splits into training, validation and test rows: one way for every data set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset, TensorDataset

from odeframe.data import SPLITS
from odeframe.errors import DataError, InvalidOption

__all__ = ["FRACTIONS", "check_fractions", "limited", "split_rows", "split_sizes", "tensor_sets"]

#: training, validation and test share of every data set that comes with odeframe
FRACTIONS = (0.7, 0.1, 0.2)


def check_fractions(name: str, fractions: Sequence[float]) -> tuple[float, float, float]:
    """The three shares of a split, checked.

    Args:
        name: the data set's word, for the message.
        fractions: shares of training, validation and test rows, without unit.

    Raises:
        InvalidOption: where they are not three positive numbers with the sum 1.
    """
    shares = tuple(float(share) for share in fractions)
    # 1e-6: decimal shares do not add up to 1 exactly in binary.
    if len(shares) == 3 and min(shares) > 0 and math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        return shares[0], shares[1], shares[2]
    raise InvalidOption(
        f"data {name!r}, option split: got {list(shares)}, expected three positive shares of training, "
        f"validation and test rows with the sum 1, e.g. {list(FRACTIONS)}"
    )


def split_sizes(num_rows: int, fractions: Sequence[float] = FRACTIONS) -> tuple[int, int, int]:
    """How many rows go to training, validation and test.

    Validation and test are rounded up, training gets the rest: 1,797 rows at 70/10/20 are 1257 + 180 + 360.
    """
    # 1e-9: 0.1 * 30 is 3.0000000000000004 in binary, and a bare ceil would make a fourth row of it.
    val, test = (math.ceil(num_rows * share - 1e-9) for share in fractions[1:])
    return num_rows - val - test, val, test


def split_rows(
    num_rows: int,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    labels: np.ndarray | None = None,
    *,
    name: str = "data",
    class_names: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Row numbers of the three splits, disjoint, together all rows, each in a shuffled order.

    The test rows are drawn first, then the validation rows from what is left, so that the test rows do not
    depend on the share of validation. The result depends on the arguments alone, never on a global seed.

    Args:
        num_rows: number of rows ``n``.
        fractions: shares of training, validation and test rows.
        seed: seed of both draws.
        labels: shape ``(n,)``, integers; where given, every split has the classes in proportion (stratified).
        name: the data set's word, for messages.
        class_names: what to call class ``0, 1, ...`` in messages; its number by default.

    Returns:
        ``{"train": rows, "val": rows, "test": rows}``, int64.

    Raises:
        DataError: where there are too few rows for the shares, or too few of a class to stratify.
    """
    sizes = split_sizes(num_rows, fractions)
    counts = np.bincount(labels) if labels is not None else np.array([num_rows])
    _check_counts(name, num_rows, fractions, counts, class_names)
    try:
        rest, test = train_test_split(np.arange(num_rows), test_size=sizes[2], random_state=seed, stratify=labels)
        rest_labels = None if labels is None else labels[rest]
        train, val = train_test_split(rest, test_size=sizes[1], random_state=seed, stratify=rest_labels)
    except ValueError as error:
        raise DataError(
            f"data {name!r}: {num_rows} rows with {int(counts.min())} in the smallest class cannot be stratified "
            f"into {' + '.join(map(str, sizes))}: {error} Add samples or change the split"
        ) from error
    parts = {"train": train, "val": val, "test": test}
    if labels is not None:
        _check_presence(name, labels, parts, class_names)
    return parts


def limited(name: str, rows: np.ndarray, limit: int | None) -> np.ndarray:
    """The first ``limit`` of the shuffled training rows, all of them for ``None``.

    Raises:
        InvalidOption: where the limit is below 1 or above the number of training rows.
    """
    if limit is None:
        return rows
    if not 1 <= limit <= len(rows):
        raise InvalidOption(
            f"data {name!r}, option limit: got {limit}, expected 1 to {len(rows)} training samples, or null "
            "for all of them"
        )
    return rows[:limit]


def tensor_sets(inputs: np.ndarray, targets: np.ndarray | None, parts: dict[str, np.ndarray]) -> dict[str, Dataset]:
    """The splits as tensor data sets.

    Args:
        inputs: shape ``(n, *input_shape)``; becomes float32.
        targets: shape ``(n,)`` of integers, becomes int64; or ``(n, *target_shape)`` of numbers, becomes
            float32; None where there are none.
        parts: row numbers by split.
    """
    x = torch.as_tensor(inputs, dtype=torch.float32)
    if targets is None:
        return {split: TensorDataset(x[rows]) for split, rows in parts.items()}
    integers = np.issubdtype(targets.dtype, np.integer)
    y = torch.as_tensor(targets, dtype=torch.int64 if integers else torch.float32)
    return {split: TensorDataset(x[rows], y[rows]) for split, rows in parts.items()}


def _called(index: int, class_names: Sequence[str]) -> str:
    return repr(class_names[index]) if index < len(class_names) else str(index)


def _check_counts(
    name: str, num_rows: int, fractions: Sequence[float], counts: np.ndarray, class_names: Sequence[str]
) -> None:
    smallest = int(counts.argmin())
    if len(counts) > 1 and counts[smallest] < 3:
        raise DataError(
            f"data {name!r}: class {_called(smallest, class_names)} has {counts[smallest]} sample(s), "
            "expected at least 3 to stratify over training, validation and test; add samples, merge or drop "
            "the class"
        )
    sizes = split_sizes(num_rows, fractions)
    if min(sizes) < len(counts):
        reason = f", one for each of the {len(counts)} classes" if len(counts) > 1 else ""
        raise DataError(
            f"data {name!r}: got {num_rows} rows, which the split {list(fractions)} cuts into "
            f"{' + '.join(map(str, sizes))}; expected at least {len(counts)} in each part{reason}; add rows "
            "or change the split"
        )


def _check_presence(name: str, labels: np.ndarray, parts: dict[str, np.ndarray], class_names: Sequence[str]) -> None:
    for split in SPLITS:
        absent = np.setdiff1d(labels, labels[parts[split]])
        if absent.size == 0:
            continue
        message = (
            f"data {name!r}: the {split} set has no sample of class "
            f"{', '.join(_called(int(index), class_names) for index in absent)}; add samples of it"
        )
        if split == "train":
            raise DataError(f"{message}, or give training a larger share")
        warnings.warn(f"{message}, or metrics of this set do not see it", stacklevel=3)
