"""A CSV file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import Dataset

from odeframe.data import DataModule
from odeframe.errors import DataError, InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.splits import FRACTIONS, check_fractions, split_rows, tensor_sets
from odeframe_plugins.data.standardise import Scaling
from odeframe_plugins.data.table import Table, number, read_table

__all__ = ["CSV"]

#: a target of integers with at most so many different values is read as classes where no task is named
MOST_CLASSES = 20


@dataclass(frozen=True)
class _Target:
    values: np.ndarray | None
    parts: dict[str, np.ndarray]
    spec: DataSpec


@dataclass(frozen=True)
class _Prepared:
    columns: tuple[str, ...]
    inputs: np.ndarray
    scaling: Scaling
    target: _Target


class CSV(DataModule):
    """A file in UTF-8 with the names of its columns in the first line, numbers in the feature columns.

    Features ``(columns,)`` are standardised by the training rows. A classification's labels are int64, its
    split stratified, its classes in numerical or alphabetical order. A regression's target ``(1,)`` is
    standardised too; in the file's unit it is ``target_mean + target_scale * value``, both in the
    specification. A density has no target: samples are features alone.

    The file is read once, when the specification is first asked for; what is wrong with it is said then.

    Args:
        path: the file, from the current folder; ``~`` is the home folder.
        target: name of the column to predict; none with ``task: density``.
        columns: names of the feature columns; all but the target by default.
        task: ``classification``, ``regression`` or ``density``; by default classification where the target is text, or
            integers with at most 20 different values, and the log says which.
        split: shares of training, validation and test rows.
        seed: seed of the split.
        delimiter: the character between cells.
        batch_size: samples a batch and a rank.
        num_workers: loader processes.

    Raises:
        InvalidOption: where an option is outside its range.
        DataError: where the file cannot be read, has no such column, has a cell that is empty, not a number
            or not finite (with line and column), has one class or one target value alone, or too few rows
            for the split; where its first line is numbers and no columns are named; where the target is among the
            columns; or where a column of a density is constant.
    """

    def __init__(
        self,
        path: str,
        target: str | None = None,
        columns: Sequence[str] | None = None,
        task: Literal["classification", "regression", "density"] | None = None,
        split: Sequence[float] = FRACTIONS,
        seed: int = 0,
        delimiter: str = ",",
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if task not in (None, "classification", "regression", "density"):
            raise InvalidOption(
                f"data 'csv', option task: got {task!r}, expected 'classification', 'regression', 'density' or null"
            )
        _check_target(target, task)
        _check_columns(target, columns)
        if not 0 <= seed < 2**32:
            raise InvalidOption(f"data 'csv', option seed: got {seed}, expected an integer >= 0 and < 2**32")
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise InvalidOption(
                f"data 'csv', option delimiter: got {delimiter!r}, expected one character such as ',' or ';' "
                '(in YAML a tab is "\\t" in double quotes)'
            )
        self.path, self.target, self.columns, self.task = path, target, columns, task
        self.split, self.seed, self.delimiter = check_fractions("csv", split), seed, delimiter
        self._prepared: _Prepared | None = None

    def specify(self) -> DataSpec:
        """The shapes that the file has; reads it on the first call."""
        return self._ready().target.spec

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns in the order of the inputs."""
        return self._ready().columns

    @property
    def scaling(self) -> Scaling:
        """What standardises the features: mean and standard deviation of the training rows."""
        return self._ready().scaling

    def load(self) -> dict[str, Dataset]:
        """The three tensor data sets."""
        ready = self._ready()
        return tensor_sets(ready.scaling.apply(ready.inputs), ready.target.values, ready.target.parts)

    def _ready(self) -> _Prepared:
        if self._prepared is None:
            self._prepared = self._read()
        return self._prepared

    def _read(self) -> _Prepared:
        table = read_table(self.path, self.delimiter)
        if self.target is not None:
            table.position(self.target)
        columns = tuple(self.columns or self._features(table))
        if not columns:
            raise DataError(f"{table.path}: {self.target!r} is the only column; expected features beside the target")
        inputs = np.stack([table.numbers(name) for name in columns], axis=1)
        target = self._targets(table, len(columns))
        if len(target.parts["train"]) < 2:
            raise DataError(
                f"{table.path}: too few rows: of {len(table)} the split {list(self.split)} leaves one to train on, "
                "expected at least 2 to standardise by; add rows, or give training a larger share"
            )
        scaling = Scaling.fit(inputs[target.parts["train"]], columns)
        constant = [name for name, same in zip(columns, scaling.constant, strict=True) if same]
        if constant and self.target is None:
            raise DataError(
                f"{table.path}: constant over the training rows, so without a density: {', '.join(constant)}; leave "
                "them out of columns"
            )
        if constant:
            rank_zero_warn(f"{table.path}: constant over the training rows, so centred but not scaled: {constant}")
        return _Prepared(columns, inputs, scaling, target)

    def _features(self, table: Table) -> tuple[str, ...]:
        """All columns but the target."""
        if self.target is None:
            return table.all_names()
        return tuple(name for name in table.names if name != self.target)

    def _targets(self, table: Table, num_columns: int) -> _Target:
        if self.target is None:
            parts = split_rows(len(table), self.split, self.seed, name="csv")
            return _Target(None, parts, DataSpec(name="csv", input_shape=(num_columns,), task="density"))
        as_classes = (self.task or self._guess(table, self.target)) == "classification"
        return (self._classes if as_classes else self._values)(table, self.target, num_columns)

    def _guess(self, table: Table, target: str) -> str:
        task, reason = _likely_task(table, target)
        rank_zero_info(f"{table.path}: task {task}, because {reason}; the data's option task chooses otherwise")
        return task

    def _classes(self, table: Table, target: str, num_columns: int) -> _Target:
        labels, classes = _labels(table, target)
        try:
            parts = split_rows(len(table), self.split, self.seed, labels, name="csv", class_names=classes)
        except DataError as error:
            if any(number(name) is None for name in classes):
                raise
            raise DataError(f"{error}; if the target {target!r} is a quantity, write task: regression") from error
        spec = DataSpec(
            name="csv",
            input_shape=(num_columns,),
            target="class",
            num_classes=len(classes),
            task="classification",
            class_names=classes,
        )
        return _Target(labels, parts, spec)

    def _values(self, table: Table, target: str, num_columns: int) -> _Target:
        values = table.numbers(target)[:, None]
        if values.min() == values.max():
            raise DataError(
                f"{table.path}: the target {target!r} has the single value {values[0, 0]:g}, expected two or more"
            )
        parts = split_rows(len(table), self.split, self.seed, name="csv")
        unit = Scaling.fit(values[parts["train"]], [target])
        spec = DataSpec(
            name="csv",
            input_shape=(num_columns,),
            target="value",
            target_shape=(1,),
            task="regression",
            target_mean=float(unit.mean[0]),
            target_scale=float(unit.std[0]),
        )
        return _Target(unit.apply(values), parts, spec)


def _check_target(target: str | None, task: str | None) -> None:
    if target is None and task != "density":
        raise InvalidOption(
            "data 'csv' needs the option 'target', the name of the column to predict; or write task: density for the "
            "density of the columns, without one"
        )
    if target is not None and task == "density":
        raise InvalidOption(
            f"data 'csv', option task: got 'density' beside the target {target!r}, and a density has none; leave "
            "target out, and name the columns in columns"
        )


def _check_columns(target: str | None, columns: Sequence[str] | None) -> None:
    if columns is None:
        return
    if isinstance(columns, str) or not columns or len(set(columns)) < len(columns):
        raise InvalidOption(
            f"data 'csv', option columns: got {columns!r}, expected a list of different names, or null for "
            "all but the target"
        )
    if target in columns:
        raise DataError(
            f"data 'csv': the target {target!r} is among the columns {list(columns)}, and the answer would "
            "be an input; take it out of columns"
        )


def _likely_task(table: Table, target: str) -> tuple[str, str]:
    cells = table.texts(target)
    values = [number(cell) for cell in cells]
    numeric = [value for value in values if value is not None]
    if not numeric:
        return "classification", f"the target {target!r} is text"
    if len(numeric) < len(values):
        odd = values.index(None)
        raise DataError(
            f"{table.path}, line {table.lines[odd]}, column {target!r}: got {cells[odd]!r} among "
            f"{len(numeric)} numbers, expected a target of numbers or of text; correct the cell, or write "
            "task: classification"
        )
    distinct = len(set(numeric))
    if all(value.is_integer() for value in numeric) and distinct <= MOST_CLASSES:
        return "classification", f"the target {target!r} is integers with {distinct} different values"
    return "regression", f"the target {target!r} is numbers with {distinct} different values"


def _labels(table: Table, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    keys = table.texts(target)
    values = [number(key) for key in keys]
    if None not in values:  # so that 1 and 1.0 are one class, and 10 comes after 9
        names = {value: str(int(value)) if value.is_integer() else str(value) for value in values if value is not None}
        keys = [names[value] for value in values if value is not None]
        classes = tuple(names[value] for value in sorted(names))
    else:
        classes = tuple(sorted(set(keys)))
    if len(classes) < 2:
        raise DataError(f"{table.path}: the target {target!r} has the single class {keys[0]!r}, expected two or more")
    index = {key: label for label, key in enumerate(classes)}
    return np.array([index[key] for key in keys], dtype=np.int64), classes
