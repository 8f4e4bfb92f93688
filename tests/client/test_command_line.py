"""The command as a process: pipes, signals, help, completion; and lines that are wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellar.cli import main
from tests.client.fake import FakeServer, Fault
from tests.reasons import ROOT

CELLAR = f"{sys.executable} -m cellar"


@pytest.fixture(autouse=True)
def at_server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's default server is the fake one."""
    monkeypatch.setenv("CELLAR_SERVER", server.address)


def bash(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script in a real shell."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.parametrize(
    "command",
    [
        "generate series 1 --steps 20000",
        "models",
        "models --json",
        "step char abc",
        "completion bash",
    ],
)
def test_a_pipe_that_is_closed_is_quiet(command: str, server: FakeServer) -> None:
    done = bash(f"{CELLAR} {command} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stderr == ""
    assert done.stdout in ("141\n", "0\n")  # 0: all was written before the reader went
    if command.startswith("generate"):
        assert done.stdout == "141\n"
        assert server.sessions == {}


def test_a_disk_that_is_full_is_told() -> None:
    done = bash(f"{CELLAR} models > /dev/full; echo $?")
    assert done.stdout == "1\n"
    assert done.stderr == "cellar: No space left on device\n"


def test_an_interrupt_is_one_line(server: FakeServer) -> None:
    server.faults["ListModels"] = Fault(count=1, delay_s=20)
    process = subprocess.Popen(
        [sys.executable, "-m", "cellar", "models"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not server.calls["ListModels"]:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "cellar: stopped\n")


def test_output_is_clean_for_pipes() -> None:
    done = bash(f"{CELLAR} models | cat", TERM="xterm-256color", COLUMNS="20")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[0].split() == [
        "model",
        "version",
        "task",
        "reads",
        "predicts",
        "state/session",
        "scores",
    ]
    assert "2 values: x, y" in done.stdout


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("stp", "invalid choice: 'stp'"),
        ("stp", "did you mean step?"),
        ("--server a:1 models", "options stand behind the command, as in cellar COMMAND --server"),
        ("forecast char 1", "'char' is not of a series: use cellar generate"),
        ("step char a --topk 3", "unrecognized arguments: --topk 3: did you mean --top-k?"),
        ("generate char a --temprature 3", "did you mean --temperature?"),
        ("models extra", "unrecognized arguments: extra"),
        ("step char a --top 3", "unrecognized arguments: --top 3"),
        ("step char a --top-k -1", "argument --top-k: '-1' is not a whole number from 0 on"),
        ("step char a --top-k 99999999999999999999999", "is not a whole number"),
        ("step char a --top-k 9999999999", "top_k: a whole number, at most 4294967295"),
        ("generate char a --temperature nan", "argument --temperature: 'nan' is not a number"),
        ("models --timeout 0", "argument --timeout: 0 is not above 0"),
        ("models --timeout 1e300", "timeout_s: seconds, above 0 and at most"),
        ("forecast series 1 --quantiles .5,2", "are not levels between 0 and 1"),
        ("step series 1,2", "input 1: '1,2' may be one number or two; write 1.2, or the"),
        ("step series 1,000", "write 1.000 or 1000, or the numbers apart"),
        ("step series 1_0", "'1_0' is not a number"),
        ("step series 1e999", "'1e999' is not a number"),
        ("step wide 1", "'1' is 1 number; model 'wide' reads 2 numbers per step (x, y, in this"),
        ("step wide 1,2,3", "'1,2,3' is 3 numbers; model 'wide' reads 2"),
        ("step wide 1,x", "'x' is not a number; model 'wide' reads 2 numbers per step"),
        ("forecast wide 1,2", "model 'wide' reads y beside x"),
    ],
)
def test_a_line_that_is_wrong_is_told_in_one(
    line: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(line.split())
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert error in captured.err
    assert captured.err.count("\n") == 1


def test_what_looks_like_an_option_may_be_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "wide", "-1,2", "--json"]) == 0
    assert main(["step", "series", "-1e2", "-.5", "1,234.5", "1,234,567"]) == 0


@pytest.mark.parametrize(
    "command", ["", "models", "step", "predict", "generate", "forecast", "completion"]
)
def test_help_fits_eighty_columns_and_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("CELLAR_SERVER", "localhost:8001")
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"  cellar {command}".rstrip() in out.partition("examples:")[2] or "$(cellar" in out


def test_the_completion_works_in_a_real_bash(tmp_path: Path) -> None:
    script = f"""
eval "$({CELLAR} completion bash)"
complete -p cellar > /dev/null || exit 1
ask() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  $(complete -p cellar | sed -E 's/.* -F ([^ ]+).*/\\1/') cellar "${{@: -1}}" "${{@: -2:1}}"
  echo "${{COMPREPLY[*]}}"
}}
ask cellar mod
ask cellar generate --te
ask cellar forecast --da
ask cellar completion b
cd {tmp_path}
ask cellar forecast model --csv pri
"""
    (tmp_path / "prices.csv").touch()
    done = bash(script)
    assert done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["models"],
        ["--temperature"],
        ["--date", "--date-form"],
        ["bash"],
        ["prices.csv"],
    ]
