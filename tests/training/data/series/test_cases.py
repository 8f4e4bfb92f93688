"""Files that once went wrong, where they are on the machine; they are not part of the project."""

from pathlib import Path
from typing import Any

import pytest

from training.data.series.columns import Columns, Fill
from training.data.series.reading import read_panel
from training.errors import DataError

CASES = Path(__file__).parents[5] / "shared" / "cases" / "training"


def shared(name: str) -> Path:
    path = CASES / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{name} is not on this machine; it is not part of the project")
    return path


@pytest.mark.parametrize("name", ["dash_dmy_newest", "datum_newest", "wordy_newest", "nasdaq"])
def test_cases_that_are_newest_first(name: str) -> None:
    panel = read_panel(shared(name), Columns(value=("Close/Last",) if name == "nasdaq" else ()))
    (series,) = panel.series
    assert (series.labels[0], series.labels[-1]) == ("2021-01-04", "2022-08-26")
    assert (series.values[0], series.values[-1]) == (101.35, 164.16)


@pytest.mark.parametrize(
    ("name", "columns", "rows", "first", "said"),
    [
        ("epoch_gap", {}, 2999, 10.0, "dropped: no date"),
        ("yf_multi", {"value": ("Close",)}, 430, 101.34717851827723, "times in 'Date'"),
        ("long", {"value": ("close",), "series_column": "Name"}, 430, 10.28, "series told apart"),
        ("minus200", {}, 1440, 2.0, "kept, but look: -200 may stand for no value"),
        ("minus200", {"missing": ("-200",)}, 1216, 2.0, "read as no value"),
        ("date_parts", {"value": ("pm",)}, 950, 50.0, "times in 'year' and 'month' and 'day' and"),
        ("series_per_row", {}, 800, 3363.5, "one series per row"),
        ("eumixed", {"value": ("A",)}, 300, 1.114, "read with a decimal comma"),
        ("worldbank", {}, 430, 101.35, "left out: lines before the table"),
        ("klines", {}, 600, 100.03705927655709, "no header"),
        ("fill_datum", {"fill": Fill.FORWARD}, 300, 20.0, "filled with the last value: no row"),
        ("newest_first", {}, 5, 101.0, "sorted by 'date'"),
    ],
)
def test_cases_that_are_read(
    name: str, columns: dict[str, Any], rows: int, first: float, said: str
) -> None:
    panel = read_panel(shared(name), Columns(**columns))
    assert (len(panel.series[0].values), panel.series[0].values[0]) == (rows, first)
    assert any(note.what.startswith(said) for note in panel.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("id_time", "column 'timestamp' is named like dates, and no form of them fits 95%"),
        ("long", "column 'Name' names 3 series .* --series-column Name"),
    ],
)
def test_cases_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_panel(shared(name), Columns(value=("close",) if name == "long" else ()))


def test_both_orders_of_a_file_are_the_same_series() -> None:
    panels = [read_panel(shared(name), Columns()) for name in ("newest_first", "oldest_first")]
    assert panels[0].sha256 == panels[1].sha256
    assert panels[0].series[0].ahead(1) == panels[1].series[0].ahead(1) == ("2026-01-06",)
