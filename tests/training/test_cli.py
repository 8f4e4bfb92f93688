"""The command line: what it prints, what it leaves, and its exit codes."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.repository import ModelRepository
from training.cli import main
from training.data.series.synthetic import write_csv

SMALL = ["--hidden", "16", "--batch", "8", "--window", "16", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_char_command_trains_and_says_what_to_do_next(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.txt").write_text("the quick brown fox " * 40)
    code = main(
        ["char", "--text", "text.txt", "--steps", "12", "--dropout", "0.25", "--publish", *SMALL]
    )
    shown = capsys.readouterr().out
    assert code == 0
    assert "cold256" in shown
    assert "carried" in shown
    assert "cellar-serve --models model-repository" in shown
    provenance = ModelRepository(folder / "model-repository").load("char").manifest.provenance
    assert provenance is not None
    assert provenance.command == (
        "cellar-train char --hidden 16 --dropout 0.25 --batch 8 --steps 12 --text text.txt "
        "--window 16"
    )


def test_series_command_reports_what_it_did_to_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(folder / "prices.csv", 300)
    with (folder / "prices.csv").open("a") as file:
        file.write("2001-01-01,null\n")
    code = main(["series", "--csv", "prices.csv", "--value", "Close", "--steps", "5", *SMALL])
    shown = capsys.readouterr().out
    assert code == 0
    assert "dropped: no value" in shown
    assert "last value" in shown
    assert "network" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["char", "--text", "missing.txt"], "missing.txt: there is no such file"),
        (["char"], "give one of text files, stdlib and labelled texts"),
        (["char", "--stdlib", "--hidden", "many"], "hidden: "),
        (["series", "--csv", "missing.csv", "--value", "x"], "missing.csv: there is no such file"),
        (["resume", "nowhere"], "no run folder"),
        (
            ["char", "--stdlib", "--name", "A/b"],
            "name: small letters, digits, and behind",
        ),
    ],
)
def test_mistakes_end_with_code_two_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["serie", "--csv", "a.csv"],
            "cellar-train: there is no 'serie'; did you mean series?",
        ),
        (["xyz"], "there is no 'xyz'; there are char, "),
        (["series", "--fature=x"], "cellar-train series: there is no --fature=x; did you mean --f"),
        (["completion", "bsh"], "cellar-train completion: there is no 'bsh'; did you mean bash?"),
        (["compare", "char", "--seds", "3"], "did you mean --seeds?"),
        (["series", "--csv"], "cellar-train series: argument --csv: expected one argument; see"),
    ],
)
def test_a_line_that_is_wrong_is_told_in_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["char", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--text", "--stdlib", "--cell", "--budget", "--learning-rate", "--precision"):
        assert option in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["char", "--help"],
        ["compare", "series", "--help"],
        ["resume", "--help"],
        ["export", "--help"],
        ["import", "--help"],
        ["completion", "bash"],
        ["char", "--no-such-option"],
        ["char", "--stdlib", "--hidden", "many"],
    ],
)
def test_help_and_mistakes_do_not_wait_for_torch(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = [name for name in sys.modules if name.partition(".")[0] == "training"]
    for name in [*loaded, *HEAVY]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in HEAVY:
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    with contextlib.suppress(SystemExit):
        importlib.import_module("training.cli").main(arguments)
    said = capsys.readouterr()
    assert len(said.out + said.err) > 10


HEAVY = ("torch", "lightning_fabric", "onnx", "onnxruntime", "pandas", "matplotlib")


def test_a_shell_completes_commands_and_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for word in ("resume", "--learning-rate", "--budget", "_shtab_compgen_files"):
        assert word in script
    (folder / "script").write_text(script)
    assert subprocess.run(["bash", "-n", "script"], cwd=folder, check=False).returncode == 0


def test_an_error_keeps_what_was_noted_before(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "short.txt").write_bytes(b"one\r\ntwo\r\n")
    assert main(["char", "--text", "short.txt"]) == 2
    said = capsys.readouterr()
    assert "what was noted before the error" in said.out
    assert "CR LF became LF" in said.out
    assert said.err.startswith("cellar-train: short.txt: 8 characters are too few")


def test_messages_stay_short_with_a_thousand_columns(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"the column with the number {number}" for number in range(1000)]
    row = ",".join(map(str, range(1000)))
    (folder / "wide.csv").write_text("\n".join([",".join(names), *[row] * 60]))
    twice = [word for name in [*names, *names] for word in ("--value", name)]
    labelled = ["classify", "--data", "wide.csv", "--test", "narrow.csv"]
    (folder / "narrow.csv").write_text("id,label,a\n1,x,2\n1,x,3\n")
    for arguments in (
        ["series", "--csv", "wide.csv", "--value", "missing"],
        ["series", "--csv", "wide.csv"],
        ["series", "--csv", "wide.csv", *twice],
        ["char", "--text", "wide.csv", "--hidden", "x" * 5000],
        labelled,
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert len(said) < 800, said


def test_synthetic_command_writes_a_csv(folder: Path) -> None:
    assert main(["synthetic", "made.csv", "--rows", "120"]) == 0
    assert len((folder / "made.csv").read_text().splitlines()) == 121


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.long
def test_a_run_that_is_told_to_end_can_be_resumed(folder: Path) -> None:
    (folder / "text.txt").write_text("the quick brown fox " * 400)
    command = [sys.executable, "-m", "training.cli", "char", "--text", "text.txt"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [*command, "--steps", "100000", *SMALL],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 40
    while not list(folder.glob("runs/char-1/config.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "cellar-train resume runs/char-1" in shown
    assert (folder / "runs/char-1/checkpoint.pt").exists()
    assert not (folder / "model-repository").exists()
