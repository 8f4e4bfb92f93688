"""Series as people have them: what is forgiven, what is refused, and the words for both."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.series.columns import Columns, Fill, TimeFeature
from training.data.series.panel import Panel
from training.data.series.reading import read_panel
from training.data.series.synthetic import synthetic_prices, write_csv
from training.errors import DataError
from training.families.parsing import parse_config
from training.run.fit import train

SHARED = Path(__file__).parents[5] / "shared" / "data"


def csv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prices.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def notes(panel: Panel) -> dict[str, int]:
    return {note.what: note.rows for note in panel.notes}


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {}, "the file is empty"),
        ("Date,Open\n1,2\n", {}, r"no column 'Close' \(it has: Date, Open\); choose one with"),
        ("Close\n1\n", {"date": "Day"}, "no column 'Day' .* with --date"),
        ("Close\n1\n", {"feature": ("Wind",)}, "no column 'Wind' .* with --feature"),
        ("Close\n1\n", {"series_column": "who"}, "no column 'who' .* with --series-column"),
        ("Close,B\n1,2\n3,4,5\n", {}, "broken CSV: .*line 3"),
        ("Close,Close\n1,2\n", {}, "two columns are named 'Close'"),
        ("Close\n1\n2\nabc\n4\nx\n", {}, "line 4, column 'Close': 'abc' .* 1 more row"),
        ("Close\n1\ninf\n", {}, "line 3, column 'Close': 'inf' is not a number"),
        (
            "Close;B\n1,50;1\n1.50;2\n",
            {},
            "line 2, .*'1,50' has a decimal comma and line 3, .* --decimal-point",
        ),
        (b"Close\n1\n\xe9\n", {}, "not UTF-8: byte 0xe9 at offset 8"),
        (b"\x1f\x8b\x08broken", {}, "broken gzip file"),
        ("Close\n1\n", {"time_feature": (TimeFeature.HOUR,)}, "need dates, and no column"),
        ("A,B,C\n1,2,3\n", {"value": ()}, r"which column is to be predicted \(it has: A, B, C\)"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, content: Any, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_panel(csv(tmp_path, content), Columns(**({"value": ("Close",)} | columns)))


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_panel(tmp_path / "no.csv", Columns(value=("Close",)))


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([1.0] * 20, {}, "20 rows with a value are too few: .* needs 50"),
        ([1.0] * 60, {"window": 64}, "60 rows .* needs 83"),
        ([1.0] * 70 + [-2.0] + [1.0] * 9, {"transform": "log-return"}, "line 72, .*-2 is not abo"),
        ([1.0] * 60, {"season": 30}, "60 rows with a value are too few"),
    ],
)
def test_series_that_cannot_be_used(
    tmp_path: Path, rows: Any, settings: dict[str, Any], message: str
) -> None:
    path = csv(tmp_path, "Close\n" + "\n".join(map(str, rows)))
    config = parse_config(
        {"task": "series", "csv": path, "value": "Close", "runs": tmp_path / "r", **settings}
    )
    with pytest.raises(DataError, match=message):
        train(config)
    assert [child.name for child in tmp_path.iterdir()] == ["prices.csv"]


def test_csv_as_people_have_them(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        'date;close\n2020-01-03;"1,003.5"\n\n2020-01-01;null\n2020-01-02;2\nsoon;7\n'
        "2020-01-02;3\n2020-01-05\n" + "".join(f"2020-02-{day:02};4\n" for day in range(1, 30)),
    )
    panel = read_panel(path, Columns(value=("close",)))
    (series,) = panel.series
    assert series.values.tolist() == [3.0, 1003.5] + [4.0] * 29
    assert series.labels[:2] == ("2020-01-02", "2020-01-03")
    found = notes(panel)
    assert found.pop("not there: each gap is taken as one step") > 0
    assert found == {
        "times in 'date'": 34,
        "read with commas between thousands": 1,
        "read as no value": 1,
        "dropped: no date": 1,
        "sorted by 'date'": 34,
        "dropped: time seen twice, the later row is kept": 1,
        "dropped: no value": 2,
    }


@pytest.mark.parametrize(
    ("fields", "settings", "values", "noted"),
    [
        (["1,234.5", "1,234", "12"], {}, [1234.5, 1234, 12], False),
        (["1.234,5", "1.234", "12"], {}, [1234.5, 1234, 12], True),
        (["12,5", "1.234"], {}, [12.5, 1234], True),
        (["1.234", "0.987"], {}, [1.234, 0.987], False),
        (["1.234", "12"], {"decimal_point": True}, [1.234, 12], False),
        (["1.234", "1,234"], {"decimal_comma": True}, [1234, 1.234], False),
        (["1 234,5", "1\u00a0234", "-0,5"], {}, [1234.5, 1234, -0.5], True),
        (["1e3", "-.5", "+7"], {}, [1000, -0.5, 7], False),
    ],
)
def test_numbers_as_people_write_them(
    tmp_path: Path,
    fields: list[str],
    settings: dict[str, Any],
    values: list[float],
    noted: bool,
) -> None:
    path = csv(tmp_path, "v;w\n" + "".join(f"{field};0\n" for field in fields))
    panel = read_panel(path, Columns(value=("v",), **settings))
    assert panel.series[0].values.tolist() == values
    assert ("read with a decimal comma" in notes(panel)) == noted


def test_one_field_tells_what_a_comma_means_in_all_of_them(tmp_path: Path) -> None:
    rows = "a;12,5;987\na;13,5;1.012\nb;1,234;1.100\n"
    path = csv(tmp_path, "ticker;v;w\n" + rows)
    columns = Columns(value=("v",), feature=("w",), series_column="ticker")
    first, second = read_panel(path, columns).series
    assert first.values.tolist() == [12.5, 13.5]
    assert first.beside[:, 0].tolist() == [987, 1012]
    assert second.values.tolist() == [1.234]


@pytest.mark.parametrize("text", ["v;w\n1,234;0\n2,345;0\n", "v;w\n1.234;0\n2.345;0\n"])
def test_commas_that_may_mean_either_are_refused_until_somebody_says(
    tmp_path: Path, text: str
) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(DataError, match=r"line 2, column 'v': '1.234' .* or --decimal-point"):
        read_panel(path, Columns(value=("v",)))
    found = [
        read_panel(path, Columns(value=("v",), decimal_comma=comma, decimal_point=not comma))
        for comma in (False, True)
    ]
    values = sorted(panel.series[0].values.tolist() for panel in found)
    assert values == [[1.234, 2.345], [1234, 2345]]


def test_other_columns_tell_what_a_comma_means(tmp_path: Path) -> None:
    path = csv(tmp_path, "v;w\n1,234;38,5\n2,345;7,25\n")
    panel = read_panel(path, Columns(value=("v",)))
    assert panel.series[0].values.tolist() == [1.234, 2.345]
    assert notes(panel)["read with a decimal comma"] == 2


def test_a_first_row_with_too_many_fields_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "Date,Close\n2020-01-01,1,234.50\n2020-01-02,1,235.50\n")
    with pytest.raises(DataError, match="line 2: more fields than the header"):
        read_panel(path, Columns(value=("Close",)))


def test_rows_without_a_header_may_begin_with_a_date(tmp_path: Path) -> None:
    path = csv(tmp_path, "2020-01-03,3\n2020-01-02,2\n2020-01-01,1\n")
    panel = read_panel(path, Columns())
    (series,) = panel.series
    assert series.values.tolist() == [1, 2, 3]
    assert series.labels == ("2020-01-01", "2020-01-02", "2020-01-03")


@pytest.mark.parametrize("day_first", [True, False])
def test_the_order_of_day_and_month_is_the_one_that_spaces_dates_evenly(
    tmp_path: Path, day_first: bool
) -> None:
    months = [(year, month) for year in (2019, 2020) for month in range(1, 13)]
    stamps = [f"01/{m:02}/{y}" if day_first else f"{m:02}/01/{y}" for y, m in months]
    rows = "".join(f"{stamp},{value}\n" for value, stamp in enumerate(stamps))
    panel = read_panel(csv(tmp_path, "Date,v\n" + rows), Columns(value=("v",)))
    assert panel.series[0].labels == tuple(f"{year}-{month:02}-01" for year, month in months)
    (note,) = [note for note in panel.notes if note.what == "times in 'Date'"]
    assert ("%d/%m/%Y" if day_first else "%m/%d/%Y") in note.detail
    assert "evenly spaced" in note.detail


def test_days_and_months_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "Date,v\n01/01/2020,1\n01/02/2020,2\n01/03/2020,3\n")
    with pytest.raises(DataError, match=r"'01/01/2020' .* %d/%m/%Y or %m/%d/%Y; .* --date-form"):
        read_panel(path, Columns(value=("v",)))
    last = {
        form: read_panel(path, Columns(value=("v",), date_form=form)).series[0].labels[-1]
        for form in ("day-first", "month-first", "%d/%m/%Y")
    }
    assert list(last.values()) == ["2020-03-01", "2020-01-03", "2020-03-01"]


@pytest.mark.parametrize(
    "stamps",
    [
        ("13/02/2020", "01/03/2020", "14/01/2020"),
        ("2020-02-13", "2020-03-01", "2020-01-14"),
        ("13.02.2020 10:00", "01.03.2020 09:30", "14.01.2020 23:59"),
        ("1581552000", "1583020800", "1578960000"),
        ("1581552000000", "1583020800000", "1578960000000"),
        ("Feb 13, 2020", "Mar 01, 2020", "Jan 14, 2020"),
        ("2020-02-13T10:00:00Z", "2020-03-01T10:00:00+02:00", "2020-01-14T10:00:00-0500"),
    ],
)
def test_dates_as_people_write_them(tmp_path: Path, stamps: tuple[str, ...]) -> None:
    rows = "".join(f'"{stamp}",{value}\n' for stamp, value in zip(stamps, (2, 3, 1), strict=True))
    panel = read_panel(csv(tmp_path, "Date,v\n" + rows), Columns(value=("v",)))
    assert panel.series[0].values.tolist() == [1, 2, 3]
    assert panel.series[0].labels[0].startswith("2020-01-14")


def test_date_and_time_in_two_columns(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "<DATE>,<TIME>,Close\n2020-01-02,10:05,3\n2020-01-02,10:00,2\n2020-01-01,23:00,1\n",
    )
    panel = read_panel(path, Columns(value=("Close",), time_feature=(TimeFeature.HOUR,)))
    assert panel.series[0].values.tolist() == [1, 2, 3]
    assert panel.series[0].beside.tolist() == [[23], [10], [10]]


GAPS = "Date,v,w\n2020-01-02,1,5\n2020-01-03,2,null\n2020-01-07,3,7\n2020-01-08,4,8\n"


def test_gaps_are_reported_and_taken_as_one_step(tmp_path: Path) -> None:
    panel = read_panel(csv(tmp_path, GAPS), Columns(value=("v",), feature=("w",)))
    assert panel.series[0].values.tolist() == [1, 3, 4]
    assert notes(panel) == {
        "times in 'Date'": 4,
        "read as no value": 1,
        "dropped: no value": 1,
        "not there: each gap is taken as one step": 2,  # Friday 3rd, and Monday 6th
    }


def test_gaps_are_filled_forward_when_asked(tmp_path: Path) -> None:
    columns = Columns(value=("v",), feature=("w",), fill=Fill.FORWARD)
    panel = read_panel(csv(tmp_path, GAPS), columns)
    (series,) = panel.series
    assert series.values.tolist() == [1, 2, 2, 3, 4]
    assert series.beside[:, 0].tolist() == [5, 5, 5, 7, 8]
    assert series.labels[2] == "2020-01-06"  # the weekend is no gap
    assert notes(panel) == {
        "times in 'Date'": 4,
        "read as no value": 1,
        "filled with the last value: no value": 1,
        "filled with the last value: no row": 1,
    }


def test_gaps_between_intraday_rows(tmp_path: Path) -> None:
    stamps = [f"2020-01-02 10:{minute:02d}" for minute in (0, 5, 10, 20, 25, 30)]
    text = "time,v\n" + "".join(f"{stamp},{place}\n" for place, stamp in enumerate(stamps))
    panel = read_panel(csv(tmp_path, text), Columns(value=("v",), fill=Fill.FORWARD))
    assert panel.series[0].values.tolist() == [0, 1, 2, 2, 3, 4, 5]
    rare = text + "2029-01-01 00:00,9\n"
    with pytest.raises(DataError, match="filling every step of 0 days 00:05:00 would make"):
        read_panel(csv(tmp_path, rare), Columns(value=("v",), fill=Fill.FORWARD))


def test_several_columns_are_several_series(tmp_path: Path) -> None:
    path = csv(tmp_path, "Date,A,B\n2020-01-02,1,\n2020-01-01,2,5\n2020-01-03,3,6\n")
    panel = read_panel(path, Columns(value=("A", "B")))
    assert {series.name: series.values.tolist() for series in panel.series} == {
        "A": [2, 1, 3],
        "B": [5, 6],
    }


def test_long_form_is_told_apart_by_a_column(tmp_path: Path) -> None:
    rows = "2020-01-02,X,2\n2020-01-01,Y,10\n2020-01-01,X,1\n2020-01-02,Y,20\n2020-01-03,,9\n"
    path = csv(tmp_path, "Date,ticker,Close\n" + rows)
    panel = read_panel(path, Columns(value=("Close",), series_column="ticker"))
    assert {series.name: series.values.tolist() for series in panel.series} == {
        "X": [1, 2],
        "Y": [10, 20],
    }
    assert notes(panel)["dropped: no 'ticker'"] == 1


@pytest.mark.parametrize(
    "text", ["1.5,2\n3,4.25\n", "1.5 2\n3   4.25\n", "1.5\t2\n3\t4.25\n", "1.5;2\n3;4.25"]
)
def test_numbers_without_a_header(tmp_path: Path, text: str) -> None:
    path = tmp_path / "numbers.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    panel = read_panel(path, Columns())
    assert {series.name: series.values.tolist() for series in panel.series} == {
        "1": [1.5, 3],
        "2": [2, 4.25],
    }
    assert panel.series[0].labels == ("line 1", "line 2")
    assert read_panel(path, Columns(value=("2",))).series[0].values.tolist() == [2, 4.25]


@pytest.mark.parametrize(
    ("name", "columns", "rows", "expected"),
    [
        ("MRF.NS.csv", {"value": ("Close",)}, 4359, {"dropped: no value": 43}),
        (
            "INFY.NS.csv",
            {"value": ("Close",), "feature": ("Volume", "Open")},
            5968,
            {"dropped: no value": 129, "kept, but look: a jump taken back at once": 2},
        ),
        (
            "tesla-stock-price.csv",
            {"value": ("volume",)},
            756,
            {"dropped: no date": 1, "sorted by 'date'": 756},
        ),
        ("exchange_rate.txt.gz", {}, 7588, {"no header": 7588}),
    ],
)
def test_real_files(
    name: str, columns: dict[str, Any], rows: int, expected: dict[str, int]
) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine; it is not part of the project")
    panel = read_panel(path, Columns(**columns))
    assert {len(series.values) for series in panel.series} == {rows}
    assert expected.items() <= notes(panel).items()
    for series in panel.series:
        assert list(series.labels) == sorted(series.labels) or name.startswith("exchange")


def test_synthetic_prices_are_repeatable_and_have_changing_volatility(tmp_path: Path) -> None:
    prices = synthetic_prices(4000, seed=3)["Close"].to_numpy()
    assert (prices > 0).all()
    changes = np.abs(np.diff(np.log(prices)))
    assert np.corrcoef(changes[1:], changes[:-1])[0, 1] > 0.1
    write_csv(tmp_path / "made.csv", 4000, seed=3)
    panel = read_panel(tmp_path / "made.csv", Columns())  # one column of numbers, beside the date
    np.testing.assert_array_equal(panel.series[0].values, prices)
    assert notes(panel) == {"times in 'Date'": 4000}
