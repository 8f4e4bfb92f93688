"""The command ``cellar``, against the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cellar.cli import main
from tests.e2e.process import ROOT, ServerProcess


@pytest.fixture(autouse=True)
def at_server(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLAR_SERVER", server.address)


class Command:
    """Runs the command, and expects it to go well."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self, *arguments: str) -> str:
        assert main(arguments) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--json"))

    def error(self, status: int, *arguments: str) -> str:
        assert main(arguments) == status
        captured = self._capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return str(line)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_models(command: Command) -> None:
    lines = command.text("models").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["hello", "letters", "prices", "slow"]
    models = {model["name"]: model for model in command.json("models")}
    assert models["prices"]["features"] == ["Close"]
    assert models["letters"]["session_bytes"] == 4 * 2 * 2 * 16


def test_step(command: Command) -> None:
    assert "'o'" in command.text("step", "hello", "hell")
    first, second = command.json("step", "hello", "hel", "l", "--top-k", "2")
    assert (first["position"], first["symbol"]) == (3, "l")
    assert (second["position"], second["symbol"]) == (4, "o")
    assert second["top"][0][1:] == ["o", pytest.approx(1, abs=0.1)]
    (row,) = command.json("step", "prices", "100")
    assert row["levels"] == [0.1, 0.5, 0.9]
    assert row["quantiles"] == sorted(row["quantiles"])


def test_a_kept_session(command: Command) -> None:
    seen = [command.json("step", "hello", each, "--session", "kept")[0] for each in "hell"]
    assert [each["symbol"] for each in seen] == list("ello")
    facts = command.json(
        "generate", "hello", "--session", "kept", "--temperature", "0", "--steps", "6"
    )
    assert (facts["text"], facts["position"]) == ("ohello", 10)


def test_generate(command: Command) -> None:
    assert (
        command.text("generate", "hello", "he", "--steps", "8", "--temperature", "0")
        == "llohello\n"
    )
    facts = command.json("generate", "hello", "h", "--temperature", "0", "--stop", "oh")
    assert (facts["text"], facts["finish_reason"]) == ("elloh", "stop")
    again = [command.json("generate", "letters", "a", "--seed", "4", "--steps", "30") for _ in "ab"]
    assert again[0] == again[1]
    assert len(command.text("generate", "prices", "100", "101", "--steps", "3").split()) == 3


def test_forecast(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("date,close\n1,100\n2,101.5\n3,99\n")
    options = ("forecast", "prices", "--horizon", "3", "--quantiles", ".25,.75", "--paths", "50")
    of_values = command.json(*options, "100", "101.5", "99")
    of_file = command.json(*options, "--csv", str(file), "--value", "close")
    assert of_values == of_file
    assert of_values["position"] == 3
    assert len(of_values["mean"]) == 3
    assert all(low < high for low, high in of_values["quantiles"])
    lines = command.text(*options, "100", "101.5", "99").splitlines()
    assert lines[0].split() == ["ahead", "mean", "25%", "75%"]
    assert len(lines) == 5


def test_errors(command: Command) -> None:
    assert "MODEL_UNKNOWN" in command.error(1, "step", "nobody", "a")
    assert "BAD_INPUT: inputs.text, row 1" in command.error(1, "step", "hello", "hx")
    assert "inputs.values, row 0" in command.error(1, "step", "prices", "-5")
    assert "NOT_STARTED" in command.error(1, "generate", "hello")
    assert "cellar generate" in command.error(2, "forecast", "hello", "1")
    assert "is not a number" in command.error(2, "step", "prices", "x")
    assert "cellar-serve" in command.error(1, "models", "--server", "127.0.0.1:1", "--timeout", "1")


def test_as_a_process() -> None:
    command = [sys.executable, "-m", "cellar"]
    done = subprocess.run(
        [*command, "step", "hello", "hell"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "'o'" in done.stdout
    failed = subprocess.run(
        [*command, "step", "hello", "x"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("cellar: BAD_INPUT: ")
