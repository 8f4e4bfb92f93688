"""The kinds of files that people have: each is understood, and said to be, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.notes import hearing
from training.data.series.columns import Columns, Fill, Layout, TimeFeature
from training.data.series.panel import Panel
from training.data.series.reading import read_panel
from training.errors import DataError

DAYS = [f"2021-03-{day:02}" for day in range(1, 31)]


def panel_of(tmp_path: Path, text: str, **columns: Any) -> Panel:
    path = tmp_path / "some.csv"
    path.write_text(text, encoding="utf-8")
    return read_panel(path, Columns(**columns))


def detail(panel: Panel, what: str) -> str:
    """The detail of the note that begins so; empty where there is none."""
    return next((note.detail for note in panel.notes if note.what.startswith(what)), "")


def table(header: str, rows: list[str], *, between: str = "\n") -> str:
    return header + "\n" + between.join(rows) + "\n"


# ---- time ----


@pytest.mark.parametrize(
    ("header", "write", "form"),
    [
        ("Trading Date,v", lambda day: f"{day[8:]}-{day[5:7]}-{day[:4]}", "%d-%m-%Y"),
        (",v", lambda day: f"{day[8:]}.{day[5:7]}.{day[:4]} 18.00.00", "%d.%m.%Y %H.%M.%S"),
        ("trade_date,v", lambda day: day.replace("-", ""), "%Y%m%d"),
        ("Local time,v", lambda day: f"{day} 00:00:00 UTC", "%Y-%m-%d %H:%M:%S"),
        ("x,v", lambda day: f'"March {int(day[8:])}, 2021"', "%b %d %Y"),
        ("Datum,v", lambda day: f"{int(day[8:])}. März 2021", "%d %b %Y"),
        ("x,v", lambda day: f"{day[8:]}MAR21", "%d %b %y"),
        ("x,v", lambda day: f"3/{int(day[8:])}/21 12:00 AM", "%m/%d/%y %I:%M %p"),
        ("Open time,v", lambda day: str(1614556800 + 86400 * int(day[8:])), "s since 1970"),
    ],
)
def test_newest_first_in_any_form_is_sorted(
    tmp_path: Path, header: str, write: Callable[[str], str], form: str
) -> None:
    rows = [f"{write(day)},{place}" for place, day in enumerate(DAYS)]
    panel = panel_of(tmp_path, table(header, rows[::-1]), value=("v",))
    assert panel.series[0].values.tolist() == list(range(30))
    assert f"read as {form}" in detail(panel, "times in")
    assert detail(panel, "sorted by") == "the file was newest first"


@pytest.mark.parametrize(
    ("stamps", "labels"),
    [
        (["2020Q4", "2021Q1", "2021Q2"], ("2020-10-01", "2021-01-01", "2021-04-01")),
        (["Q4 2020", "Q1 2021", "Q2 2021"], ("2020-10-01", "2021-01-01", "2021-04-01")),
        (["2020-W53", "2021-W01"], ("2020-12-28", "2021-01-04")),
        (["Dec-20", "Jan-21"], ("2020-12-01", "2021-01-01")),
        (["Nov-68", "Dec-68", "Jan-69"], ("1968-11-01", "1968-12-01", "1969-01-01")),
        (["2020M12", "2021M01"], ("2020-12-01", "2021-01-01")),
        (["1998", "1999", "2000"], ("1998-01-01", "1999-01-01", "2000-01-01")),
        (["2021-03-01T09", "2021-03-01T23"], ("2021-03-01 09:00:00", "2021-03-01 23:00:00")),
        (["2021-03-01 09Z", "2021-03-01 23Z"], ("2021-03-01 09:00:00", "2021-03-01 23:00:00")),
        (
            ["30.12.2020 23", "31.12.2020 23", "01.01.2021 00", "02.01.2021 00"],
            tuple(
                f"{hour}:00:00"
                for hour in ("2020-12-30 23", "2020-12-31 23", "2021-01-01 00", "2021-01-02 00")
            ),
        ),
        (["202053", "202101"], ("2020-12-28", "2021-01-04")),
        (["2021-03-01 23:00", "2021-03-01 24:00"], ("2021-03-01 23:00:00", "2021-03-02 00:00:00")),
    ],
)
def test_periods_and_odd_clocks(tmp_path: Path, stamps: list[str], labels: tuple[str]) -> None:
    rows = [f"{stamp},{place}" for place, stamp in enumerate(stamps)]
    panel = panel_of(tmp_path, table("date,v", rows[::-1]), value=("v",))
    assert panel.series[0].labels == labels


@pytest.mark.parametrize(
    ("header", "write"),
    [
        ("Month", lambda place: f"{1 + place // 12}-{place % 12 + 1:02}"),
        ("Week", lambda place: f"Week {place + 1}"),
        ("Period", lambda place: f"{1990 + place // 2}H{place % 2 + 1}"),
        ("fiscal_year", lambda place: f"FY{1990 + place}/{(91 + place) % 100:02}"),
    ],
)
def test_periods_that_nobody_reads_are_refused(
    tmp_path: Path, header: str, write: Callable[[int], str]
) -> None:
    rows = [f"{write(place)},{place}" for place in range(30)]
    text = table(f"{header},v", rows[::-1])
    with pytest.raises(DataError, match=rf"'{header}' is named like dates.*line 2.*--date none"):
        panel_of(tmp_path, text, value=("v",))
    assert panel_of(tmp_path, text, value=("v",), date="none").series[0].values[0] == 29


def test_days_begin_where_they_were_written_in_summer_and_winter(tmp_path: Path) -> None:
    days = ["26 00:00:00+01:00", "29 00:00:00+02:00", "30 00:00:00+02:00", "31 00:00:00+02:00"]
    rows = [f"2021-03-{day},{place}" for place, day in enumerate(days)]
    told = {"value": ("v",), "time_feature": (TimeFeature.WEEKDAY,)}
    panel = panel_of(tmp_path, table("Date,v", rows), **told)
    assert panel.series[0].labels == ("2021-03-26", "2021-03-29", "2021-03-30", "2021-03-31")
    assert panel.series[0].beside[:, 0].tolist() == [4, 0, 1, 2]
    assert "local time, of offsets +01:00, +02:00" in detail(panel, "times in")


def test_hours_around_a_change_of_the_clock_are_in_utc(tmp_path: Path) -> None:
    hours = ["00:00:00+02:00", "01:00:00+02:00", "02:00:00+02:00", "02:00:00+01:00"]
    rows = [f"2021-10-31 {hour},{place}" for place, hour in enumerate(hours)]
    panel = panel_of(tmp_path, table("Date,v", rows), value=("v",))
    assert panel.series[0].values.tolist() == [0, 1, 2, 3]
    assert panel.series[0].labels[0] == "2021-10-30 22:00:00"
    assert detail(panel, "not there") == ""


def test_seconds_from_the_start(tmp_path: Path) -> None:
    panel = panel_of(tmp_path, "time,v\n1.5,4\n0,1\n0.5,2\n1,3\n")
    (series,) = panel.series
    assert series.values.tolist() == [1, 2, 3, 4]
    assert list(series.labels) == ["0", "0.5", "1", "1.5"]
    assert list(series.ahead(2)) == ["2", "2.5"]
    with pytest.raises(DataError, match="'time' counts from a start"):
        panel_of(tmp_path, "time,v\n0,1\n1,2\n2,3\n", time_feature=(TimeFeature.HOUR,))


@pytest.mark.parametrize(
    "text",
    [
        "Date,Hour,v\n2021-03-01,1,2\n2021-03-01,0,1\n2021-03-02,0,3\n",
        "<DATE>,<TIME>,v\n20210301,010000,2\n20210301,000000,1\n20210302,000000,3\n",
        "Date,Time,v\n01/03/2021,01.00.00,2\n01/03/2021,00.00.00,1\n13/03/2021,00.00.00,3\n",
        "year,month,day,hour,v\n2021,3,1,1,2\n2021,3,1,0,1\n2021,3,2,0,3\n",
        "Year,DOY,hour,v\n2021,60,1,2\n2021,60,0,1\n2021,61,0,3\n",
    ],
)
def test_times_in_several_columns(tmp_path: Path, text: str) -> None:
    (series,) = panel_of(tmp_path, text, value=("v",)).series
    assert series.values.tolist() == [1, 2, 3]
    assert series.labels[:2] == ("2021-03-01 00:00:00", "2021-03-01 01:00:00")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("timestamp,v\n20000000,1\n20000001,2\n20000002,3\n", {}, "'timestamp' is named like date"),
        ("id,when,v\n1,um 3 Uhr am 5.6.21,1\n2,um 4 Uhr am 6.6.21,2\n", {}, "'when' looks like da"),
        ("a,v\nx,2\ny,4\n", {"date": "a", "value": ("v",)}, "no dates in column 'a'.*--date-form"),
        ("1998,1.5\n1999,2.5\n2000,3\n", {}, "column '1' may be times .%Y., or numbers"),
        ("v\n1\n2\n", {"fill": Fill.FORWARD}, "--fill forward needs dates"),
        (
            table("Date,v", ["2021-01-01,1"] * 3 + [f"{day},2" for day in DAYS[:20]] + ["x,1"] * 2),
            {},
            "no form of them fits 95%",
        ),
        ("ordered,shipped,v\n2021-01-01,2021-02-05,1\n2021-01-02,2021-02-04,2\n", {}, "'ordered'"),
        (table("Date,v", [f"{day},1" for day in DAYS[:10] * 2]), {}, "are these several series"),
    ],
)
def test_times_that_are_refused(
    tmp_path: Path, text: str, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        panel_of(tmp_path, text, **columns)


def test_what_is_refused_is_read_when_somebody_says_how(tmp_path: Path) -> None:
    text = "timestamp,v\n20000002,1\n20000001,2\n20000000,3\n"
    panel = panel_of(tmp_path, text, date="none", value=("v",))
    assert panel.series[0].values.tolist() == [1, 2, 3]
    assert detail(panel, "no dates found, file order taken") == "--date none"
    text = "d,v\nam 05.06.21,2\nam 04.06.21,1\n"
    panel = panel_of(tmp_path, text, date="d", date_form="am %d.%m.%y")
    assert panel.series[0].values.tolist() == [1, 2]


def test_a_file_without_dates_says_so(tmp_path: Path) -> None:
    panel = panel_of(tmp_path, "v\n3\n1\n2\n")
    assert panel.series[0].values.tolist() == [3, 1, 2]
    assert detail(panel, "no dates found, file order taken") == "--date names the column of dates"
    assert list(panel.series[0].ahead(2)) == ["", ""]


def test_zones_are_told_of(tmp_path: Path) -> None:
    text = "t,v\n2021-03-28T01:00:00+01:00,1\n2021-03-28T03:00:00+02:00,2\n"
    panel = panel_of(tmp_path, text)
    assert list(panel.series[0].labels) == ["2021-03-28 00:00:00", "2021-03-28 01:00:00"]
    assert "times are in UTC, of offsets +01:00, +02:00" in detail(panel, "times in")
    panel = panel_of(tmp_path, text.replace("+02", "+01"), time_feature=(TimeFeature.HOUR,))
    assert panel.series[0].beside[:, 0].tolist() == [1, 3]  # as they are written
    assert "times are at +01:00" in detail(panel, "times in")


@pytest.mark.parametrize(
    ("stamps", "ahead"),
    [
        (["2021-01-31", "2021-02-28", "2021-03-31"], ["2021-04-30", "2021-05-31"]),
        (["2021-01-15", "2021-02-15", "2021-03-15"], ["2021-04-15", "2021-05-15"]),
        (["2021-03-24", "2021-03-25", "2021-03-26"], ["2021-03-29", "2021-03-30"]),
        (
            ["2021-03-24 16:00", "2021-03-25 16:00", "2021-03-26 16:00"],
            ["2021-03-29 16:00:00", "2021-03-30 16:00:00"],
        ),
        (["1700000000.5", "1700000010.5", "1700000020.5"], ["2023-11-14 22:13:50.500000"]),
        (["2021-01-01", "2021-02-07", "2021-06-01", "2021-06-09"], ["", ""]),
    ],
)
def test_the_times_of_what_is_forecast(tmp_path: Path, stamps: list[str], ahead: list[str]) -> None:
    rows = [f"{stamp},{place}" for place, stamp in enumerate(stamps)]
    panel = panel_of(tmp_path, table("date,v", rows))
    assert list(panel.series[0].ahead(len(ahead))) == ahead


def test_weekdays_are_filled_at_their_time_of_the_day(tmp_path: Path) -> None:
    days = ["2021-03-24", "2021-03-25", "2021-03-29", "2021-03-30"]
    rows = [f"{day} 16:00,{place}" for place, day in enumerate(days)]
    (series,) = panel_of(tmp_path, table("date,v", rows), fill=Fill.FORWARD).series
    assert series.values.tolist() == [0, 1, 1, 2, 3]
    assert series.labels[2] == "2021-03-26 16:00:00"


def test_months_are_filled_as_months(tmp_path: Path) -> None:
    text = "date,v\n2021-01-01,1\n2021-02-01,2\n2021-03-01,3\n2021-05-01,5\n"
    (series,) = panel_of(tmp_path, text, fill=Fill.FORWARD).series
    assert series.values.tolist() == [1, 2, 3, 3, 5]
    assert series.labels[3] == "2021-04-01"


# ---- layouts ----


def test_what_yfinance_writes(tmp_path: Path) -> None:
    one = "Price,Close,Open\nTicker,MSFT,MSFT\nDate,,\n2021-01-05,2,20\n2021-01-04,1,10\n"
    (series,) = panel_of(tmp_path, one, value=("Close",), feature=("Open",)).series
    assert (series.values.tolist(), series.beside[:, 0].tolist()) == ([1, 2], [10, 20])
    several = "Price,Close,Close\nTicker,A,B\nDate,,\n2021-01-05,2,20\n2021-01-04,1,\n"
    panel = panel_of(tmp_path, several, value=("Close",))
    assert {each.name: each.values.tolist() for each in panel.series} == {"A": [1, 2], "B": [20]}
    assert detail(panel, "series told apart by 'Ticker'") == "2 series"


LONG = "2021-01-04,1,A\n2021-01-05,2,A\n2021-01-04,10,B\n2021-01-05,20,B\n"


@pytest.mark.parametrize(
    "text", [f"date,v,Name\n{LONG}", f"when,v,who\n{LONG}", "v,who\n1,A\n2,A\n10,B\n20,B\n"]
)
def test_long_form_is_refused_by_the_column_that_tells_series_apart(
    tmp_path: Path, text: str
) -> None:
    name = "who" if "who" in text else "Name"
    with pytest.raises(DataError, match=f"names 2 series .* --series-column {name}"):
        panel_of(tmp_path, text, value=("v",))
    panel = panel_of(tmp_path, text, value=("v",), series_column=name)
    assert {each.name: each.values.tolist() for each in panel.series} == {
        "A": [1, 2],
        "B": [10, 20],
    }


def test_one_series_per_row(tmp_path: Path) -> None:
    steps = ",".join(f"V{step}" for step in range(1, 32))
    rows = [f"{name}," + ",".join(map(str, range(size))) for name, size in (("a", 30), ("b", 22))]
    panel = panel_of(tmp_path, table(steps, rows))
    assert {each.name: each.values.tolist() for each in panel.series} == {
        "a": list(range(30)),
        "b": list(range(22)),
    }
    assert "22 to 30 steps" in detail(panel, "one series per row")
    assert [each.name for each in panel_of(tmp_path, table(steps, rows), value=("b",)).series] == [
        "b"
    ]
    dated = 'Country,Code,2019,2020,2021\nX,x,1,2,3\n"Y, z",y,4,..,6\n'
    first, second = panel_of(tmp_path, dated).series
    assert (first.name, first.labels) == ("X", ("2019-01-01", "2020-01-01", "2021-01-01"))
    assert second.values.tolist() == [4, 6]


def test_rows_of_names_without_a_header_are_refused_until_somebody_says(tmp_path: Path) -> None:
    text = "".join(f"{name}," + ",".join(map(str, range(9, 50, 2))) + "\n" for name in "ab")
    with pytest.raises(DataError, match="--layout rows, or --layout columns"):
        panel_of(tmp_path, text)
    assert len(panel_of(tmp_path, text, layout=Layout.ROWS).series) == 2


def test_a_first_row_that_happens_to_count_is_a_row(tmp_path: Path) -> None:
    panel = panel_of(tmp_path, "1,2,3\n5,1,4\n2,6,6\n7,7,1\n")
    assert [series.values.tolist()[0] for series in panel.series] == [1, 2, 3]


def test_one_series_per_column_and_all_of_them(tmp_path: Path) -> None:
    rows = [f'"{day} 00:15:00";{place};{place},5' for place, day in enumerate(DAYS)]
    text = table('"";"MT_001";"MT_002"', rows[::-1])
    panel = panel_of(tmp_path, text, value=("all",))
    assert [each.name for each in panel.series] == ["MT_001", "MT_002"]
    assert panel.series[1].values[:2].tolist() == [0.5, 1.5]
    assert detail(panel, "read with a decimal comma") == "for example '29,5'"
    wide = ",".join(f"c{place}" for place in range(1000)) + "\n" + ",".join(["1"] * 1000) + "\n"
    with pytest.raises(DataError) as caught:
        panel_of(tmp_path, wide)
    assert len(str(caught.value)) < 500


def test_a_file_of_candles_without_a_header(tmp_path: Path) -> None:
    rows = [
        f"{1609718400000 + 60_000 * row},{100 + row % 7}.5,{row},{1609718459999 + 60_000 * row},0"
        for row in range(20)
    ]
    panel = panel_of(tmp_path, "\n".join(rows[::-1]))
    assert [each.name for each in panel.series] == ["2"]
    assert panel.series[0].labels[0] == "2021-01-04 00:00:00"
    assert panel.series[0].values[:2].tolist() == [100.5, 101.5]
    assert detail(panel, "not series: columns of times") == "4"
    assert detail(panel, "not series: one value in all rows") == "columns 5"


@pytest.mark.parametrize(
    "before",
    [
        "sep=;\n",
        "https://data.example/prices\n",
        "# made by hand\n# twice\n",
        '"Data Source";"World"\n\n"Last Updated Date";"2024-01-01"\n\n',
        "\n\n",
    ],
)
@pytest.mark.parametrize("after", ["", "\nSource: somebody\n", ";;\n"])
def test_lines_around_a_table(tmp_path: Path, before: str, after: str) -> None:
    rows = [f"{day};{place}.5;" for place, day in enumerate(DAYS[:5])]
    panel = panel_of(tmp_path, before + table("Day;v;", rows) + after, value=("v",))
    assert panel.series[0].values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert bool(detail(panel, "left out: lines before")) == bool(before.strip())


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_a_first_line_that_names_the_separator(tmp_path: Path, separator: str) -> None:
    text = f"sep={separator}\nDatum{separator}v\n" + "".join(
        f"{day}{separator}{place}\n" for place, day in enumerate(DAYS[:5])
    )
    panel = panel_of(tmp_path, text)
    assert [each.name for each in panel.series] == ["v"]
    assert panel.series[0].values.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="line 4, column 'v': 'x'"):
        panel_of(tmp_path, text.replace(f"{separator}1\n", f"{separator}x\n"), value=("v",))


def test_several_columns_of_several_series_have_names_of_both(tmp_path: Path) -> None:
    rows = [f"{day},{name},1,2" for name in ("A", "B") for day in DAYS[:3]]
    text = table("Date,Ticker,Open,Close", rows)
    panel = panel_of(tmp_path, text, value=("Open", "Close"), series_column="Ticker")
    names = [each.name for each in panel.series]
    assert names == ["A Open", "A Close", "B Open", "B Close"]


def test_dates_side_by_side_may_stand_behind_coordinates(tmp_path: Path) -> None:
    days = [f"1/{day}/20" for day in range(20, 30)]
    rows = [f",{name},1.5,-2,{','.join(map(str, range(10)))}" for name in ("Chad", "Peru")]
    header = f"Province,Country,Lat,Long,{','.join(days)}"
    panel = panel_of(tmp_path, table(header, rows), layout=Layout.AUTO)
    assert [each.name for each in panel.series] == ["Chad", "Peru"]
    assert panel.series[1].values.tolist() == list(range(10))
    assert panel.series[1].labels[0] == "2020-01-20"


def test_what_is_merged_of_notes_is_not_heard_again(tmp_path: Path) -> None:
    with hearing() as heard:
        panel_of(tmp_path, table("Date,v", [f"{day},1" for day in DAYS[::-1]]), value=("v",))
    assert len({note.what for note in heard}) == len(heard) > 1


def test_names_that_are_there_twice_matter_only_where_they_are_wanted(tmp_path: Path) -> None:
    text = "Date,x,v,x\n2021-01-02,1,2,3\n2021-01-01,4,5,6\n"
    assert panel_of(tmp_path, text, value=("v",)).series[0].values.tolist() == [5, 2]
    with pytest.raises(DataError, match="two columns are named 'x'"):
        panel_of(tmp_path, text, value=("x",))


# ---- numbers ----


@pytest.mark.parametrize(
    ("fields", "values", "said"),
    [
        (["$1,234.50", "$0.99"], [1234.5, 0.99], "read without the currency: $"),
        (["5.5%", "-3%"], [5.5, -3], "read without the %"),
        (["1.2K", "3M", "2.5B"], [1200, 3e6, 2.5e9], "read with units: B, K, M"),
        (["(1.5)", "2.5"], [-1.5, 2.5], "read as negative: numbers in brackets"),
        (["\u22121.5", "2.5"], [-1.5, 2.5], ""),
        (["12,34,567.5", "1,00,000"], [1234567.5, 100000], "read with commas between thousands"),
        (["1'234.5", "12"], [1234.5, 12], ""),
        (["1.234,5 €", "2,5 €"], [1234.5, 2.5], "read with a decimal comma"),
        (["1", ".", "?", "-", "NA", "..", "2"], [1, 2], "read as no value"),
    ],
)
def test_numbers_with_things_around_them(
    tmp_path: Path, fields: list[str], values: list[float], said: str
) -> None:
    rows = [f"{day};{field}" for day, field in zip(DAYS, fields, strict=False)]
    panel = panel_of(tmp_path, table("Date;v", rows), value=("v",))
    np.testing.assert_allclose(panel.series[0].values, values)
    assert any(note.what.startswith(said) for note in panel.notes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["5%", "0.05"], "is in per cent and '0.05' in line 3 is not"),
        (["$5", "€5"], "are two currencies"),
        (["1.5", "about 2"], "line 3, column 'v': 'about 2' is not a number.*--missing"),
        (["1.012", "987"], "is line 2, column 'v': '1.012' more than a thousand"),
    ],
)
def test_numbers_that_are_refused(tmp_path: Path, fields: list[str], message: str) -> None:
    rows = [f"{day},{field}" for day, field in zip(DAYS, fields, strict=False)]
    with pytest.raises(DataError, match=message):
        panel_of(tmp_path, table("Date,v", rows), value=("v",))


def test_numbers_that_may_stand_for_none_are_told_of(tmp_path: Path) -> None:
    fields = ["1.5", "2", "-200", "2.5", "-200.0", "3", "3.5", "-200", "4", "4.5"]
    rows = [f"{day},{field}" for day, field in zip(DAYS, fields, strict=False)]
    panel = panel_of(tmp_path, table("Date,v", rows))
    assert len(panel.series[0].values) == 10
    assert "--missing -200 takes it for none" in detail(panel, "kept, but look: -200 may stand")
    panel = panel_of(tmp_path, table("Date,v", rows), missing=("-200", "x"))
    assert panel.series[0].values.tolist() == [1.5, 2, 2.5, 3, 3.5, 4, 4.5]
    assert "--missing x: found nowhere" in [note.what for note in panel.notes]
