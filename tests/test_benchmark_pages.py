"""Tables of benchmarks go between the marks of a page."""

import pytest

from benchmarks.page import put

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
