"""The key that snapshots are signed with: which files are keys, and when another is taken."""

from pathlib import Path

import pytest

from service.engine.calls.snapshots.key import SnapshotKey, SnapshotKeyError, read_key
from service.server import Server
from service.settings import Settings

KEY = b"0123456789abcdef" * 2


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_end_is_no_part_of_it(tmp_path: Path, end: bytes) -> None:
    assert read_key(written(tmp_path / "key", KEY + end)) == KEY


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [
        (KEY[:-1], 0o600, "31 bytes"),
        (b"", 0o600, "0 bytes"),
        (KEY[:-1] + b"\n", 0o600, "31 bytes"),
        (KEY * 200, 0o600, "more than 4,096"),
        (KEY, 0o604, "everybody"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, data: bytes, mode: int, says: str) -> None:
    path = written(tmp_path / "key", data, mode)
    with pytest.raises(SnapshotKeyError, match=says) as refused:
        read_key(path)
    assert str(path) in str(refused.value)
    with pytest.raises(SnapshotKeyError, match="--snapshot-key: "):
        Server(Settings(snapshot_key=path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotKeyError, match="cannot be read"):
        read_key(tmp_path / "none")


def test_another_key_is_taken_and_what_is_none_is_not(tmp_path: Path) -> None:
    path = written(tmp_path / "key", KEY)
    key = SnapshotKey(path)
    assert key.now() == KEY
    written(path, KEY[::-1])
    assert key.now() == KEY[::-1]
    written(path, b"short")
    assert key.now() == KEY[::-1]
    path.unlink()
    assert key.now() == KEY[::-1]
    written(path, KEY + KEY)
    assert key.now() == KEY + KEY
