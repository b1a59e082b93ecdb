"""A user's CSV file: what is read from it, and every fault with its line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from odeframe.data import SPLITS
from odeframe.errors import DataError, InvalidOption
from odeframe.specification import DataSpec
from odeframe_plugins.data.csv import CSV

Write = Callable[..., str]


def tensors(data: CSV, split: str) -> tuple[torch.Tensor, ...]:
    dataset = data.dataset(split)
    assert isinstance(dataset, TensorDataset)
    return dataset.tensors


def everything(data: CSV) -> torch.Tensor:
    return torch.cat([tensors(data, split)[0] for split in SPLITS])


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a file and gives its path."""

    def write(text: str | bytes, name: str = "mine.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def rows(target: str = "class", n: int = 40, bad: dict[int, str] | None = None) -> str:
    """A header and ``n`` rows of a, b and a target; ``bad`` replaces lines by number, the header being line "
    "1."""
    lines = ["a,b,y"]
    for i in range(n):
        y = {"class": "yes" if i % 2 else "no", "integer": str(i % 3), "real": f"{i * 0.5:.1f}"}[target]
        lines.append(f"{i},{(i * 7) % 11 - 0.5},{y}")
    for number, line in (bad or {}).items():
        lines[number - 1] = line
    return "\n".join(lines) + "\n"


def test_csv_of_classes(table: Write) -> None:
    data = CSV(table(rows("class")), target="y")
    assert data.spec == DataSpec("csv", (2,), "class", 2, (), "classification", ("no", "yes"))
    assert data.feature_names == ("a", "b")
    x, y = tensors(data, "train")
    assert (x.shape, x.dtype, y.dtype) == ((28, 2), torch.float32, torch.int64)
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2))
    # Column a counts the rows, and even rows are "no".
    for split in SPLITS:
        x, y = tensors(data, split)
        a = data.scaling.invert(x.double().numpy())[:, 0]
        assert np.array_equal(np.round(a) % 2, y.numpy())


def test_csv_of_values(table: Write) -> None:
    data = CSV(table(rows("real")), target="y", columns=["a"])
    spec = data.spec
    assert (spec.task, spec.target, spec.input_shape, spec.target_shape) == ("regression", "value", (1,), (1,))
    for split in SPLITS:
        x, y = tensors(data, split)
        a = data.scaling.invert(x.double().numpy())
        np.testing.assert_allclose(spec.target_mean + spec.target_scale * y.double().numpy(), a / 2, atol=1e-5)
    assert all(type(value) is float for value in (spec.target_mean, spec.target_scale))


@pytest.mark.parametrize(
    ("kind", "task", "reason"),
    [
        ("class", "classification", "is text"),
        ("integer", "classification", "integers with 3 different values"),
        ("real", "regression", "numbers with 40 different values"),
    ],
)
def test_csv_says_which_task_it_took(
    table: Write, monkeypatch: pytest.MonkeyPatch, kind: str, task: str, reason: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr("odeframe_plugins.data.csv.rank_zero_info", said.append)
    path = table(rows(kind))
    assert CSV(path, target="y").spec.task == task
    assert len(said) == 1
    assert f"task {task}" in said[0]
    assert reason in said[0]
    assert CSV(path, target="y", task="classification" if kind == "class" else "regression").spec.target
    assert len(said) == 1  # nothing was guessed


def test_csv_integers_become_values_past_twenty(table: Write) -> None:
    def task(distinct: int) -> str:
        lines = [f"{i},{i % distinct}" for i in range(10 * distinct)]
        return CSV(table("\n".join(["a,y", *lines])), target="y").spec.task

    assert task(20) == "classification"
    assert task(21) == "regression"


def test_csv_numeric_classes_are_in_numerical_order(table: Write) -> None:
    labels = ["10", "9", "9.0", "-1"]
    text = "a,y\n" + "".join(f"{i},{labels[i % 4]}\n" for i in range(80))
    assert CSV(table(text), target="y").spec.class_names == ("-1", "9", "10")


def test_csv_reads_what_spreadsheets_write(table: Write) -> None:
    text = rows("class").replace(",", ";").replace("a;b;y", '"a"; b;"y"').replace("\n", "\r\n")
    plain = CSV(table(rows("class")), target="y")
    saved = CSV(table(b"\xef\xbb\xbf" + text.encode() + b"\r\n", "excel.csv"), target="y", delimiter=";")
    assert saved.spec == plain.spec
    assert torch.equal(everything(saved), everything(plain))


def test_csv_quoted_cells_may_hold_delimiter_and_line_break(table: Write) -> None:
    text = rows("class").replace("yes", '"y,\nes"')
    assert CSV(table(text), target="y").spec.class_names == ("no", "y,\nes")
    with pytest.raises(DataError, match="line 5, column 'a'"):  # the line of the file, not of the row
        CSV(table(text.replace("\n2,", "\nx,")), target="y").setup()


def test_csv_is_read_once_and_seeded(table: Write, tmp_path: Path) -> None:
    path = table(rows("class"))
    data, other = CSV(path, target="y"), CSV(path, target="y", seed=1)
    assert data.spec.num_classes == 2
    assert torch.equal(everything(data), everything(CSV(path, target="y")))
    assert not torch.equal(everything(data), everything(other))
    fresh = CSV(path, target="y")
    spec = fresh.spec
    Path(path).unlink()
    fresh.setup()
    assert fresh.spec is spec


def test_csv_constant_column_is_said(table: Write) -> None:
    text = "a,b,y\n" + "".join(f"{i},0.1,{i % 2}\n" for i in range(40))
    with pytest.warns(UserWarning, match=r"constant over the training rows.*\['b'\]"):
        x = everything(CSV(table(text), target="y"))
    assert torch.equal(x[:, 1].abs() < 1e-6, torch.ones(40, dtype=torch.bool))


@pytest.mark.parametrize("options", [{"target": "y", "task": "regression"}, {"task": "density"}])
def test_csv_of_three_rows_is_too_short_and_not_constant(table: Write, options: dict[str, str]) -> None:
    path = table("a,b,y\n1,2,0.5\n2,3,1.5\n3,4,2.5\n")
    with pytest.raises(DataError, match=r"too few rows: of 3 the split .* leaves one to train on"):
        CSV(path, **options).setup()


FAULTS = {
    "empty file": ("", "the file is empty"),
    "blank lines": ("\n\n  \n", "the file is empty"),
    "header alone": ("a,b,y\n", "the header alone"),
    "ragged, short": (rows(bad={5: "1,2"}), "line 5: got 2 cells, expected 3"),
    "ragged, long": (rows(bad={7: "1,2,no,4"}), "line 7: got 4 cells, expected 3"),
    "text": (rows(bad={4: "1,blue,no"}), "line 4, column 'b': got 'blue', expected a number"),
    "underscore": (rows(bad={4: "1,1_0,no"}), "line 4, column 'b': got '1_0', expected a number"),
    "decimal comma": (rows(bad={4: '1,"1,5",no'}), "line 4, column 'b': got '1,5', expected a number"),
    "nan": (rows(bad={9: "NaN,1,no"}), "line 9, column 'a': got 'NaN', expected a finite number"),
    "inf": (rows(bad={9: "1,-inf,no"}), "line 9, column 'b': got '-inf', expected a finite number"),
    "overflow": (rows(bad={9: "1,1e999,no"}), "line 9, column 'b': got '1e999', expected a finite number"),
    "empty cell": (rows(bad={3: "1,,no"}), "line 3, column 'b': the cell is empty"),
    "blank cell": (rows(bad={3: "1,  ,no"}), "line 3, column 'b': the cell is empty"),
    "empty target": (rows(bad={3: "1,2,"}), "line 3, column 'y': the cell is empty"),
    "nan target": (rows("real", bad={3: "1,2,nan"}), "line 3, column 'y': got 'nan', expected a finite number"),
    "mixed target": (rows("real", bad={6: "1,2,n/a"}), "line 6, column 'y': got 'n/a' among 39 numbers"),
    "one class": (rows().replace("yes", "no"), "the single class 'no'"),
    "one class of numbers": ("a,y\n" + "1,5\n" * 40, "the single class '5'"),
    "rare class": (rows(bad={3: "1,2,maybe"}), r"class 'maybe' has 1 sample\(s\), expected at least 3"),
    "few rows": (rows(n=6), r"got 6 rows.*3 \+ 1 \+ 2; expected at least 2 in each part, one for each"),
    "few values": (rows("real", n=2), r"got 2 rows.*expected at least 1 in each part"),
    "duplicate names": (rows(bad={1: "a,a,y"}), "the header has 'a' more than once"),
    "unnamed column": (rows(bad={1: ",b,y"}), "column number 1 has no name"),
    "latin-1": (rows(bad={4: "1,2,ja"}).encode() + "1,2,né\n".encode("latin-1"), "line 42: byte 0xe9 is not UTF-8"),
    "utf-16": (rows().encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "open quote": (rows(bad={41: '1,2,"no'}), "not a valid CSV record"),
    "target alone": ("y\n" + "1\n0\n" * 20, "'y' is the only column"),
    "too large": (rows(bad={i: f"1,{i}e307,no" for i in range(2, 10)}), "column 'b': got values up to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_csv_fault_is_named(table: Write, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        CSV(table(text), target="y").setup()


def test_csv_missing_file_names_the_near_one(table: Write, tmp_path: Path) -> None:
    table(rows(), "measured.csv")
    with pytest.raises(DataError, match=r"no such file.*Did you mean 'measured.csv'\?"):
        CSV(str(tmp_path / "mesured.csv"), target="y").setup()
    with pytest.raises(DataError, match="no such file"):
        CSV(str(tmp_path / "nowhere" / "mine.csv"), target="y").setup()
    with pytest.raises(DataError, match="is a directory; expected a CSV file"):
        CSV(str(tmp_path), target="y").setup()


def test_csv_unreadable_file(table: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        CSV(table(rows()), target="y").setup()


def test_csv_unknown_column_names_the_near_one_and_all(table: Write) -> None:
    path = table(rows().replace("a,b,y", "alpha,beta,label"))
    with pytest.raises(DataError, match=r"no column 'lable'.*'alpha', 'beta', 'label'\. Did you mean 'label'\?"):
        CSV(path, target="lable").setup()
    with pytest.raises(DataError, match=r"no column 'betta'.*Did you mean 'beta'\?"):
        CSV(path, target="label", columns=["alpha", "betta"]).setup()
    with pytest.raises(DataError, match="is the delimiter another one"):
        CSV(path, target="label", delimiter=";").setup()
    with pytest.raises(DataError, match="The first line looks like data"):
        CSV(table("1,2,3\n4,5,6\n"), target="y").setup()


def test_csv_target_among_columns(table: Write) -> None:
    with pytest.raises(DataError, match="the target 'y' is among the columns"):
        CSV(table(rows()), target="y", columns=["a", "y"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("columns", []),
        ("columns", "ab"),
        ("columns", ["a", "a"]),
        ("task", "density"),
        ("split", (0.5, 0.5)),
        ("seed", -1),
        ("seed", 2**32),
        ("delimiter", ""),
        ("delimiter", ", "),
        ("delimiter", '"'),
        ("delimiter", "\n"),
    ],
)
def test_csv_options_are_checked(option: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"'csv', option {option}: got"):
        CSV("nowhere.csv", target="y", **{option: value})  # type: ignore[arg-type]


def test_csv_regression_faults(table: Write) -> None:
    with pytest.raises(DataError, match="the single value 5"):
        CSV(table("a,y\n" + "".join(f"{i},5\n" for i in range(40))), target="y", task="regression").setup()
    with pytest.raises(DataError, match="line 2, column 'y': got 'no', expected a number"):
        CSV(table(rows("class")), target="y", task="regression").setup()


def test_csv_classes_that_look_like_a_quantity(table: Write) -> None:
    with pytest.raises(DataError, match="'y' is a quantity, write task: regression"):
        CSV(table(rows("real")), target="y", task="classification").setup()
