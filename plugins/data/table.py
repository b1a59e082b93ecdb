"""A delimited text file as named columns, every fault with its line."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odeframe.errors import DataError, suggestion

__all__ = ["Table", "number", "read_table"]


def number(cell: str) -> float | None:
    """The cell as a number, ``None`` where it is text; ``1_000`` is text although Python reads it."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


@dataclass(frozen=True)
class Table:
    """Cells of a file without their surrounding blanks.

    Attributes:
        path: where it was read.
        names: the header.
        rows: text cells, each row as long as the header.
        lines: line of the file that each row ends on, from 1.
    """

    path: Path
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def position(self, name: str) -> int:
        """Where a column stands in the header.

        Raises:
            DataError: where there is no such column; names the near one and all.
        """
        if name in self.names:
            return self.names.index(name)
        hint = suggestion(name, self.names) + self._doubt()
        columns = ", ".join(map(repr, self.names))
        raise DataError(f"{self.path}: no column {name!r}; its columns are {columns}.{hint}")

    def all_names(self) -> tuple[str, ...]:
        """The header, where all columns are wanted and none has been named.

        Raises:
            DataError: the header is numbers alone, or one name with a delimiter in it.
        """
        if doubt := self._doubt():
            raise DataError(
                f"{self.path}: got the columns {', '.join(map(repr, self.names))}.{doubt} If these are the names, list "
                "them in columns: [...]"
            )
        return self.names

    def _doubt(self) -> str:
        """Why the header may be none; empty where nothing speaks against it."""
        if all(number(header) is not None for header in self.names):
            return " The first line looks like data: put the names of the columns there."
        if len(self.names) == 1 and any(mark in self.names[0] for mark in ";,\t|"):
            return " One column only: is the delimiter another one?"
        return ""

    def texts(self, name: str) -> list[str]:
        """A column as text.

        Raises:
            DataError: where a cell is empty or not finite (``nan``, ``inf``), with its line.
        """
        position = self.position(name)
        cells = [row[position] for row in self.rows]
        for line, cell in zip(self.lines, cells, strict=True):
            value = number(cell)
            if not cell or (value is not None and not math.isfinite(value)):
                got = f"got {cell!r}, expected a finite number" if cell else "the cell is empty"
                raise DataError(f"{self.path}, line {line}, column {name!r}: {got}; fill it or drop the row")
        return cells

    def numbers(self, name: str) -> np.ndarray:
        """A column as numbers, float64, shape ``(rows,)``.

        Raises:
            DataError: where a cell is empty, not finite or not a number, with its line.
        """
        cells = self.texts(name)
        values = [number(cell) for cell in cells]
        for line, cell, value in zip(self.lines, cells, values, strict=True):
            if value is None:
                raise DataError(
                    f"{self.path}, line {line}, column {name!r}: got {cell!r}, expected a number; correct "
                    "the cell, code the column as numbers, or leave it out with columns: [...]"
                )
        return np.array(values, dtype=np.float64)


def read_table(path: str | Path, delimiter: str = ",") -> Table:
    """Reads a text file in UTF-8 whose first line names the columns; blank lines are passed over.

    Raises:
        DataError: for a file that is missing, a folder, unreadable, empty, not UTF-8 or without rows, for a
            header with an empty or a repeated name, and for a row of another length than the header, with
            its line.
    """
    path = Path(path).expanduser()
    lines_of_text = io.StringIO(_text(path), newline="")
    # So that a quote after ", " opens a quoted cell.
    skip = delimiter != " "
    reader = csv.reader(lines_of_text, delimiter=delimiter, skipinitialspace=skip, strict=True)
    header: tuple[str, ...] | None = None
    rows, lines = [], []
    try:
        for cells in reader:
            row = tuple(cell.strip() for cell in cells)
            if not any(row) and len(row) <= 1:
                continue
            if header is None:
                header = _checked_header(path, row)
            elif len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: got {len(row)} cells, expected {len(header)} as in the "
                    "header; quote cells that hold the delimiter"
                )
            else:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a valid CSV record: {error}") from error
    if header is None:
        raise DataError(f"{path}: the file is empty; expected a line with the columns' names, then the rows")
    if not rows:
        raise DataError(f"{path}: got the header alone; expected rows under it")
    return Table(path, header, tuple(rows), tuple(lines))


def _text(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{path} is a directory; expected a CSV file, write path: {path}/NAME.csv")
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file, from the folder {Path.cwd()}.{suggestion(path.name, beside)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _checked_header(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    if "" in names:
        raise DataError(f"{path}: column number {names.index('') + 1} has no name; name it in the first line")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path}: the header has {', '.join(map(repr, repeated))} more than once; give each column a "
            "name of its own"
        )
    return names
