"""What disks refuse is one line: told beforehand where it can be, else with a way to go on."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.repository import ModelRepository
from training.cli import main
from training.errors import ConfigError, StorageError
from training.run.files.folder import RunFolder
from training.run.files.storage import check_folder, check_room, storing

SMALL = ["--hidden", "16", "--embedding", "8", "--batch", "8", "--window", "16", "--threads", "1"]
TEXT = "the quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runs", "text.txt"], "runs: text.txt is a file, not a folder; give another --runs"),
        (["--runs", "text.txt/below"], "text.txt is a file, not a folder"),
        (["--runs", "link"], "runs: link is a link to nowhere; give another --runs"),
        (["--runs", "/proc/here"], "runs: nothing can be written to /proc: "),
        (["--models", "text.txt"], "models: text.txt is a file, not a folder"),
        (["--models", "taken"], "taken/char is a file, not a folder; give another --models or"),
        (["--models", "/proc/here"], "models: nothing can be written to /proc: "),
        (["--runs", "x" * 300], "File name too long"),
    ],
)
def test_folders_are_looked_at_before_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    (folder / "link").symlink_to("/nowhere/at/all")
    (folder / "taken").mkdir()
    (folder / "taken/char").touch()
    before = sorted(folder.rglob("*"))
    # A text that is not there: what is said of the folder comes first.
    assert main(["char", "--text", "missing.txt", *options, *SMALL]) == 2
    assert said in told(capsys)
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_takes_files_is_left_as_it_is(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "a/b", what="runs", remedy="") == tmp_path
    assert check_folder(tmp_path, what="runs", remedy="") == tmp_path
    assert list(tmp_path.iterdir()) == []


def disk(free: int) -> Callable[[Path], int]:
    """A disk with so many bytes free."""
    return lambda _folder: free


def test_a_disk_without_room_is_told_before_training(tmp_path: Path) -> None:
    runs, models = tmp_path / "runs", tmp_path / "models"
    runs.mkdir()
    models.mkdir()
    needs = {runs: 40_000_000, models: 5_000_000}
    check_room(needs, free=disk(45_000_000))
    with pytest.raises(ConfigError, match=r"has 44.0 MB free, .* writes some 45.0 MB: free some"):
        check_room(needs, free=disk(44_000_000))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "place: the disk is full; free some space, then go on"),
        (errno.EDQUOT, "place: the quota is used up; free some space, then go on"),
        (errno.EIO, "place: Input/output error; mend that, then go on"),
    ],
)
def test_a_failing_disk_is_one_line_with_a_way_on(number: int, said: str) -> None:
    with pytest.raises(StorageError, match=said), storing("go on"):
        raise OSError(number, os.strerror(number), "place")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full for whoever writes more into one file: what a quota does, without root.

    Python ignores the signal that comes with it, and so the write fails.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_checkpoint_ends_a_run_before_it_begins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_no_larger_than(10_000):
        code = main(["char", "--text", "text.txt", "--steps", "5000", *SMALL])
    assert code == 1
    line = told(capsys)
    assert "char-1/checkpoint.pt: no file may be so large here; free some space, then start" in line
    assert list((folder / "runs").iterdir()) == []


def test_a_disk_that_fills_up_says_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["char", "--text", "text.txt", "--steps", "30", "--publish", *SMALL]
    with files_no_larger_than(70_000):  # the report is larger, the checkpoint is not
        assert main(command) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.endswith("free some space, then go on with: cellar-train resume runs/char-1")
    assert not (folder / "model-repository").exists()
    assert RunFolder(folder / "runs/char-1").load_checkpoint()["step"] == 30
    assert not list((folder / "runs/char-1").glob(".*")), "a staging file was left"
    assert main(["resume", "runs/char-1"]) == 0
    assert ModelRepository(folder / "model-repository").names() == ["char"]


def test_a_full_repository_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["char", "--text", "text.txt", "--steps", "4", "--publish", *SMALL]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx.save_model", full)
        assert main(command) == 1
    assert told(capsys) == (
        "cellar-train: model-repository/char: the disk is full; free some space, then go on with: "
        "cellar-train resume runs/char-1"
    )
    assert ModelRepository(folder / "model-repository").names() == []


def test_what_cannot_be_written_leaves_what_was_there(folder: Path) -> None:
    run = RunFolder(folder)
    run.write("checkpoint.pt", b"before")
    (folder / "whole").mkdir()
    with pytest.raises(OSError, match="whole"):
        run.write("whole", b"a file cannot take a folder's place")
    assert (folder / "checkpoint.pt").read_bytes() == b"before"
    assert not list(folder.glob(".whole*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folders_without_permission_are_refused(folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_folder(folder / "locked/runs", what="runs", remedy="give another")
