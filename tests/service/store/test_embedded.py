"""The embedded store on a real disk: its files, whom it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import lmdb
import pytest

from service.store import folder as folders
from service.store.embedded import LmdbStore
from service.store.store import StoreError
from tests.reasons import ROOT

BALLAST = 1 << 20
SECRET = b"what a user has sent"


def reopened(path: Path) -> LmdbStore:
    return LmdbStore.open(path, ballast=BALLAST)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[LmdbStore]:
    made = reopened(path)
    yield made
    made.close()


def content(store: LmdbStore) -> tuple[dict[int, bytes], dict[bytes, bytes]]:
    return dict(store.groups()), dict(store.rows())


def files(path: Path) -> dict[str, bytes]:
    found = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


# ---- its files ----


def test_it_is_a_folder_for_its_owner_alone(store: LmdbStore, path: Path) -> None:
    store.append(1, b"group")
    store.erase()
    for each in (path, *path.rglob("*")):
        assert each.stat().st_mode & 0o777 == (0o700 if each.is_dir() else 0o600), each
    assert {each.name for each in path.iterdir()} == {
        "ballast",
        "format",
        "journal",
        "lock",
        "table",
    }
    assert (path / "ballast").stat().st_blocks * 512 >= BALLAST


def test_all_is_there_again_when_it_is_opened_again(store: LmdbStore, path: Path) -> None:
    store.append(7, b"seven")
    store.write({b"a": b"1"})
    store.close()
    again = reopened(path)
    assert content(again) == ({7: b"seven"}, {b"a": b"1"})
    with pytest.raises(ValueError, match="group 7 does not follow group 7"):
        again.append(7, b"seven")
    again.close()


def test_lmdb_syncs_and_never_writes_by_way_of_the_map(path: Path) -> None:
    opened: list[lmdb.Environment] = []

    def watched(*arguments: object, **options: object) -> lmdb.Environment:
        opened.append(lmdb.open(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    store = LmdbStore.open(path, ballast=0, opened=watched)
    store.append(1, b"one")
    store.erase()
    store.close()
    assert len(opened) == 2
    store = LmdbStore.open(path, ballast=0, opened=watched)
    for environment in opened[2:]:
        flags = environment.flags()
        assert (flags["sync"], flags["metasync"], flags["writemap"]) == (True, True, False)
    store.close()


_APPENDS = """
import sys
from pathlib import Path
from service.store.embedded import LmdbStore
store = LmdbStore.open(Path(sys.argv[1]), ballast=0)
number = 0
while True:
    store.append(number, b"%d" % number * 500)
    store.write({b"last": b"%d" % number})
    print(number, flush=True)
    number += 1
"""


def test_a_process_that_is_killed_loses_nothing_that_it_acknowledged(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _APPENDS, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 20:
                process.send_signal(signal.SIGKILL)
                break
        said = [20, *map(int, process.stdout.read().splitlines())]
    store = reopened(path)
    groups, rows = content(store)
    assert list(groups) == list(range(len(groups)))
    assert len(groups) > max(said)
    assert all(group == b"%d" % number * 500 for number, group in groups.items())
    assert int(rows[b"last"]) >= max(said)
    store.close()


# ---- whom it refuses ----


def segment(path: Path) -> Path:
    """The only one of a small journal."""
    (found,) = (path / "journal").iterdir()
    return found


def make_a_file(path: Path) -> None:
    path.write_text("mine")


def make_something_else(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def make_a_format_of_others(path: Path) -> None:
    path.mkdir()
    (path / "format").write_text('{"what": "disk image"}')


def make_format(path: Path, version: int) -> None:
    reopened(path).close()
    said = json.loads((path / "format").read_text())
    (path / "format").write_text(json.dumps({**said, "version": version}))


def make_newer(path: Path) -> None:
    make_format(path, folders.VERSION + 1)


def make_older(path: Path) -> None:
    make_format(path, 1)


def make_garbage(path: Path) -> None:
    reopened(path).close()
    (path / "table" / "data.mdb").write_bytes(b"garbage" * 4096)


def make_empty(path: Path) -> None:
    reopened(path).close()
    segment(path).write_bytes(b"")


def make_cut(path: Path) -> None:
    store = reopened(path)
    store.append(1, bytes(100_000))
    store.close()
    os.truncate(segment(path), 50_000)


def remove_data(path: Path) -> None:
    reopened(path).close()
    segment(path).unlink()


def remove_table_data(path: Path) -> None:
    reopened(path).close()
    (path / "table" / "data.mdb").unlink()


def remove_journal(path: Path) -> None:
    reopened(path).close()
    shutil.rmtree(path / "journal")


def remove_format(path: Path) -> None:
    store = reopened(path)
    store.append(1, b"one")
    store.close()
    (path / "format").unlink()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_a_file, "is no folder"),
        (make_something_else, r"holds something else \(thesis.txt\)"),
        (make_a_format_of_others, "is not that of a store of Cellar"),
        (make_newer, f"has format {folders.VERSION + 1}, and this Cellar knows {folders.VERSION}"),
        (make_older, "has format 1, of an older Cellar, and this one knows 2: use the Cellar that"),
        (make_garbage, "table cannot be read by LMDB"),
        (make_empty, "has no head that can be read: restore"),
        (make_cut, "has been cut short: restore"),
        (remove_data, "journal has no segment: restore"),
        (remove_table_data, "has no file data.mdb: restore"),
        (remove_journal, "the folder 'journal' is missing: restore"),
        (remove_format, "holds a store without its file 'format'"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_cannot_be_used_is_refused_in_one_line_and_left_alone(
    path: Path, make: Callable[[Path], None], why: str
) -> None:
    make(path)
    before = files(path)
    with pytest.raises(StoreError, match=why) as caught:
        reopened(path)
    assert "\n" not in str(caught.value)
    assert files(path) == before


def test_a_store_that_is_in_use_says_by_whom(store: LmdbStore, path: Path) -> None:
    before = files(path)
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on '"):
        reopened(path)
    assert files(path) == before
    store.close()
    reopened(path).close()


def test_where_no_store_is_and_none_shall_be_made(path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        LmdbStore.open(path, create=False)
    assert not path.exists()


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"there is no {tmp_path / 'a'}; make it"):
        reopened(tmp_path / "a" / "store")


@pytest.mark.parametrize("there", [True, False], ids=["a store", "nothing yet"])
def test_without_room_for_the_ballast_it_does_not_begin(path: Path, there: bool) -> None:
    if there:
        reopened(path).close()
    before = files(path)
    with pytest.raises(StoreError, match=r"the disk is full .* MiB are wanted"):
        LmdbStore.open(path, ballast=1 << 60)
    assert files(path) == before
    assert path.exists() == there


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_without_permission_it_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="no permission"):
        reopened(tmp_path / "store")
    tmp_path.chmod(0o700)


def test_a_refusal_by_the_system_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    for error in (
        PermissionError(13, "no"),
        OSError(30, "no"),
        OSError(28, "no"),
        OSError(5, "no"),
    ):
        line = str(folders.refusal(tmp_path, error))
        assert str(tmp_path) in line
        assert "\n" not in line
    assert "run as the owner" in str(folders.refusal(tmp_path, PermissionError(13, "no")))
    assert "make room" in str(folders.refusal(tmp_path, OSError(28, "no")))


def test_an_empty_folder_or_a_fresh_disk_becomes_a_store(path: Path) -> None:
    path.mkdir(0o755)
    (path / "lost+found").mkdir()
    store = reopened(path)
    store.append(1, b"one")
    store.close()
    store = reopened(path)
    assert content(store)[0] == {1: b"one"}
    assert path.stat().st_mode & 0o777 == 0o700
    store.close()


def test_a_store_whose_making_was_cut_short_is_made(path: Path) -> None:
    reopened(path).close()
    (path / "format").rename(path / "format.new")
    shutil.rmtree(path / "table")
    store = reopened(path)
    store.write({b"a": b"1"})
    store.close()
    assert (path / "format").exists()


# ---- what it leaves behind ----


def is_left(path: Path, what: bytes) -> bool:
    return any(what in each for each in files(path).values())


def test_what_was_dropped_is_in_no_file_once_it_is_erased(store: LmdbStore, path: Path) -> None:
    # Small groups and rows share pages with those that stay: LMDB's compaction copies such pages.
    for number in range(60):
        secret = SECRET * (1 if number % 2 else 300) if number < 40 else b""
        store.append(number, b"group %d " % number + secret)
        store.write({b"row %d" % number: b"value " + secret})
    store.drop(40)
    store.write({}, [b"row %d" % number for number in range(40)])
    assert is_left(path, SECRET)
    before = content(store)
    store.erase()
    assert not is_left(path, SECRET)
    assert content(store) == before
    store.append(60, b"next")
    store.write({b"row 60": b"next"})
    store.close()
    again = reopened(path)
    assert content(again) == (before[0] | {60: b"next"}, before[1] | {b"row 60": b"next"})
    again.close()


def test_others_read_and_write_while_it_is_erased(store: LmdbStore, path: Path) -> None:
    dice = Random(3)
    groups = {number: dice.randbytes(2000) for number in range(400)}
    rows = {b"%d" % number: dice.randbytes(2000) for number in range(400)}
    for number, group in groups.items():
        store.append(number, group)
    store.write(rows)
    erased = 0
    ended = threading.Event()

    def erase() -> None:
        nonlocal erased
        while not ended.is_set():
            store.erase()
            erased += 1

    thread = threading.Thread(target=erase)
    thread.start()
    number = 400
    while erased < 2:
        groups[number] = dice.randbytes(2000)
        store.append(number, groups[number])
        gone, key = b"%d" % dice.randrange(400), b"%d" % dice.randrange(400)
        rows.pop(gone, None)
        rows[key] = dice.randbytes(100)
        store.write({key: rows[key]}, [gone])
        if number % 20 == 0:
            store.drop(number - 300)
            groups = {at: group for at, group in groups.items() if at >= number - 300}
        assert store.row(key) == rows[key]
        number += 1
    ended.set()
    assert next(iter(store.groups()))[0] == min(groups)
    thread.join()
    assert content(store) == (groups, dict(sorted(rows.items())))
    store.close()
    again = reopened(path)
    assert content(again) == (groups, dict(sorted(rows.items())))
    again.close()


def test_a_store_may_be_closed_while_it_is_erased(store: LmdbStore, path: Path) -> None:
    store.write({b"%d" % number: bytes(3000) for number in range(3000)})
    caught: list[StoreError] = []

    def erase() -> None:
        try:
            while True:
                store.erase()
        except StoreError as error:
            caught.append(error)

    thread = threading.Thread(target=erase)
    thread.start()
    store.close()
    thread.join()
    assert "closed" in str(caught[0])
    assert not list(path.glob("*.new"))
    again = reopened(path)
    assert len(list(again.rows())) == 3000
    again.close()


@pytest.mark.parametrize("step", ["copying", "between", "clearing"])
def test_a_crash_while_the_table_is_erased_leaves_one_of_the_two(
    store: LmdbStore, path: Path, step: str
) -> None:
    store.write({b"a": b"1"})
    store.close()
    table, new, old = path / "table", path / "table.new", path / "table.old"
    shutil.copytree(table, old if step != "copying" else new)
    if step == "copying":
        os.truncate(new / "data.mdb", 5000)
    if step == "between":
        table.rename(new)
        os.truncate(old / "data.mdb", 5000)
    store = reopened(path)
    assert content(store)[1] == {b"a": b"1"}
    assert not new.exists()
    assert not old.exists()
    store.close()
