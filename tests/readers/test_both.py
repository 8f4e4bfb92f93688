"""The client reads a file as training does, or refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readers.both import Outcome, compare, run
from training.data.series.columns import Columns, TimeFeature

DAYS = [f"2024-0{month}-{day:02}" for month in (1, 2) for day in range(1, 15)]
ROWS = [f"{day},{100 + place % 7 + place / 4},{place % 3}" for place, day in enumerate(DAYS)]


def test_random_files() -> None:
    outcomes, wrong = run(cases=150, seed=0)
    assert wrong == []
    assert outcomes[Outcome.ALIKE] > 60


@pytest.mark.long
def test_many_random_files() -> None:
    _, wrong = run(cases=3000, seed=1000)
    assert wrong == []


def table(*rows: str, header: str = "date,y,x") -> str:
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (table(*ROWS), {}),
        (table(*ROWS[::-1]), {}),
        (table(*ROWS[5:], *ROWS[:5]), {}),
        (table(*ROWS), {"feature": ("x",)}),
        (table(*ROWS[::-1]), {"feature": ("x",), "time_feature": tuple(TimeFeature)}),
        (table(*[f"{row[:10]}T06:00:00+02:00{row[10:]}" for row in ROWS], header="ts,y,x"),
         {"time_feature": (TimeFeature.HOUR, TimeFeature.WEEKDAY)}),
        (table(*[row.replace(",", ";").replace(".", ",") for row in ROWS], header="date;y;x"), {}),
        (table(*[row.replace(",", "\t") for row in ROWS[::-1]], header="date\ty\tx"), {}),
        (table(*ROWS[:9], "2024-03-01,-,1", "2024-03-02,NA,1", "2024-03-03,,1", *ROWS[9:]), {}),
        (table(*ROWS, "2024-03-01,-999,1"), {"missing": ("-999",)}),
        (table(*[row[:-2] for row in ROWS], "2024-02-14,7", header="date,y"), {}),
        (table(*[row[8:10] + "/" + row[5:7] + "/" + row[:4] + row[10:] for row in ROWS[::-1]]), {}),
        (table(*[row[5:7] + "/" + row[8:10] + "/" + row[:4] + row[10:] for row in ROWS]),
         {"date_form": "month-first"}),
        (table(*[row[8:10] + "|" + row[5:7] + "|" + row[:4] + row[10:] for row in ROWS[::-1]]),
         {"date_form": "%d|%m|%Y"}),
        (table(*[row.replace("-", "") for row in ROWS[::-1]]), {}),
        (table(*[f"{1.7e9 + 3600 * place:.0f},{place},1" for place in range(20, 0, -1)],
               header="timestamp,y,x"), {}),
        (table(*ROWS[::-1]), {"date": "none"}),
        (table(*[f"2024,{1 + n // 28},{1 + n % 28},{n},1" for n in range(50, 0, -1)],
               header="year,month,day,y,x"), {}),
        (table(*[f"{row[:10]},{hour}:00{row[10:]}" for row in ROWS for hour in (12, 6)],
               header="Date,Time,y,x"), {}),
        (table(*[f"{place}.5,{place},1" for place in range(30, 0, -1)], header="t,y,x"), {}),
        (table(*[f"{row[:10]},{hour}.00.00{row[10:]}" for row in ROWS for hour in (12, 10)],
               header="Date,Time,y,x"), {}),
        ("# made by hand\n" + table(*ROWS) + "\nSource: somebody\n", {}),
        ("sep=;\n" + table(*[row.replace(",", ";") for row in ROWS], header="date;y;x"), {}),
        (table(*[f"{row[:11]}\"1,{100 + place}.5\",1" for place, row in enumerate(ROWS)]), {}),
        (table(*[f"{row[:11]}${place}.5,1" for place, row in enumerate(ROWS)]), {}),
    ],
)  # fmt: skip
def test_both_read_it_alike(text: str, columns: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text(text)
    assert compare(path, Columns(value=("y",), **columns)) == (Outcome.ALIKE, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (table(*ROWS[:3]).replace("2024-01-02", "02.01.2024"), "no dates that order the rows"),
        (table("1.234;1", "5.678;2", header="y;x"), "more than a thousand?"),
        (table("05/01/2024,1,1", "04/02/2024,2,1", "03/03/2024,3,1"), "the day or the month"),
        (table("a,1", "a,2", "b,3", "b,4", header="ticker,y"), "ticker"),
        (
            table(*[f"{row},{row[:10]}" for row in ROWS[::-1]]).replace("y,x", "y,x,2024"),
            "each row",
        ),
        (table(*[row.replace(",", ";") for row in ROWS]).replace("date,y,x", "2024;1;2"), ""),
    ],
)
def test_what_is_not_clear_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text(text)
    outcome, told = compare(path, Columns(value=("y",)))
    assert outcome in (Outcome.CLIENT_REFUSES, Outcome.BOTH_REFUSE)
    assert why in told
