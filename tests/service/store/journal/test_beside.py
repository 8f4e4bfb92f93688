"""A journal that lets go of groups while somebody else reads it: what is seen has no holes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.store.journal.disk import File, Folder
from service.store.journal.maker import name_of
from service.store.journal.reading import Group
from service.store.journal.segments import Journal
from service.store.journal.snapshot import JournalSnapshot

SEGMENT = 2048
GROUPS = {number: b"<group %d>" % number * 30 for number in range(12)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal"


def opened(path: Path) -> Journal:
    return Journal(Folder(path), str(path), segment_bytes=SEGMENT)


@pytest.fixture
def journal(path: Path) -> Journal:
    """Several segments, each with several groups."""
    journal = opened(path)
    for number, group in GROUPS.items():
        journal.append(number, group)
    assert len(list(path.iterdir())) > 3
    return journal


def let_go(journal: Journal, before: int) -> None:
    journal.drop(before)
    journal.erase()


class Slow(Folder):
    """The n-th file is made only once something else has been done."""

    def __init__(self, path: Path, files: int, other: Callable[[], None]) -> None:
        super().__init__(path)
        self._left, self._other = files, other

    def create(self, name: str, size: int) -> File:
        self._left -= 1
        if not self._left:
            self._other()
        return super().create(name, size)


@pytest.mark.parametrize("before", range(1, 12))
@pytest.mark.parametrize("read", [1, 3, 5])
def test_what_is_let_go_between_two_reads_leaves_no_hole(
    path: Path, journal: Journal, read: int, before: int
) -> None:
    found: list[Group] = []
    with JournalSnapshot(path) as snapshot:
        for group in snapshot.groups(forget=found.clear):
            found.append(group)
            if len(found) == read:
                let_go(journal, before)
    journal.close()
    numbers = [each.number for each in found]
    assert numbers == list(range(numbers[0], 12))
    assert numbers[0] <= before
    assert {each.number: each.data for each in found}.items() <= GROUPS.items()
    assert not any(each.problem for each in found)


@pytest.mark.parametrize("before", range(1, 12))
@pytest.mark.parametrize("files", [1, 2, 3])
def test_what_is_let_go_while_it_is_copied_leaves_no_hole(
    path: Path, journal: Journal, files: int, before: int
) -> None:
    to = path.parent / "copy"
    to.mkdir()
    with JournalSnapshot(path) as snapshot:
        snapshot.copy(Slow(to, files, lambda: let_go(journal, before)))
    journal.close()
    copy = opened(to)
    found = dict(copy.groups())
    copy.close()
    assert list(found) == list(range(min(found), 12))
    assert min(found) <= before
    assert found.items() <= GROUPS.items()


def test_a_segment_that_a_crash_has_brought_back_is_not_read(path: Path, journal: Journal) -> None:
    # Its name was gone, which was not durable, while what was let go behind it was.
    name = name_of(2)
    kept = (path / name).read_bytes()
    before = 2 + max(number for number in GROUPS if b"<group %d>" % number in kept)
    let_go(journal, before)
    assert not (path / name).exists()
    journal.close()
    (path / name).write_bytes(kept)
    journal = opened(path)
    assert [number for number, _ in journal.groups()] == list(range(before, 12))
    journal.drop(before)
    assert not (path / name).exists()
    journal.close()
