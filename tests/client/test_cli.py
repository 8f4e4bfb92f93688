"""The command, end to end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import cellar
from cellar.cli import main
from cellar.v1 import model_pb2, session_pb2
from tests.client.fake import FakeServer, Refusal, run


@pytest.fixture(autouse=True)
def at_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's default server is the fake one."""
    monkeypatch.setenv("CELLAR_SERVER", server.address)


@pytest.mark.parametrize("variable", ["CELLAR_SEVER", "CELLAR_SERVERS", "cellar_server"])
def test_a_misspelt_variable_is_refused_with_what_was_meant(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CELLAR_SERVER", "")
    monkeypatch.setenv(variable, "there:1")
    assert main(["models"]) == 2
    assert f"{variable}: there is no such variable" in capsys.readouterr().err


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "series" in out
    assert "default" not in out
    assert "loss 1.5" in out
    assert main(["models", "--json"]) == 0
    assert next(model["name"] for model in json.loads(capsys.readouterr().out)) == "char"


def test_models_that_are_not_served_say_why(
    capsys: pytest.CaptureFixture[str], server: FakeServer
) -> None:
    server.unavailable = [
        model_pb2.Model(
            name="char", version=7, default_version=True, unavailable_reason="it crashed"
        ),
        model_pb2.Model(name="cut", unavailable_reason="cut: a link to nowhere"),
    ]
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["char", "7", "(default)", "unavailable"] in rows
    assert ["cut", "?", "unavailable"] in rows
    assert lines[-3] == "char 7 is unavailable: it crashed"
    assert lines[-1] == "cut is unavailable: cut: a link to nowhere"
    assert main(["models", "--json"]) == 0
    found = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert found["cut"]["unavailable_reason"] == "cut: a link to nowhere"
    assert found["series"]["unavailable_reason"] == ""
    with cellar.connect(server.address) as client:
        assert [m.name for m in client.models() if not m.available] == ["char", "cut"]


def test_models_say_what_shares_no_runs(
    capsys: pytest.CaptureFixture[str], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    assert "runs" not in capsys.readouterr().out
    server.run_alone = {"series"}
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "row by row, step by step" in out
    assert "in batches" in out
    assert main(["models", "--json"]) == 0
    facts = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    series, char = facts["series"], facts["char"]
    assert (series["rows_run_alone"], series["steps_run_alone"]) == (True, True)
    assert (series["largest_value"], char["largest_value"]) == (1e30, None)


def test_step(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    assert main(["step", "char", "ab", "c", "--top-k", "2"]) == 0
    out = capsys.readouterr().out
    assert repr("abcdefghij"[run([0, 1, 2]) % 10]) in out
    assert "0.500" in out
    assert server.sessions == {}
    assert main(["step", "series", "1000", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["raw"] for row in rows] == [[run([1000])], [run([1000, 2])]]


def test_a_session_that_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    for position, text in enumerate("abc", 1):
        assert main(["step", "char", text, "--session", "mine", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["position"] == position


def test_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "char", "ab", "--steps", "5", "--seed", "1", "--top-k", "3"]) == 0
    assert len(capsys.readouterr().out) == 6
    assert main(["generate", "char", "--steps", "5", "ab", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["text"]) == 5
    assert facts["finish_reason"] == "length"
    assert main(["generate", "series", "1", "--steps", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_generate_in_several_ways(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    assert main(["generate", "char", "ab", "--steps", "5", "--n", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["-- 1", "-- 2", "-- 3"]
    assert {len(line) for line in lines[1::2]} == {5}
    options = ["--steps", "4", "--n", "2", "--seed", "7", "--json"]
    assert main(["generate", "series", "1", "2", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["position"] == 0
    for each in facts["generations"]:
        assert (len(each["values"]), each["position"], each["finish_reason"]) == (4, 6, "length")
    assert server.sessions == {}
    assert main(["generate", "char", "ab", "--n", "0"]) == 2
    assert "n: " in capsys.readouterr().err


def test_forecast(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "sales.csv"
    file.write_text("month,sales\n1,1000\n2,2\n3,3\n")
    state = run([1000, 2, 3])
    options = ["forecast", "series", "--horizon", "2", "--quantiles", ".1,.9"]
    assert main([*options, "--csv", str(file), "--value", "sales"]) == 0
    out, told = capsys.readouterr()
    assert "sales.csv: 'sales' is read as the model's 'x'\n" in told
    assert f"{state + 11}" in out
    assert f"{state + 92}" in out
    assert main([*options, "1000", "2", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["mean"] == [state + 1, state + 2]
    assert facts["position"] == 3


@pytest.mark.parametrize(
    "dates",
    [
        ("2026-01-01", "2026-01-02", "2026-02-01"),
        ("31.12.2025", "01.01.2026", "02.01.2026"),
        ("12/31/2025", "01/01/2026", "01/02/2026"),
        ("1700000000", "1700000060", "1700000120.5"),
        ("Dec 31, 2025", "Jan 01, 2026", "Jan 02, 2026"),
    ],
)
def test_a_forecast_reads_the_oldest_row_first(
    dates: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [f'"{date}",{value}\n' for date, value in zip(dates, (5, 2, 3), strict=True)]
    means = []
    for name, order in (("oldest", rows), ("newest", rows[::-1])):
        file = tmp_path / f"{name}.csv"
        file.write_text("Date,close\n" + "".join(order))
        options = ["--csv", str(file), "--value", "close", "--horizon", "2", "--json"]
        assert main(["forecast", "series", *options]) == 0
        means.append(json.loads(capsys.readouterr().out)["mean"])
    assert means[0] == means[1] == [run([5, 2, 3]) + 1, run([5, 2, 3]) + 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,a\n01/02/2026,1\n02/01/2026,2\n", "may begin with the day or the month"),
        ("date,a\nlast week,1\n", "are no dates that order the rows; write them as 2026-12-31"),
        ("date,a\n2026-01-02,1\n2026-01-01,2\n2026-01-01,3\n2026-01-01,4\n", "have one time"),
    ],
)
def test_dates_that_do_not_tell_the_order(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "unclear.csv"
    file.write_text(text)
    assert main(["forecast", "series", "--csv", str(file), "--value", "a"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "choose a column with --value: a, b"),
        ("a\n1\nx\n", "line 3, column 'a': 'x' is not a number"),
        ("a\n", "no rows"),
        ("a\n1\ninf\n", "line 3, column 'a': 'inf' is not a number"),
    ],
)
def test_bad_files(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    assert main(["forecast", "series", "--csv", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_bad_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "series", "x"]) == 2
    assert main(["forecast", "series"]) == 2
    assert main(["forecast", "series", "--csv", "/nowhere.csv"]) == 2
    capsys.readouterr()
    assert main(["models", "--server", "http://localhost:8001"]) == 2
    error = capsys.readouterr().err
    assert error == "cellar: --server: leave http:// out: say 'localhost:8001'\n"
    with pytest.raises(SystemExit) as caught:
        main(["step"])
    assert caught.value.code == 2


def test_a_wait_is_explained_once(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    server.fail("OpenSession", count=2, before=Refusal("SESSION_LIMIT", retry_after_s=0.001))
    assert main(["step", "char", "a"]) == 0
    assert re.fullmatch(r"cellar: tried again in \d\.\d s: .+\n", capsys.readouterr().err)


def test_the_server_says_no(capsys: pytest.CaptureFixture[str], server: FakeServer) -> None:
    assert main(["step", "nobody", "a"]) == 1
    assert capsys.readouterr().err.startswith("cellar: MODEL_UNKNOWN: ")
    assert main(["step", "char", "z"]) == 1
    assert "BAD_INPUT" in capsys.readouterr().err
    server.stop()
    assert main(["models", "--timeout", "1"]) == 1
    assert "no answer from" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["step", "char", "a"], ["generate", "char", "a"]])
def test_a_session_begins_with_the_state_of_a_file(
    words: list[str], tmp_path: Path, server: FakeServer
) -> None:
    path = tmp_path / "state.npz"
    np.savez(path, h_0=np.array([0.5, 2.0], np.float32), c_0=np.zeros((1, 2)))
    assert main([*words, "--initial-state", str(path)]) == 0
    (opened,) = (r for r in server.requests if isinstance(r, session_pb2.OpenSessionRequest))
    tensors = {own.name: list(own.values) for own in opened.initial_state.tensors}
    assert tensors == {"h_0": [0.5, 2.0], "c_0": [0.0, 0.0]}


@pytest.mark.parametrize("kind", ["nothing", "text", "cut", "one array", "objects", "no number"])
def test_a_file_that_has_no_state_is_refused(
    kind: str, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.npz"
    if kind == "text":
        path.write_text("h_0 = 1")
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind != "nothing":
        values = {"objects": [{}], "no number": [np.nan]}.get(kind, [0.0] * 1000)
        np.savez(path, h_0=np.array(values))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    assert main(["step", "char", "a", "--initial-state", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("cellar: initial_state[" if kind == "no number" else f"cellar: {path}: ")
    assert len(told.splitlines()) == 1
    assert not server.sessions
