"""Files of fields between separators: every row knows its line, and quotes are closed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.delimited import Row, all_rows_of, first_line, rows_of
from training.data.series.table.column_table import read_columns
from training.errors import DataError

WHERE = Path("some.csv")


def rows(text: str, separator: str | None = ",", *, strict: bool = True) -> list[Row]:
    return list(rows_of(text, separator, path=WHERE, strict=strict))


@pytest.mark.parametrize("strict", [True, False])
def test_a_row_knows_the_line_it_ends_in(strict: bool) -> None:
    found = rows('a,b\n"x\ny", 1 \n\n"q""r",2', strict=strict)
    assert [(row.line, row.fields) for row in found] == [
        (1, ("a", "b")),
        (3, ("x\ny", "1")),
        (4, ()),
        (5, ('q"r', "2")),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems(end: str) -> None:
    text = end.join(["", "a;b", "1;2", ""])
    assert first_line(text) == "a;b"
    assert [row.fields for row in rows(text, ";")] == [(), ("a", "b"), ("1", "2")]
    assert [row.line for row in rows(text.replace(";", "  "), None)] == [1, 2, 3]


@given(
    st.lists(st.sampled_from(["a", " b ", "1,5", '"x,y"', '"p\nq"', ",", "\n", "\r\n", ""])),
    st.sampled_from([",", ";", None]),
)
def test_all_rows_at_once_are_the_rows_one_by_one(parts: list[str], separator: str | None) -> None:
    text = "".join(parts)
    try:
        one_by_one = list(rows_of(text, separator, path=WHERE, strict=False))
    except DataError:
        with pytest.raises(DataError):
            all_rows_of(text, separator, path=WHERE)
        return
    found = all_rows_of(text, separator, path=WHERE)
    stripped = [tuple(field.strip() for field in row) for row in found.fields]
    assert stripped == [row.fields for row in one_by_one]
    assert list(found.lines) == [row.line for row in one_by_one]


@pytest.mark.parametrize("strict", [True, False])
def test_a_quote_that_is_not_closed_is_refused(strict: bool) -> None:
    with pytest.raises(DataError, match=r"some.csv, line 3: .*mend the quotes"):
        rows('a\n1\n"2', strict=strict)
    assert len(rows('a\n1\n"2"', strict=strict)) == 3


def test_what_only_a_strict_reader_minds() -> None:
    with pytest.raises(DataError, match=r"line 1: .*mend the quotes"):
        rows('"a"b,c')
    assert rows('"a"b, "c,d"', strict=False) == [Row(line=1, fields=("ab", "c,d"))]


@pytest.mark.parametrize(
    "text", ["A|B\n1|2\n3|4\n", "A;B\r1;2\r3;4\r", "\n\nA,B\n1,2\n3,4\n", "A\tB\n1\t2\n3\t4"]
)
def test_columns_whatever_the_separator_and_the_line_ends(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode())
    frame = read_columns(path).frame
    assert frame.to_dict("list") == {"A": ["1", "3"], "B": ["2", "4"]}


def test_a_column_without_a_name_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(",B\n0,2\n1\n")
    frame = read_columns(path).frame
    assert frame.to_dict("list") == {"Unnamed: 0": ["0", "1"], "B": ["2", ""]}
    assert list(frame.index) == [2, 3]
