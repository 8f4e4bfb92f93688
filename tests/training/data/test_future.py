"""What stands beside the steps ahead, read from files and by the calendar."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.series.columns import Columns, TimeFeature
from training.data.series.future import Future, calendar_future, read_future
from training.data.series.reading import read_panel
from training.errors import DataError

BOTH = Columns(value=("y",), feature=("a", "b"))
DAYS = [f"2024-03-{day:02}" for day in range(1, 32)]


def table(rows: list[tuple[Any, ...]], *names: str) -> str:
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n"


class Files:
    """A file of the past and one of the future, read as one would read them."""

    def __init__(self, folder: Path) -> None:
        self.past, self.ahead = folder / "past.csv", folder / "ahead.csv"

    def read(self, past: str, ahead: str, *, columns: Columns = BOTH, horizon: int = 4) -> Future:
        self.past.write_text(past)
        self.ahead.write_text(ahead)
        return read_future(self.ahead, read_panel(self.past, columns), columns, horizon=horizon)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


PAST = table([(day, 5, n, -n) for n, day in enumerate(DAYS[:20])], "date", "y", "a", "b")
AHEAD = [(day, 100 + n, -n) for n, day in enumerate(DAYS[20:])]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (table(AHEAD, "date", "a", "b"), 4),
        (table(AHEAD[::-1], "date", "a", "b"), 4),
        (table(AHEAD[:3], "date", "a", "b"), 3),
        (table([row[:0:-1] for row in AHEAD], "b", "a"), 4),
        (
            table([(day, n, -n) for n, day in enumerate(DAYS[:20])] + AHEAD, "date", "a", "b"),
            4,
        ),
    ],
)
def test_rows_behind_the_end_are_the_future(files: Files, text: str, steps: int) -> None:
    future = files.read(PAST, text)
    assert future.beside[0].tolist() == [[100 + n, -n] for n in range(steps)]
    told = next(note for note in future.notes if note.what == "future of a, b")
    assert told.rows == steps
    assert "ahead.csv" in told.detail


def test_a_file_without_dates_is_told_by_its_lines(files: Files) -> None:
    future = files.read(PAST, table([row[1:] for row in AHEAD], "a", "b"))
    assert [note.detail for note in future.notes if note.what == "future of a, b"] == [
        "line 2 to line 5 of ahead.csv"
    ]


@pytest.mark.parametrize(
    ("ahead", "message"),
    [
        (table(AHEAD[:2], "date", "a", "b"), "2 rows behind 2024-03-20, but --horizon 4 needs 3"),
        (PAST, "0 rows behind 2024-03-20"),
        (table(AHEAD, "date", "a", "c"), "no column 'b'"),
        (table(AHEAD[1:], "date", "a", "b"), "2024-03-22: 2 days 00:00:00 after the row before"),
        (table([*AHEAD[:2], *AHEAD[3:]], "date", "a", "b"), "2024-03-24: 2 days"),
        (table([*AHEAD[:2], (DAYS[22], "", 1), *AHEAD[3:]], "date", "a", "b"), "2024-03-24: 2 d"),
        (table([(1, 2), ("", 2), (3, 4), (5, 6), (7, 8)], "a", "b"), "line 3: a feature has no"),
        (table([(1, 2), ("x", 2), (3, 4)], "a", "b"), "'x' is not a number"),
    ],
)
def test_a_future_that_leaves_a_step_out_is_refused(files: Files, ahead: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.read(PAST, ahead)


def test_steps_that_the_series_has_had_are_taken(files: Files) -> None:
    past = [day for n, day in enumerate(DAYS[:15]) if n % 7 not in (1, 2)]  # Fridays to Mondays
    text = table([(day, 5, n, n) for n, day in enumerate(past)], "date", "y", "a", "b")
    ahead = [
        row for row in [(day, n, n) for n, day in enumerate(DAYS[15:])] if row[1] not in (0, 1)
    ]
    with pytest.raises(DataError, match="2024-03-19: 2 days"):
        files.read(text, table(ahead[1:], "date", "a", "b"))
    assert files.read(text, table(ahead, "date", "a", "b")).beside[0][0].tolist() == [2, 2]


def test_each_series_has_its_own_future(files: Files) -> None:
    columns = Columns(value=("y",), feature=("a",), series_column="name")
    past = [(day, name, 5, 1) for day in DAYS[:9] for name in ("p", "q")]
    ahead = [(day, name, n) for day in DAYS[9:14] for n, name in enumerate(("q", "p"))]
    text = table(past, "date", "name", "y", "a")
    future = files.read(text, table(ahead, "date", "name", "a"), columns=columns)
    assert [beside[0, 0] for beside in future.beside] == [1, 0]
    only_q = [row for row in ahead if row[1] == "q"]
    with pytest.raises(DataError, match="no rows of series 'p'"):
        files.read(text, table(only_q, "date", "name", "a"), columns=columns)


def test_commas_mean_what_they_do_in_the_series(files: Files) -> None:
    columns = Columns(value=("y",), feature=("a",))
    past = "y;a\n" + "1,5;2,25\n" * 20
    future = files.read(past, "a;z\n1,234;0\n1,235;0\n1,236;0\n", columns=columns)
    assert future.beside[0][:, 0].tolist() == [1.234, 1.235, 1.236]


@pytest.mark.parametrize(
    ("start", "step", "after"),
    [
        ("2024-03-01T00:00", np.timedelta64(6, "h"), [0, 6, 12]),
        ("2024-03-01T03:00", np.timedelta64(25, "h"), [23, 0, 1]),
    ],
)
def test_the_calendar_goes_on(
    tmp_path: Path, start: str, step: np.timedelta64, after: list[int]
) -> None:
    stamps = np.datetime64(start) + np.arange(20) * step
    path = tmp_path / "past.csv"
    path.write_text(table([(stamp, 5) for stamp in stamps], "date", "y"))
    columns = Columns(value=("y",), time_feature=(TimeFeature.HOUR,))
    future = calendar_future(read_panel(path, columns), horizon=3)
    assert future is not None
    assert future.beside[0][:, 0].tolist() == after
    assert future.notes[0].what == "future of hour"


def test_a_calendar_of_weekdays_and_one_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "past.csv"
    columns = Columns(value=("y",), time_feature=(TimeFeature.WEEKDAY,))
    days = [day for n, day in enumerate(DAYS[:29]) if n % 7 not in (1, 2)]  # ends on a Friday
    path.write_text(table([(day, 5) for day in days], "date", "y"))
    future = calendar_future(read_panel(path, columns), horizon=6)
    assert future is not None
    assert future.beside[0][:, 0].tolist() == [0, 1, 2, 3, 4, 0]
    holes = [day for n, day in enumerate(DAYS) if n not in (4, 5, 11)]
    path.write_text(table([(day, 5) for day in holes], "date", "y"))
    assert calendar_future(read_panel(path, columns), horizon=6) is None
