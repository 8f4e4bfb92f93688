"""SIGTERM and Ctrl-C, at any moment: what there is is kept, and the way on is told.

Real signals, sent by a thread to this process; `tests/training/test_cli.py` sends one to a child.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.cli import main
from training.run.files.folder import RunFolder
from training.run.signals import stop_wish, terminating_interrupts

SMALL = ["--hidden", "16", "--embedding", "8", "--batch", "8", "--window", "16", "--threads", "1"]
PATIENCE_S = 60.0
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A Ctrl-C is heard, also where the tests run in the background of a script, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def signalled(number: signal.Signals, when: Callable[[], bool]) -> Iterator[None]:
    """Send this process a signal as soon as something is so."""
    over = threading.Event()

    def send() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not over.is_set() and time.monotonic() < deadline:
            if when():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def step_of(run: Path) -> int:
    if not (run / "checkpoint.pt").is_file():
        return -1
    return int(RunFolder(run).load_checkpoint()["step"])


@BOTH
def test_a_signal_in_training_saves_the_step(
    folder: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    (folder / "text.txt").write_text("the quick brown fox " * 400)
    run = folder / "runs/char-1"
    options = ["--text", "text.txt", "--steps", "1000000", "--checkpoint", "0.2s", *SMALL]
    with signalled(number, lambda: step_of(run) > 0):
        assert main(["char", *options]) == 130
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = [line for line in said.out.splitlines() if line.startswith("stopped after step ")]
    assert line.endswith("; go on with: cellar-train resume runs/char-1")
    assert step_of(run) == int(line.split()[3].rstrip(";"))
    assert not (folder / "model-repository").exists()


@BOTH
def test_a_signal_before_training_leaves_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    (folder / "text.txt").write_text("the quick brown fox " * 40)
    monkeypatch.setattr("training.run.preparing.prepare", lambda _config: kill_and_wait(number))
    assert main(["char", "--text", "text.txt", *SMALL]) == 130
    assert capsys.readouterr().err == "cellar-train: stopped before anything was written\n"
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


@BOTH
def test_a_signal_while_scoring_says_how_to_go_on(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    (folder / "text.txt").write_text("the quick brown fox " * 40)

    with monkeypatch.context() as patch:
        patch.setattr(
            "training.run.ends.finishing.finished_product", lambda *_: kill_and_wait(number)
        )
        assert main(["char", "--text", "text.txt", "--steps", "6", "--publish", *SMALL]) == 130
    said = "cellar-train: interrupted; go on with: cellar-train resume runs/char-1\n"
    assert capsys.readouterr().err == said
    assert main(["resume", "runs/char-1"]) == 0


@BOTH
def test_the_first_signal_is_a_wish_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminating_interrupts():
        with stop_wish() as stopped:
            assert not stopped()
            os.kill(os.getpid(), number)
            assert stopped()
            with pytest.raises(KeyboardInterrupt):
                kill_and_wait(number)
        with pytest.raises(KeyboardInterrupt):
            kill_and_wait(number)
    assert signal.getsignal(signal.SIGTERM) is before


def kill_and_wait(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE_S)
