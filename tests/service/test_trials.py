"""Files that are tried in another process: what it does to itself, and what is said of it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import structlog

from models.errors import ModelError
from models.untrusted.reading import MOST_BYTES
from service import trials as trials_module
from service.trials import COMMAND, Trial, Trials, TrialsClosedError, try_file
from tests.recurrent import char_case, write_repository
from tests.service.foreign import publish_foreign

LONG_S = 50.0
# What the other process runs here: a file's name says what becomes of whoever loads it.
DEEDS = """
import json, os, signal, sys, time

def attempt(path):
    deed = os.path.basename(path)
    if deed.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[deed])
    if deed == "hang":
        time.sleep(1000)
    if deed == "end":
        os._exit(3)
    if deed == "greedy":
        bytearray(2**29)
    if deed == "raise":
        raise RecursionError("too deep")
    if deed == "print":
        os.write(1, b"what a library prints\\n")
    with open(path, "a") as log:
        log.write(f"{os.getpid()} ")
"""
# Beside nothing but Python, which starts in no time ...
FAKE = (
    DEEDS
    + """
print("ready", flush=True)
for line in sys.stdin:
    attempt(json.loads(line)["path"])
    print("passed", flush=True)
"""
)
# ... and as the server's own does it.
OWN = (
    DEEDS
    + """
from service import trials
trials._GROWN_BYTES = int(sys.argv[1])
trials.work(lambda trial: attempt(trial.path))
"""
)


@contextmanager
def trying(
    limit_s: float = LONG_S,
    command: tuple[str, ...] = (sys.executable, "-c", FAKE),
    most_memory: int = 2**30,
) -> Iterator[Trials]:
    trials = Trials(
        limit_s=limit_s, most_memory=most_memory, most_bytes=MOST_BYTES, command=command
    )
    try:
        yield trials
    finally:
        trials.close()


def attempt(trials: Trials, path: Path) -> None:
    trials.attempt(path, precision="fp32", max_batch=4, chunk_steps=2)


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("SIGSEGV", r"the runtime crashed \(SIGSEGV\) while loading it"),
        ("SIGABRT", r"crashed \(SIGABRT\)"),
        ("SIGKILL", r"was killed \(SIGKILL\), as is whoever takes too much memory"),
        ("end", r"ended its process \(status 3\)"),
    ],
)
def test_whoever_dies_is_replaced_and_the_file_is_named(
    deed: str, words: str, tmp_path: Path
) -> None:
    before, bad, after = tmp_path / "before", tmp_path / deed, tmp_path / "after"
    with trying() as trials:
        attempt(trials, before)
        with pytest.raises(ModelError, match=f"{bad}: .*{words}"):
            attempt(trials, bad)
        attempt(trials, after)
    assert before.read_text() != after.read_text(), "another process"


def test_one_process_tries_file_after_file(tmp_path: Path) -> None:
    """Also beside what raises, or prints: that is no crash, and whoever loads the file is told.

    One that nobody ends in time ends itself: a server that was killed leaves nobody behind.
    """
    with trying(command=(sys.executable, "-c", OWN, str(2**40))) as trials:
        attempt(trials, tmp_path / "one")
        with pytest.raises(ModelError, match=r"raise: cannot be run: too deep"):
            attempt(trials, tmp_path / "raise")
        for name in ("print", "two"):
            attempt(trials, tmp_path / name)
        assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() != ""
        process = trials._process
        assert process is not None
        soon_s = 0.2 - trials_module._ORPHANED_S
        hanging = Trial(
            path=str(tmp_path / "hang"),
            precision="fp32",
            max_batch=4,
            chunk_steps=2,
            limit_s=soon_s,
            most_memory=2**30,
            most_bytes=MOST_BYTES,
        )
        assert process.ask(json.dumps(asdict(hanging)), LONG_S) == ""
        assert process.end() == "crashed (SIGALRM)"
        assert not process.is_late
        trials._process = None


def test_a_process_that_has_grown_is_not_kept(tmp_path: Path) -> None:
    with trying(command=(sys.executable, "-c", OWN, "1")) as trials:
        attempt(trials, tmp_path / "one")
        attempt(trials, tmp_path / "two")
    assert (tmp_path / "one").read_text() != (tmp_path / "two").read_text()


def test_whoever_hangs_is_ended(tmp_path: Path) -> None:
    with trying(limit_s=0.2) as trials, pytest.raises(ModelError) as caught:
        attempt(trials, tmp_path / "hang")
    assert "hang: the runtime took more than 0.2 s (--load-timeout-s)" in str(caught.value)


def test_a_close_ends_a_trial_that_runs(tmp_path: Path) -> None:
    found: list[Exception] = []

    def hang(trials: Trials) -> None:
        try:
            attempt(trials, tmp_path / "hang")
        except Exception as error:
            found.append(error)

    with trying() as trials:
        attempt(trials, tmp_path / "begun")
        thread = threading.Thread(target=hang, args=(trials,))
        thread.start()
        began = time.monotonic()
        trials.close()
        thread.join(LONG_S)
        assert time.monotonic() - began < LONG_S / 2
    # Closed before it began, or while it ran.
    assert [type(error) for error in found] == [TrialsClosedError]
    with pytest.raises(TrialsClosedError):
        attempt(trials, tmp_path / "after")


def test_where_there_can_be_no_process_it_is_said_once(tmp_path: Path) -> None:
    for command, words in (
        ((str(tmp_path / "no-such-program"),), "No such file"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended its process (status 7)"),
    ):
        with structlog.testing.capture_logs() as entries, trying(command=command) as trials:
            attempt(trials, tmp_path / "SIGSEGV")
            attempt(trials, tmp_path / "SIGSEGV")
        (entry,) = entries
        assert entry["log_level"] == "warning"
        assert words in entry["reason"]


def test_real_files_are_loaded_and_run(tmp_path: Path) -> None:
    """By the real command: sound ones, unsound ones, and one that never ends."""
    write_repository(tmp_path, char_case())
    sound = tmp_path / "letters" / "1" / "model.onnx"
    endless = publish_foreign(tmp_path, "endless", endless=True)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(sound.read_bytes()[:500])
    with trying(command=COMMAND) as trials:
        attempt(trials, sound)
        with pytest.raises(ModelError, match=r"broken.onnx: not a readable ONNX model"):
            attempt(trials, broken)
        first = trials._process
        assert first is not None, "and it is still there"
        trials._limit_s = 0.3
        with pytest.raises(ModelError, match=r"took more than 0.3 s"):
            attempt(trials, endless)


def test_a_trial_does_what_loading_does(tmp_path: Path) -> None:
    path = publish_foreign(tmp_path, "sound")
    trial = Trial(
        path=str(path),
        precision="fp32",
        max_batch=4,
        chunk_steps=2,
        limit_s=1,
        most_memory=2**30,
        most_bytes=MOST_BYTES,
    )
    try_file(trial)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError):
        try_file(trial)


def test_what_has_passed_is_known_by_its_content_alone(tmp_path: Path) -> None:
    """The same bytes in another place pass; one bit more, or a file beside them, is tried."""
    first = publish_foreign(tmp_path, "first", gain=0.25)
    second = tmp_path / "second" / "7" / "model.onnx"
    shutil.copytree(first.parent, second.parent)
    with trying(command=COMMAND) as trials:
        attempt(trials, first)
    with trying(command=COMMAND) as trials:
        attempt(trials, second)
        assert trials._process is None, "nothing had to be started"
        (second.parent / "weights.bin").write_bytes(b"1")
        attempt(trials, second)
        assert trials._process is not None


def test_whoever_takes_too_much_memory_is_told_so(tmp_path: Path) -> None:
    """And the next one is tried by another process."""
    greedy = tmp_path / "greedy"
    with trying(command=(sys.executable, "-c", OWN, str(2**40)), most_memory=2**28) as trials:
        attempt(trials, tmp_path / "before")
        with pytest.raises(ModelError, match=r"more than 268,435,456 bytes .*--load-memory"):
            attempt(trials, greedy)
        attempt(trials, tmp_path / "after")
    assert (tmp_path / "before").read_text() != (tmp_path / "after").read_text()
