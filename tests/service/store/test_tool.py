"""``cellar-store``: what it tells of a store, at rest and in use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from service.store import tool
from service.store.embedded import LmdbStore
from service.store.records import Section, pack
from tests.reasons import ROOT

BALLAST = 1 << 20


def group(number: int) -> bytes:
    return pack([Section("steps", {}, {"token": np.full(9, number, np.int32)})])


def session(name: str, position: int, **more: str) -> bytes:
    meta: dict[str, str | int | float] = {
        "id": name,
        "model": "text",
        "version": 3,
        "seed": position,
        **more,
    }
    return pack([Section("session", meta, {})])


ROWS = {
    b"s" + (1).to_bytes(8): session("a" * 32, 90, owner="alice"),
    b"s" + (300).to_bytes(8): session("ring \x07 the bell", 0),
    b"c" + (1).to_bytes(8): pack([Section("rows", {}, {"h": np.ones((2, 8), np.float32)})]),
    b"mowner": b"plain text",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = LmdbStore.open(tmp_path / "store", ballast=BALLAST)
    for number in range(5, 25):
        store.append(number, group(number))
    store.drop(8)
    store.write(ROWS)
    yield store
    store.close()


@pytest.fixture
def path(store: LmdbStore, tmp_path: Path) -> Path:
    """A store that nobody has open."""
    store.close()
    return tmp_path / "store"


def beside(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service.store.tool", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )


def put(path: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(path / "table")) as environment, environment.begin(write=True) as changes:
        changes.put(key, value)


def segment(path: Path) -> Path:
    """The only one of a small journal."""
    (found,) = (path / "journal").iterdir()
    return found


def flip(path: Path, record: bytes, at: int) -> None:
    """Change a bit of a group where it lies."""
    data = bytearray(segment(path).read_bytes())
    data[data.index(record) + at] ^= 1
    segment(path).write_bytes(data)


def test_list_shows_what_is_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["list", str(path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{path}: a store of format 2"
    assert told[1].startswith("journal: 17 groups, 8 to 24; ")
    assert told[2].startswith(
        "table: 2 sessions, 1 checkpoints, 0 initial states, 1 meta, 0 other; "
    )
    assert [line.split() for line in told[3:5]] == [
        ["number", "id", "model", "version", "seed", "owner"],
        ["1", "a" * 32, "text", "3", "90", "alice"],
    ]
    # Ids are callers' words.
    assert "'ring \\x07 the bell'" in told[5]


def test_list_as_json_has_numbers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["list", f"lmdb:{path}", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["journal"].items() >= {"groups": 17, "first": 8, "last": 24}.items()
    assert told["journal"]["disk_bytes"] >= told["journal"]["bytes"] > 0
    counts = {"sessions": 2, "checkpoints": 1, "meta": 1, "other": 0}
    assert told["table"].items() >= counts.items()
    assert told["sessions"][1] == {
        "number": 300,
        "id": "ring \x07 the bell",
        "model": "text",
        "version": 3,
        "seed": 0,
    }


def test_list_of_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LmdbStore.open(tmp_path / "store", ballast=0).close()
    assert tool.main(["list", str(tmp_path / "store"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["journal"]["first"], told["journal"]["last"], told["sessions"]) == (None, None, [])


def test_verify_names_what_is_damaged(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == "17 groups and 4 rows read, 0 damaged\n"
    flip(path, group(9), len(group(9)) - 3)
    flip(path, group(11), -32)
    flip(path, group(12), -32)
    flipped = bytearray(session("b", 1))
    flipped[20] ^= 1
    put(path, b"s" + (300).to_bytes(8), bytes(flipped))
    put(path, b"c" + bytes(3), b"")
    put(path, b"mlimits", bytes(flipped))
    assert tool.main(["verify", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "group 9: damaged columns: steps.token",
        "group 12: all from 11 on are missing",
        "row b'c\\x00\\x00\\x00': its number has not 8 bytes",
        "row b'mlimits': the checksum of the header does not hold",
        "row of session 300: the checksum of the header does not hold",
        "16 groups and 6 rows read, 5 damaged",
    ]
    assert tool.main(["list", str(path)]) == 0
    assert "300     (damaged)" in capsys.readouterr().out


def test_compact_leaves_what_is_kept_and_no_more(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = group(5)
    assert dropped in segment(path).read_bytes()
    assert tool.main(["compact", str(path)]) == 0
    assert "MiB on disk before" in capsys.readouterr().out
    assert dropped not in segment(path).read_bytes()
    store = LmdbStore.open(path, ballast=BALLAST)
    assert [number for number, _ in store.groups()] == list(range(8, 25))
    assert dict(store.rows()) == ROWS
    store.close()


def test_a_backup_opens_as_a_store(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = path.parent / "backup"
    assert tool.main(["backup", str(path), str(to)]) == 0
    assert capsys.readouterr().out == f"copied {path} to {to}\n"
    assert all(
        each.stat().st_mode & 0o777 == (0o700 if each.is_dir() else 0o600)
        for each in (to, *to.rglob("*"))
    )
    store = LmdbStore.open(to, ballast=BALLAST)
    assert dict(store.groups()) == {number: group(number) for number in range(8, 25)}
    assert dict(store.rows()) == ROWS
    store.close()


def test_a_backup_goes_to_an_empty_place_alone(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = path.parent / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    for to in (thesis, thesis.parent, path):
        assert tool.main(["backup", str(path), str(to)]) == 1
        assert "is not empty: name a folder that is new" in capsys.readouterr().err
    assert [each.name for each in thesis.parent.iterdir()] == ["thesis.txt"]


def test_a_backup_that_fails_leaves_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path / "table" / "data.mdb").write_bytes(b"garbage" * 4096)
    to = path.parent / "backup"
    assert tool.main(["backup", str(path), str(to)]) == 1
    assert "cannot be read by LMDB" in capsys.readouterr().err
    assert list(to.iterdir()) == []


@pytest.mark.parametrize("command", ["list", "verify", "compact", "backup"])
@pytest.mark.parametrize("what", ["nothing", "something else", "newer"])
def test_what_is_no_store_is_refused_in_one_line(
    tmp_path: Path, command: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "store"
    if what == "something else":
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
    if what == "newer":
        LmdbStore.open(path, ballast=0).close()
        text = (path / "format").read_text().replace('"version": 2', '"version": 3')
        (path / "format").write_text(text)
    more = [str(tmp_path / "backup")] if command == "backup" else []
    assert tool.main([command, str(path), *more]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("cellar-store: ")
    assert str(path) in line
    assert not (tmp_path / "backup").exists()


def test_beside_a_server_it_looks_and_copies_and_does_not_compact(
    store: LmdbStore, tmp_path: Path
) -> None:
    path, to = tmp_path / "store", tmp_path / "backup"
    listed = beside("list", path, "--json")
    assert json.loads(listed.stdout)["journal"]["last"] == 24
    store.append(25, group(25))
    verified = beside("verify", path)
    # What was dropped shows until it is erased, or the server ends.
    assert (verified.returncode, verified.stdout) == (
        0,
        "21 groups and 4 rows read, 0 damaged\n",
    )
    compacted = beside("compact", path)
    assert compacted.returncode == 1
    assert "is in use by process" in compacted.stderr
    store.erase()
    store.append(26, group(26))
    assert beside("backup", path, to).returncode == 0
    store.append(27, group(27))
    copy = LmdbStore.open(to, ballast=0)
    assert [number for number, _ in copy.groups()] == list(range(8, 27))
    copy.close()


_HOLDS = """
import sys
from pathlib import Path
from service.store.reading import Snapshot
with Snapshot(Path(sys.argv[1]) / "table") as snapshot:
    print("held", flush=True)
    sys.stdin.read()
    assert {bytes(value) for _, value in snapshot.items()} == {b"old" * 300}
print("all is well")
"""


def test_pages_that_a_reader_holds_are_not_written_again(store: LmdbStore, tmp_path: Path) -> None:
    keys = [key for key, _ in store.rows()]
    store.write({b"%d" % number: b"old" * 300 for number in range(100)}, keys)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, tmp_path / "store"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for turn in range(20):
            store.write({b"%d" % number: b"new" * 300 for number in range(turn % 2, 100, 2)})
        told, _ = process.communicate()
    assert told == "all is well\n"


_READS = """
import sys
from pathlib import Path
from service.store.journal.snapshot import JournalSnapshot
from service.store.reading import Snapshot
for round in range(40):
    with Snapshot(Path(sys.argv[1]) / "table") as snapshot:
        rows = dict(snapshot.items())
        assert len(set(rows.values())) == 1, rows
    with JournalSnapshot(Path(sys.argv[1]) / "journal") as snapshot:
        groups = []
        for group in snapshot.groups(forget=groups.clear):
            groups.append(group)
        assert not any(each.problem for each in groups), groups
        numbers = [each.number for each in groups]
        assert numbers and numbers == list(range(numbers[0], numbers[-1] + 1)), numbers
print("all is well")
"""


def test_what_is_read_while_a_server_writes_and_erases_is_of_one_moment(
    store: LmdbStore, tmp_path: Path
) -> None:
    number = 25
    store.write({b"a": b"1", b"b": b"1"}, list(ROWS))
    with subprocess.Popen(
        [sys.executable, "-c", _READS, tmp_path / "store"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            store.append(number, bytes(20_000))
            store.write(dict.fromkeys((b"a", b"b"), b"%d" % number))
            store.drop(number - 50)
            if number % 5 == 0:
                store.erase()
            number += 1
        assert process.stdout is not None
        assert process.stdout.read() == "all is well\n"
