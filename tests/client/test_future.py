"""What a forecast is told of the steps ahead: by the library, and by files of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.client.fake import FakeServer

# The model `wide` reads x, which it predicts, and y.


def table(**columns: list[Any]) -> Any:
    """A data frame where pandas is: the client does not need it."""
    try:
        import pandas as pd
    except ImportError:
        return columns
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    "future",
    [
        [5, 6, 7],
        [5, 6],  # the last one is not read
        [[5.0], [6.0]],
        np.array([5, 6, 7]),
        np.array([[5], [6]], np.float64),
        {"y": [5, 6]},
        {"z": ["no", "numbers"], "y": np.array([5, 6])},
        table(Date=["a", "b"], y=[5, 6]),
    ],
)
def test_a_future_in_every_form(future: Any, client: cellar.Client, server: FakeServer) -> None:
    assert client.model("wide").beside == ("y",)
    with client.session("wide") as session:
        before = session.step([1.0, 2.0]).raw
        assert before is not None
        forecast = session.forecast(3, future=future)
        assert (forecast.mean - before[0]).tolist() == [1, 5002, 6003]
        assert session.position == 1


async def test_a_future_of_an_asynchronous_session(server: FakeServer) -> None:
    async with (
        cellar.aio.connect(server.address) as client,
        client.session("wide") as session,
    ):
        await session.step([1.0, 2.0])
        first, last = (await session.forecast(2, future={"y": [3]})).mean
        assert last == first + 1 + 3000


@pytest.mark.parametrize(
    ("model", "future", "message"),
    [
        ("series", [], "reads nothing beside"),
        ("series", {"y": [1]}, "reads nothing beside"),
        ("wide", {"Y": [1]}, "no column 'y'"),
        ("wide", table(x=[1]), "no column 'y'"),
        ("wide", {"y": [[1, 2]]}, "all of one length"),
        ("wide", [[1, 2]], r"takes \(steps, 1\), not \(1, 2\)"),
        ("wide", [[1], [2, 3]], "differ in length"),
        ("wide", ["1"], "values are numbers"),
        ("wide", {"y": [True]}, "future, y: values are numbers, not bool"),
    ],
)
def test_a_misshapen_future_is_refused_unsent(
    model: str, future: Any, message: str, client: cellar.Client, server: FakeServer
) -> None:
    with client.session(model) as session:
        with pytest.raises(cellar.BadInputError, match=message) as caught:
            session.forecast(2, future=future)
        assert caught.value.field == "future"
        assert server.calls["Forecast"] == 0


def test_a_server_that_wants_a_future_says_so(client: cellar.Client) -> None:
    with client.session("wide") as session:
        session.step([1.0, 2.0])
        with pytest.raises(cellar.BadInputError) as caught:
            session.forecast(2)
        assert caught.value.field == "future"
        assert session.forecast(1).mean.shape == (1,)


# -- files --------------------------------------------------------------------------------

DAYS = "date,x,y\n1/1/2024,1,7\n2/1/2024,2,8\n3/1/2024,3,9\n"
PAST = "date,x,y\n2024-01-01,1,7\n2024-01-02,2,8\n2024-01-03,3,9\n"


@pytest.fixture
def at_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's default server is the fake one."""
    monkeypatch.setenv("CELLAR_SERVER", server.address)


class Forecasts:
    """Runs the command on a past and a future."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.past, self.future = folder / "past.csv", folder / "ahead.csv"
        self._capsys = capsys

    def run(self, past: str, future: str | None, *options: str, status: int = 0) -> Any:
        """What it prints on standard output, as JSON, and on standard error."""
        self.past.write_text(past)
        files = ["--csv", str(self.past)]
        if future is not None:
            self.future.write_text(future)
            files += ["--future", str(self.future)]
        args = ["forecast", "wide", "--horizon", "3", "--json", *files, *options]
        assert main(args) == status, self._capsys.readouterr().err
        found = self._capsys.readouterr()
        return (json.loads(found.out) if found.out else None), found.err

    def steps(self, past: str, future: str, *options: str) -> tuple[list[int], str]:
        """The y that was read at each step but the last, by the fake's arithmetic; and notes."""
        facts, notes = self.run(past, future, *options)
        assert facts["position"] == 3
        first, *others = facts["mean"]
        read = [(each - first - n) / 1000 for n, each in enumerate(others, 1)]
        return [int(each) for each in read], notes


@pytest.fixture
def forecasts(at_server: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Forecasts:
    return Forecasts(tmp_path, capsys)


@pytest.mark.parametrize(
    "future",
    [
        "y\n4\n5\n6\n7\n",  # the whole file
        "date,y\n2024-01-04,4\n2024-01-05,5\n",
        "date,y,x\n2024-01-06,6,\n2024-01-05,5,\n2024-01-04,4,\n2024-01-03,99,3\n",  # backwards
        PAST + "2024-01-04,,4\n2024-01-05,,5\n2024-01-06,,\n".replace(",,\n", ",,6\n"),
        '"y","Date"\n4,2024-01-04T00:00:00Z\n5,2024-01-05T01:00:00+01:00\n',
    ],
)
def test_rows_behind_the_past_are_the_future(forecasts: Forecasts, future: str) -> None:
    read, notes = forecasts.steps(PAST, future)
    assert read == [4, 5]
    assert "the future of y is" in notes


def test_one_file_is_past_and_future(forecasts: Forecasts) -> None:
    both = PAST + "2024-01-04,,4\n2024-01-05,,5\n2024-01-06,,6\n2024-01-07,,7\n"
    read, notes = forecasts.steps(both, both)
    assert read == [4, 5]
    assert "4 rows at the end have no 'x', and are not of the past" in notes
    assert "3 rows, 2024-01-04 to 2024-01-06; 3 before them; 1 behind them are not read" in notes


def test_a_past_is_put_in_order(forecasts: Forecasts) -> None:
    head, *rows = PAST.splitlines(keepends=True)
    straight, notes = forecasts.run(PAST, "y\n4\n5\n")
    assert "put in order" not in notes
    backwards, notes = forecasts.run(head + "".join(rows[::-1]), "y\n4\n5\n")
    assert straight == backwards
    assert "put in order of 'date': it was newest first" in notes


def test_a_value_has_its_own_name(forecasts: Forecasts) -> None:
    other = PAST.replace("x", "Close")
    two = other.replace("date", "at,date").replace("2024", "1,2024")
    assert "choose a column with --value" in forecasts.run(two, "y\n4\n5\n", status=2)[1]
    read, _ = forecasts.steps(other, "y\n4\n5\n", "--value", "Close")
    assert read == [4, 5]
    undated = "x,y\n1,7\n2,8\n3,9\n"
    _, notes = forecasts.run(undated, "y\n4\n5\n")
    assert "no times found, rows are taken in the file's order" in notes


def test_steps_as_they_were_are_taken_and_told(forecasts: Forecasts) -> None:
    some = "date,x,y\n2024-01-04,1,7\n2024-01-05,2,8\n2024-01-08,3,9\n"
    read, notes = forecasts.steps(some, "date,y\n2024-01-09,4\n2024-01-12,5\n")
    assert read == [4, 5]
    assert "1 of its steps are not the usual 1 day; the series has had steps of 1 day" in notes


def test_a_weekend_is_no_step(forecasts: Forecasts) -> None:
    days = [f"2024-01-{day:02}" for day in (15, 16, 17, 18, 19, 22, 23, 24, 25)]
    past = "date,x,y\n" + "".join(f"{day},1,1\n" for day in days)
    facts, notes = forecasts.run(past, "date,y\n2024-01-26,4\n2024-01-29,5\n")
    assert facts["position"] == 9
    assert "usual" not in notes
    late = "date,y\n2024-01-26,4\n2024-01-30,5\n"
    assert (
        "line 3: 2024-01-30 is 2 days without weekends after 2024-01-26"
        in forecasts.run(past, late, status=2)[1]
    )


@pytest.mark.parametrize(
    ("past", "future", "message"),
    [
        (PAST, None, "reads y beside x: give them for the 2 steps before the last, with --future"),
        (PAST, "y\n4\n", "1 rows in it, but --horizon 3 needs 2"),
        (PAST, PAST, "0 rows after 2024-01-03, where the series ends, but --horizon 3 needs 2"),
        (PAST, "z\n4\n5\n", "ahead.csv: no column 'y', only z"),
        (PAST, "y\n4\nnan\n", "ahead.csv, line 3, column 'y': 'nan' is not a number"),
        (PAST, "y\n4\n\n,\n", "column 'y': '' is not a number"),
        (PAST, "date,y\n2024-01-05,4\n2024-01-06,5\n", "line 2: 2024-01-05 is 2 days after 2024"),
        (PAST, "date,y\n2024-01-04,4\n2024-01-04 12:00,5\n", "line 3: 2024-01-04 12:00:00 is 12:"),
        (
            PAST,
            "date,y\n2024-01-04,4\n2024-01-04,5\n",
            "line 3: 2024-01-04 is 0:00:00 after 2024-01-04",
        ),
        (
            PAST,
            "date,y\n2024-01-04,4\n5 Jan,5\n",
            "column 'date': '5 Jan' and the others are no dates",
        ),
        (PAST.replace("9", "?"), "y\n4\n5\n", "past.csv, line 4, column 'y': '?' is not a number"),
        (PAST, "date,y\n4.1.2024,4\n5.1.2024,5\n", "not written as in"),
        (DAYS, "date,y\n4/1/2024,4\n5/1/2024,5\n", "'2024-01-04' may begin with the day or the"),
        (DAYS.replace("3/1", "1/2"), "y\n4\n5\n", "past.csv, column 'date': '1/1/2024' may begin"),
        (PAST, "date,y\n1,4\n2,5\n", "not written as in"),
        ("x\n1\n", "y\n4\n5\n", "past.csv: no column 'y', only x"),
        ("x,y\n", "y\n4\n5\n", "past.csv: no rows"),
    ],
)
def test_bad_files_change_nothing(
    forecasts: Forecasts, server: FakeServer, past: str, future: str | None, message: str
) -> None:
    assert message in forecasts.run(past, future, status=2)[1]
    assert server.calls["OpenSession"] == 0


def test_a_model_that_reads_one_value_takes_no_future(
    forecasts: Forecasts, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["forecast", "series", "1", "--future", str(tmp_path / "f.csv")]) == 2
    assert "reads nothing beside" in capsys.readouterr().err


def test_a_past_on_the_command_line(
    forecasts: Forecasts, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_text("date,y\n2024-01-05,5\n2024-01-04,4\n")
    options = ["--horizon", "3", "--future", str(tmp_path / "f.csv"), "--json"]
    assert main(["forecast", "wide", "1,7", "2,8", *options]) == 0
    facts = capsys.readouterr()
    first, *others = json.loads(facts.out)["mean"]
    assert [each - first for each in others] == [4001, 5002]
    assert "newest first" in facts.err
