"""The journal in real files: damage of every kind, and processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from service.store.journal import layout
from service.store.journal.disk import Folder
from service.store.journal.reading import Group
from service.store.journal.segments import Journal
from service.store.journal.snapshot import JournalSnapshot
from service.store.store import StoreError, StoreFullError
from tests.reasons import ROOT

SEGMENT = 2048
GROUPS = {number: b"<group %d>" % number * (3 + number * 7 % 17) for number in range(12)}


def opened(
    path: Path, segment_bytes: int = SEGMENT, *, most_bytes: int = 1 << 40, create: bool = True
) -> Journal:
    path.mkdir(exist_ok=True)
    return Journal(
        Folder(path),
        str(path),
        create=create,
        segment_bytes=segment_bytes,
        most_bytes=most_bytes,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def filled(path: Path) -> list[Path]:
    """A journal without the first groups, that nobody has open; returns its files."""
    journal = opened(path)
    for number, group in GROUPS.items():
        journal.append(number, group)
    journal.drop(2)
    journal.close()
    return segments(path)


def at_once(job: Callable[[], None]) -> Callable[[], None]:
    job()
    return lambda: None


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.segment"))


def looked_at(path: Path) -> tuple[list[Group], int]:
    """What is there, and how many bytes were not written whole."""
    with JournalSnapshot(path) as snapshot:
        found: list[Group] = []
        for group in snapshot.groups(forget=found.clear):
            found.append(group)  # noqa: PERF402 (it may be cleared)
        return found, 0 if snapshot.torn is None else snapshot.torn.length


def check(found: list[Group], torn: int) -> None:
    """What is given is right, and whatever is missing is said to be."""
    sound = {each.number: each.data for each in found if not each.problem}
    said = [each.number for each in found if each.problem]
    assert [each.number for each in found] == sorted({each.number for each in found})
    assert sound.items() <= GROUPS.items()
    for number in range(2, 12):
        if number not in sound:
            later = min((each for each in sound if each > number), default=99)
            is_said = any(number <= each < later for each in said)
            # Behind the last one that can be read nobody knows how many there were.
            assert is_said or (later == 99 and (torn or said)), (
                f"nobody says that {number} is missing"
            )


def test_what_is_there_is_there_again(path: Path) -> None:
    assert len(filled(path)) > 2
    found, torn = looked_at(path)
    assert ({each.number: each.data for each in found}, torn) == (
        {number: GROUPS[number] for number in range(2, 12)},
        0,
    )
    check(found, torn)


def flips(path: Path) -> Iterator[tuple[list[Group], int]]:
    for file in filled(path):
        sound = file.read_bytes()
        with file.open("r+b", buffering=0) as writer:
            for at in range(len(sound)):
                os.pwrite(writer.fileno(), bytes([sound[at] ^ 1 << at % 8]), at)
                yield looked_at(path)
                os.pwrite(writer.fileno(), sound[at : at + 1], at)


def check_flips(path: Path) -> None:
    for found, torn in flips(path):
        check(found, torn)


def test_a_flipped_bit_anywhere_is_seen_or_does_not_matter(path: Path) -> None:
    check_flips(path)


def trusting(data: bytes, at: int, key: int) -> layout.Record | None:
    """A record, whatever the checksum of its header says."""
    magic, length, number, after, checksum = layout._RECORD.unpack_from(data, at)
    begin = at + layout.HEADER_BYTES
    if magic not in (layout._GROUP, layout._GAP) or begin + length > len(data):
        return None
    return layout.Record(
        at=at,
        stop=at + layout.record_bytes(length),
        number=number,
        after=after,
        data=slice(begin, begin + length),
        is_gap=magic == layout._GAP,
        is_sound=magic == layout._GAP or crc32(data[begin : begin + length]) == checksum,
    )


def test_without_checksums_of_headers_it_would_not_be_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_record", trusting)
    with pytest.raises(AssertionError):
        check_flips(path)


@pytest.mark.parametrize("begin", [0, 1040, 1100])
@pytest.mark.parametrize("length", [40, 512, 2000])
def test_a_stretch_that_is_gone_is_seen(path: Path, begin: int, length: int) -> None:
    for file in filled(path):
        sound = file.read_bytes()
        lost = bytes(min(length, len(sound) - begin))
        file.write_bytes((sound[:begin] + lost + sound[begin + length :])[: len(sound)])
        if begin + length < 600 or begin:
            check(*looked_at(path))
        else:
            # Both copies of what it says of itself are gone.
            with pytest.raises(StoreError, match="has no head"):
                looked_at(path)
        file.write_bytes(sound)


def test_what_a_caller_sends_is_never_taken_for_a_record(path: Path) -> None:
    forged = layout.pack_group(7, 1, b"forged" * 9, key=crc32(bytes(16)))
    journal = opened(path)
    journal.append(0, forged * 5)
    journal.append(1, b"one")
    journal.close()
    for file in segments(path):
        data = bytearray(file.read_bytes())
        data[layout.START + 8] ^= data[layout.START] and 1
        file.write_bytes(data)
    found, _ = looked_at(path)
    assert [(each.number, bool(each.problem)) for each in found] == [(0, True), (1, False)]


# ---- files ----


def test_a_missing_segment_is_damage_that_is_named(path: Path) -> None:
    files = filled(path)
    for file in files[1:-2]:
        away = file.rename(path.parent / "away")
        check(*looked_at(path))
        journal = opened(path)
        assert any(not group for _, group in journal.groups())
        journal.close()
        away.rename(file)
    check(*looked_at(path))


def test_what_cannot_be_used_is_refused_and_left_alone(path: Path) -> None:
    files = filled(path)
    last = files[-1].read_bytes()
    newer = layout.Head(sequence=len(files), after=9, size=SEGMENT, id=bytes(16))
    for wrong, why in (
        (b"", "has no head that can be read: restore"),
        (last[:1500], "has been cut short: restore"),
        (files[0].read_bytes(), "is segment"),
        (packed_as_newer(newer), "is a segment of version 2, and this Cellar knows 1"),
    ):
        files[-1].write_bytes(wrong)
        for look in (looked_at, opened):
            with pytest.raises(StoreError, match=why) as caught:
                look(path)
            assert "\n" not in str(caught.value)
        assert files[-1].read_bytes() == wrong
    files[-1].write_bytes(last)
    check(*looked_at(path))


def packed_as_newer(head: layout.Head) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "VERSION", layout.VERSION + 1)
        return head.pack() + bytes(head.size - layout.START)


def test_the_last_segments_are_missed_where_what_follows_is_empty(path: Path) -> None:
    path.mkdir()
    journal = Journal(Folder(path), str(path), segment_bytes=SEGMENT, begin=at_once)
    journal.append(0, b"zero")
    while len(segments(path)) < 3:
        journal.append(journal.last + 1, bytes(300))
    held = segments(path)[-2]
    journal.close()
    assert not segments(path)[-1].read_bytes()[layout.START :].strip(b"\0")
    held.unlink()
    for look in (looked_at, opened):
        with pytest.raises(StoreError, match=f"{held.name} is missing: restore it"):
            look(path)
    shutil.rmtree(path)
    path.mkdir()
    for create in (looked_at, lambda path: opened(path, create=False)):
        with pytest.raises(StoreError, match="has no segment: restore"):
            create(path)


def test_files_of_other_names_are_left_alone(path: Path) -> None:
    path.mkdir()
    names = ("notes.txt", "1.segment", "0000000000.segment", "x.segment", "0000000007.segment.bak")
    for name in names:
        (path / name).write_bytes(b"mine")
    (path / "0000000009.segment.new").write_bytes(b"its making was cut short")
    filled(path)
    assert all((path / name).read_bytes() == b"mine" for name in names)
    assert not list(path.glob("*.new"))
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in path.glob("000000000[1-9].segment"))


def test_a_start_without_an_append_leaves_nothing_behind(path: Path) -> None:
    files = {file: file.read_bytes() for file in filled(path)}
    for _ in range(3):
        opened(path).close()
    assert {file: file.read_bytes() for file in segments(path)} == files
    journal = opened(path)
    journal.append(12, b"next")
    journal.close()
    assert all(each.read_bytes() == files.get(each) for each in segments(path)[:-2])


# ---- room ----


def until_full(journal: Journal, number: int) -> int:
    """Append until there is no room; returns the first number that is not there."""
    while True:
        try:
            journal.append(number, bytes(300))
        except StoreFullError:
            return number
        number += 1


def test_it_holds_no_more_than_it_may(path: Path) -> None:
    journal = opened(path, most_bytes=10 * SEGMENT)
    first = number = 0
    for _ in range(5):
        before = number
        number = until_full(journal, number)
        assert number > before
        first += (number - first) // 2
        journal.drop(first)
    assert [number for number, _ in journal.groups()] == list(range(first, number))
    journal.drop(number)
    journal.append(number, bytes(300))
    assert [at for at, _ in journal.groups()] == [number]
    journal.close()


def test_the_room_that_is_kept_back_is_not_its(path: Path) -> None:
    path.mkdir()
    has_room = True
    journal = Journal(Folder(path), str(path), segment_bytes=SEGMENT, may_use=lambda: has_room)
    has_room = False
    number = until_full(journal, 0)
    has_room = True
    journal.append(number, bytes(300))
    journal.close()


def test_what_it_holds_is_told_closely(path: Path) -> None:
    journal = opened(path, segment_bytes=1 << 18)
    for number in range(600):
        journal.append(number, bytes(968))
    for first in (0, 30, 300, 590):
        journal.drop(first)
        assert 0 <= journal.held_bytes - (600 - first) * 1000 <= 5000
    journal.drop(600)
    assert journal.held_bytes == 0
    journal.close()


# ---- processes ----


_APPENDS = """
import sys
from pathlib import Path
from service.store.journal.disk import Folder
from service.store.journal.segments import Journal
journal = Journal(Folder(Path(sys.argv[1])), "journal", segment_bytes=8192)
number = journal.last + 1
while True:
    journal.append(number, b"%d," % number * (number * 31 % 400 + 1))
    if number % 50 == 0:
        journal.drop(number - 100)
        journal.erase()
    print(number, flush=True)
    number += 1
"""


def test_a_process_that_is_killed_has_lost_nothing_it_told(path: Path) -> None:
    path.mkdir()
    said = -1
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _APPENDS, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(70)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
            said = max(map(int, lines))
        journal = opened(path, segment_bytes=8192)
        found = dict(journal.groups())
        assert journal.last >= said > 0
        assert list(found) == list(range(min(found), journal.last + 1))
        assert min(found) <= max(0, said - 99)
        assert all(
            group == b"%d," % number * (number * 31 % 400 + 1) for number, group in found.items()
        )
        journal.close()


def test_others_look_while_it_is_written_and_erased(path: Path) -> None:
    journal = opened(path, segment_bytes=16384)
    ended = threading.Event()
    caught: list[BaseException] = []

    def beside(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                while not ended.is_set():
                    work()
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    looks = 0

    def look() -> None:
        nonlocal looks
        found, _ = looked_at(path)
        numbers = [each.number for each in found]
        assert not any(each.problem for each in found), found
        assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
        assert all(each.data == b"%d," % each.number * 100 for each in found)
        looks += 1

    threads = [beside(look), beside(journal.erase)]
    number = 0
    while looks < 60 and not caught:
        journal.append(number, b"%d," % number * 100)
        journal.drop(number - 150)
        number += 1
    ended.set()
    for thread in threads:
        thread.join()
    assert not caught
    journal.close()
