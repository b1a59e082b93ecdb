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
