"""Disks that are full, and disks that fail: at the edge to LMDB, and with a real limit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest

from service.store.embedded import LmdbStore
from service.store.environment import Environment
from service.store.folder import Ballast
from service.store.store import StoreFailedError, StoreFullError
from tests.reasons import ROOT

MIB = 1 << 20


def lmdb_error(code: int) -> lmdb.Error:
    kind = lmdb.DiskError if code == errno.ENOSPC else lmdb.Error
    error = kind(f"mdb_txn_commit: {os.strerror(code)}")
    error.code = code  # type: ignore[misc]
    return error


class FaultyEnvironment:
    """A real environment whose next transaction ends with an error, before or after it is kept."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.real = lmdb.open(*arguments, **options)
        self.at: str | None = None
        self.error: Exception | None = None
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def begin(self, write: bool = False, buffers: bool = False) -> Any:
        if not write:
            return self.real.begin(buffers=True) if buffers else self.real.begin()
        self.writes += 1
        if self.at == "begin":
            raise self.fault()
        return FaultyTransaction(self, self.real.begin(write=True))

    def fault(self) -> Exception:
        assert self.error is not None
        self.at = None
        return self.error


class FaultyTransaction:
    def __init__(self, environment: FaultyEnvironment, real: Any) -> None:
        self.environment = environment
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def put(self, *arguments: Any, **options: Any) -> Any:
        if self.environment.at == "put":
            raise self.environment.fault()
        return self.real.put(*arguments, **options)

    def commit(self) -> None:
        if self.environment.at == "commit":
            self.real.abort()
            raise self.environment.fault()
        self.real.commit()
        if self.environment.at == "after the commit":
            raise self.environment.fault()
        if self.environment.at == "the page that counts":
            self.environment.at = "begin"
            error, self.environment.error = self.environment.error, lmdb.PanicError("MDB_PANIC")
            assert error is not None
            raise error


class Faulty:
    """A store, and the environment of its table."""

    def __init__(self, path: Path) -> None:
        opened: list[FaultyEnvironment] = []

        def open_one(*arguments: Any, **options: Any) -> FaultyEnvironment:
            opened.append(FaultyEnvironment(*arguments, **options))
            return opened[-1]

        self.store = LmdbStore.open(path, ballast=MIB, opened=open_one)
        (self.table,) = opened
        self.store.append(1, b"one")
        self.store.write({b"a": b"1"})


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    return Faulty(tmp_path / "store")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get)
@pytest.mark.parametrize("at", ["put", "commit"])
def test_no_room_before_the_sync_leaves_nothing_and_the_next_may_do(
    faulty: Faulty, at: str, code: int
) -> None:
    faulty.table.at, faulty.table.error = at, lmdb_error(code)
    with pytest.raises(StoreFullError, match="make room"):
        faulty.store.write({b"a": b"2", b"b": b"2"})
    faulty.store.write({b"c": b"3"})
    assert dict(faulty.store.rows()) == {b"a": b"1", b"c": b"3"}


@pytest.mark.parametrize(
    ("at", "code"),
    [
        ("begin", errno.EIO),
        ("put", errno.EIO),
        ("commit", errno.EIO),
        ("commit", errno.EROFS),
        ("after the commit", errno.EIO),
        # Full only after all: it is there, or LMDB is not sure.
        ("after the commit", errno.ENOSPC),
        ("the page that counts", errno.ENOSPC),
    ],
)
def test_after_any_other_error_the_disk_is_left_alone(faulty: Faulty, at: str, code: int) -> None:
    store = faulty.store
    faulty.table.at, faulty.table.error = at, lmdb_error(code)
    with pytest.raises(StoreFailedError, match="see to its disk") as caught:
        store.write({b"b": b"2"})
    assert "\n" not in str(caught.value)
    writes = faulty.table.writes
    calls: list[Callable[[], Any]] = [
        lambda: store.write({b"c": b"3"}),
        lambda: store.row(b"a"),
        lambda: list(store.rows()),
        store.erase,
    ]
    for call in calls:
        with pytest.raises(StoreFailedError, match="see to its disk"):
            call()
    assert faulty.table.writes == writes
    # The journal has not failed.
    store.append(2, b"two")
    assert dict(store.groups()) == {1: b"one", 2: b"two"}
    store.close()


# ---- a map that is full ----


def until_full(write: Callable[[int], None], number: int = 0) -> int:
    """Write number after number until there is no room; returns the first that is not there."""
    while True:
        try:
            write(number)
        except StoreFullError:
            return number
        number += 1


@pytest.mark.parametrize("size", [5000, 50_000])
def test_a_full_journal_lets_go_of_groups_and_takes_others(tmp_path: Path, size: int) -> None:
    open_it = partial(
        LmdbStore.open,
        tmp_path / "store",
        journal_most=MIB,
        segment_bytes=MIB // 8,
        ballast=MIB,
    )
    store = open_it()

    def append(number: int) -> None:
        store.append(number, bytes(size))

    first, number = 0, until_full(append)
    assert MIB / 2 < number * size < MIB
    # Again and again: what deletions fill must come back.
    for _ in range(8):
        first += (number - first) // 2
        store.drop(first)
        assert next(iter(store.groups()))[0] == first
        before, number = number, until_full(append, number)
        assert number > before
    assert [number for number, _ in store.groups()] == list(range(first, number))
    store.close()
    # What is full can be opened, and emptied.
    store = open_it()
    store.drop(number)
    append(number)
    append(number + 1)
    assert [number for number, _ in store.groups()] == [number, number + 1]
    store.close()


def test_a_full_table_lets_go_of_rows(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", table_map=MIB, ballast=MIB)
    rows = until_full(lambda row: store.write({b"%08d" % (row * 7919 % 10_000): bytes(1500)}))
    keys = [key for key, _ in store.rows()]
    assert len(keys) == rows > 300
    for at in range(0, rows, 7):
        store.write({}, keys[at : at + 7])
    assert list(store.rows()) == []
    store.write({b"a": bytes(1500)})
    store.close()


# ---- a disk that is full ----


class SmallDisk:
    """Counts what is allocated, by the file, and has no more than some bytes."""

    def __init__(self, size: int) -> None:
        self.free = size

    def allocate(self, file: int, at: int, length: int) -> None:
        if length > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= length
        os.posix_fallocate(file, at, length)


def test_only_those_who_must_have_room_use_the_ballast(tmp_path: Path) -> None:
    disk, ballast = SmallDisk(6 * MIB), Ballast(tmp_path, MIB)
    assert ballast.take()
    environment = Environment(
        tmp_path / "journal", map_bytes=64 * MIB, ballast=ballast, allocate=disk.allocate
    )
    number = until_full(lambda at: environment.write([(at.to_bytes(8), bytes(10_000))]))
    assert number > 100
    assert not ballast.missing
    with pytest.raises(StoreFullError):
        environment.write([(b"\xff" * 9, bytes(100_000))], spare=True)
    assert ballast.missing == MIB
    environment.write([], [at.to_bytes(8) for at in range(number - 1)])
    environment.write([(b"\xff" * 9, bytes(100_000))])
    assert [key for key, _ in environment.items()] == [(number - 1).to_bytes(8), b"\xff" * 9]
    environment.close()


def test_deletions_have_room_where_nothing_else_has(tmp_path: Path) -> None:
    disk = SmallDisk(6 * MIB)
    environment = Environment(
        tmp_path / "table", map_bytes=64 * MIB, ballast=Ballast(tmp_path, 0), allocate=disk.allocate
    )
    rows = until_full(lambda at: environment.write([(b"%d" % at, bytes(1500))], spare=True))
    assert rows > 1000
    environment.write([], [b"%d" % at for at in range(0, rows, 7)])
    assert len(list(environment.items())) == rows - len(range(0, rows, 7))
    environment.close()


def test_while_the_ballast_cannot_be_taken_back_others_do_without(tmp_path: Path) -> None:
    gone = Ballast(tmp_path, 1 << 60)
    assert not gone.take()
    environment = Environment(tmp_path / "journal", map_bytes=64 * MIB, ballast=gone)
    with pytest.raises(StoreFullError):
        environment.write([(b"group", b"")])
    environment.write([(b"row", b"")], spare=True)
    assert list(environment.items()) == [(b"row", b"")]
    environment.close()


def test_a_disk_that_cannot_take_room_ahead_is_used_as_it_is(tmp_path: Path) -> None:
    def refuse(file: int, at: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    environment = Environment(
        tmp_path / "journal", map_bytes=4 * MIB, ballast=Ballast(tmp_path, 0), allocate=refuse
    )
    number = until_full(lambda at: environment.write([(at.to_bytes(8), bytes(10_000))]))
    assert number > 300
    environment.write([], [at.to_bytes(8) for at in range(number)])
    assert environment.held_bytes == 0
    environment.close()


def test_a_disk_that_fails_while_room_is_taken_has_failed(tmp_path: Path) -> None:
    def fail(file: int, at: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    environment = Environment(
        tmp_path / "journal", map_bytes=4 * MIB, ballast=Ballast(tmp_path, 0), allocate=fail
    )
    with pytest.raises(StoreFailedError):
        environment.write([(b"a", b"1")])
    with pytest.raises(StoreFailedError):
        environment.get(b"a")
    environment.close()


_FILLS = """
import os, resource, sys
from pathlib import Path
from service.store.embedded import LmdbStore
from service.store.store import StoreFullError

path, ballast, limit, most = Path(sys.argv[1]), *map(int, sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
group = os.urandom(9000)
store = LmdbStore.open(path, ballast=ballast, journal_most=most, segment_bytes=1 << 20)
first = number = 0
for _ in range(6):
    before = number
    try:
        while True:
            store.append(number, group)
            number += 1
    except StoreFullError:
        pass
    assert number > before, (number, before)
    try:
        for row in range(10**6):
            store.write({b"%d" % row: group})
    except StoreFullError:
        pass
    assert row > 0
    store.write({}, [b"%d" % each for each in range(row)])
    assert not list(store.rows())
    first += (number - first) // 2
    store.drop(first)
store.close()
store = LmdbStore.open(path, ballast=0)
assert dict(store.groups()) == dict.fromkeys(range(first, number), group)
print("all is well")
"""


def run(*command: object) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    return done.stdout + done.stderr


def test_a_limit_on_the_size_of_files_is_lived_through(tmp_path: Path) -> None:
    told = run(sys.executable, "-c", _FILLS, tmp_path / "store", MIB, 5 * MIB, 4 * MIB)
    assert told == "all is well\n"


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_full_file_system_is_lived_through(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=40m none {small} && "
    if shutil.which("unshare") is None or "denied" in run(
        "unshare", "-rm", "sh", "-c", mount + ":"
    ):
        pytest.skip("no file system can be mounted here")
    script = tmp_path / "fills.py"
    script.write_text(_FILLS)
    command = f"PYTHONPATH=. {sys.executable} {script} {small}/store {4 * MIB} 0 {1 << 34}"
    assert run("unshare", "-rm", "sh", "-c", mount + command) == "all is well\n"
