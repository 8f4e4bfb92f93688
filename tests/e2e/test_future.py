"""A series that hangs on a feature which is known beforehand: trained, served, forecast."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.e2e.process import running
from training.cli import main as train

ROWS, HORIZON = 600, 6
START = np.datetime64("2024-01-01T00:00")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A server with the model, and the files around it."""

    folder: Path
    address: str
    values: np.ndarray  # (ROWS + HORIZON,): each is the one before plus its push
    pushes: np.ndarray  # (ROWS + HORIZON,)

    @property
    def truth(self) -> np.ndarray:
        return self.values[ROWS:]

    def ahead(self, name: str, pushes: np.ndarray) -> Path:
        """A file of the steps ahead."""
        stamps = START + np.arange(ROWS, ROWS + len(pushes)) * np.timedelta64(1, "h")
        return write(self.folder / f"{name}.csv", Date=stamps, push=pushes)


def write(path: Path, **columns: np.ndarray) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, r)) for r in rows)]))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("future")
    pushes = np.random.default_rng(0).choice([-2.0, 1.0, 3.0], ROWS + HORIZON)
    values = 50 + np.concatenate([[0], np.cumsum(pushes[:-1] - pushes.mean())])
    stamps = START + np.arange(ROWS) * np.timedelta64(1, "h")
    past = write(folder / "past.csv", Date=stamps, level=values[:ROWS], push=pushes[:ROWS])
    ahead = Place(folder=folder, address="", values=values, pushes=pushes).ahead(
        "true", pushes[ROWS:]
    )
    options = {
        "csv": past,
        "value": "level",
        "feature": "push",
        "future": ahead,
        "transform": "difference",
        "name": "pushed",
        "horizon": HORIZON,
        "windows": 4,
        "steps": 200,
        "hidden": 16,
        "dropout": 0,
        "learning-rate": 0.01,
        "runs": folder / "runs",
        "models": folder / "models",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert train(["series", "--time-feature", "hour", *flags]) == 0
    with running(folder / "models") as server:
        yield Place(folder=folder, address=server.address, values=values, pushes=pushes)


def test_the_run_leaves_a_forecast_of_the_whole_horizon(place: Place) -> None:
    (path,) = place.folder.glob("runs/*/forecast.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    medians = np.array([float(row["q50"]) for row in rows])
    assert np.abs(medians - place.truth).max() < 1


def test_a_forecast_hangs_on_the_future_that_it_is_given(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    other = -place.pushes[ROWS:]
    futures = {"right": place.pushes[ROWS:], "other": other}
    found = {}
    for name, pushes in futures.items():
        file = place.ahead(name, pushes)
        args = ["forecast", "pushed", "--csv", str(place.folder / "past.csv"), "--json"]
        args += ["--future", str(file), "--horizon", str(HORIZON), "--server", place.address]
        assert main(args) == 0
        told = capsys.readouterr()
        assert "the future of push, hour is 6 rows, 2024-01-26 to 2024-01-26 05:00:00" in told.err
        assert "hour as 'Date' has it" in told.err
        found[name] = np.array(json.loads(told.out)["mean"])
    assert np.abs(found["right"] - place.truth).max() < 1
    drift = np.cumsum(2 * place.pushes[ROWS : ROWS + HORIZON - 1])
    assert np.abs((found["right"] - found["other"])[1:] - drift).max() < 2
    assert abs(found["right"][0] - found["other"][0]) < 1e-6


def test_the_library_forecasts_by_name_and_by_place(place: Place) -> None:
    hours = np.arange(ROWS + HORIZON) % 24
    rows = np.column_stack([place.values, place.pushes, hours])
    with (
        cellar.connect(place.address, timeout_s=20) as client,
        client.session("pushed") as session,
    ):
        assert session.model.beside == ("push", "hour")
        session.feed(rows[:ROWS])
        by_name = session.forecast(
            HORIZON, seed=4, future={"hour": hours[ROWS:], "push": place.pushes[ROWS:]}
        )
        by_place = session.forecast(HORIZON, seed=4, future=rows[ROWS:, 1:])
        assert np.array_equal(by_name.quantiles, by_place.quantiles)
        assert session.position == ROWS
        with pytest.raises(cellar.BadInputError, match=r"future: the model reads push, hour besi"):
            session.forecast(HORIZON)


def test_a_command_without_a_future_names_the_flag(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", "pushed", "50,1,2", "--server", place.address]) == 2
    assert "reads push, hour beside level" in (told := capsys.readouterr().err)
    assert "--future FILE" in told
