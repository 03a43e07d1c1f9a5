"""Tables as text and as HTML, and the history of a training as one of them."""
import pytest

from cnn_numba.history import EpochResult, History
from cnn_numba.table import Table, number

COLUMNS = [("name", lambda row: row[0]), ("count", lambda row: str(row[1]))]


def test_text_is_aligned_left_then_right():
    assert str(Table(COLUMNS, [("a", 5), ("long name", 1234)])).splitlines() == [
        "name       count",
        "---------  -----",
        "a              5",
        "long name   1234"]


def test_a_title_comes_first_and_a_total_last():
    table = Table(COLUMNS, [("a", 5)], title="Title", left=0, total=["sum", "5"])
    assert str(table).splitlines() == [
        "Title",
        "",
        "name  count",
        "----  -----",
        "   a      5",
        "----  -----",
        " sum      5"]


def test_columns_that_do_not_fit_follow_below_beside_those_on_the_left():
    columns = [COLUMNS[0], *((f"column {k}", lambda row, k=k: f"{row[1]}.{k}") for k in range(3))]
    table = Table(columns, [("a", 5), ("b", 60)], title="a long title", total=["all", "1", "2", "3"])
    assert table.lines(25) == [
        "a long title", "",
        "name  column 0  column 1", "----  --------  --------", "a          5.0       5.1", "b         60.0      60.1",
        "----  --------  --------", "all          1         2", "",
        "name  column 2", "----  --------", "a          5.2", "b         60.2", "----  --------", "all          3"]
    assert table.lines(34) == table.lines() == str(table).splitlines() != table.lines(33)
    assert table.lines(3)[:4] == ["a", "long", "title", ""] and len(table.lines(3)) == 3 + 3 * 7


def test_lines_do_not_end_in_spaces():
    lines = str(Table([*COLUMNS, ("note", lambda row: row[2])], [("a", 5, ""), ("b", 6, "x")], left=3)).splitlines()
    assert all(line == line.rstrip() for line in lines)


def test_html_escapes_and_aligns():
    html = Table(COLUMNS, [("<a & b>", 5)], title="1 < 2", total=["sum", "5"])._repr_html_()
    assert html.startswith("<table><caption>1 &lt; 2</caption><tr><th") and html.endswith("</tr></table>")
    assert '<td style="text-align: left">&lt;a &amp; b&gt;</td><td style="text-align: right">5</td>' in html
    assert '<th style="text-align: left">sum</th>' in html


@pytest.mark.parametrize("value, text", [(123456.7, "123,457"), (99.94, "99.9"), (1.5, "1.50"), (0.0, "0.00")])
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_history_is_a_table_without_empty_columns():
    history = History([EpochResult(1, 0.5, 90.0, 2.0, 100, 10, 0.1), EpochResult(2, 0.25, 95.0, 2.0, 100, 10, 0.1)])
    heading, _, first, second = repr(history).splitlines()
    assert heading.split() == "epoch loss accuracy seconds images steps learning rate".split()
    assert first.split() == ["1", "0.5", "90", "2", "100", "10", "0.1"] and second.split()[1] == "0.25"
    assert "validation" not in history._repr_html_() and history._repr_html_().count("<tr>") == 3


def test_an_empty_history_says_so():
    assert repr(History()) == "History of 0 epochs"
    assert History()._repr_html_().startswith("<table><tr><th")
