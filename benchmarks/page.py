"""The tables of pages: what a benchmark measured, between two marks."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, marks: tuple[str, str], text: str) -> None:
    """Replaces what stands between the marks of a page.

    Args:
        path: of the page, which has each mark once.
        marks: the begin and the end.
        text: in Markdown.

    Raises:
        ValueError: the page does not have the marks, or has one of them twice.
    """
    begin, end = marks
    page = path.read_text("utf-8")
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed) or begin in rest or end in after:
        raise ValueError(f"{path}: expected {begin} once, and {end} once behind it")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def put_rows(path: Path, marks: tuple[str, str], rows: list[str], keys: int = 1) -> None:
    """Puts rows into the table between the marks: each in place of the one with the same first cells, or at the end.

    Args:
        path: of the page.
        marks: the begin and the end.
        rows: ``| a | b |``, as many cells as the table has.
        keys: how many cells say which row it is.

    Raises:
        ValueError: as ``put``, or there is no table of so many columns between the marks.
    """

    def key(row: str) -> list[str]:
        return row.split("|")[1 : keys + 1]

    text = path.read_text("utf-8")
    table = [line for line in text.partition(marks[0])[2].partition(marks[1])[0].splitlines() if line.startswith("|")]
    for row in rows:
        if len(table) < 2 or row.count("|") != table[0].count("|"):
            raise ValueError(f"{path}: expected a table of {row.count('|') - 1} columns behind {marks[0]}")
        place = next((i for i, line in enumerate(table[2:], 2) if key(line) == key(row)), len(table))
        table[place : place + 1] = [row]
    put(path, marks, "\n".join(table))
