"""Tables of benchmarks go between the marks of a page."""

import pytest

from benchmarks.page import put, put_rows

MARKS = ("<!-- begin -->", "<!-- end -->")


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin -->\nold\n<!-- end -->\nafter\n")
    put(page, MARKS, "| new |")
    assert page.read_text() == "before\n<!-- begin -->\n\n| new |\n\n<!-- end -->\nafter\n"
    put(page, MARKS, "| new |")
    assert page.read_text().count("| new |") == 1


@pytest.mark.parametrize("text", ["none", "<!-- begin -->", "<!-- begin --><!-- begin --><!-- end -->", "{0}{1}{1}"])
def test_a_page_without_its_marks_is_left_alone(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text.format(*MARKS))
    with pytest.raises(ValueError, match="expected <!-- begin --> once"):
        put(page, MARKS, "new")
    assert page.read_text() == text.format(*MARKS)


def test_a_row_takes_the_place_of_its_own(tmp_path):
    page, table = tmp_path / "page.md", "| name | seed | value |\n|---|---|---|\n| a | 0 | 1 |\n| a | 1 | 2 |"
    page.write_text(f"| a | 0 | 9 |\n{MARKS[0]}\n\n{table}\n\n{MARKS[1]}\nafter\n")
    put_rows(page, MARKS, ["| a | 0 | 3 |", "| b | 0 | 4 |"], keys=2)
    expected = table.replace("| 0 | 1 |", "| 0 | 3 |") + "\n| b | 0 | 4 |"
    assert page.read_text() == f"| a | 0 | 9 |\n{MARKS[0]}\n\n{expected}\n\n{MARKS[1]}\nafter\n"
    with pytest.raises(ValueError, match="a table of 2 columns"):
        put_rows(page, MARKS, ["| a | 0 |"])
