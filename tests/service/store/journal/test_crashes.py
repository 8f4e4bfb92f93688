"""The journal on a disk that forgets, tears, gets full and fails, ended at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.store.journal import letting_go, maker, segments
from service.store.store import StoreError
from tests.service.store.journal.disk import FakeDisk, FakeFile
from tests.service.store.journal.play import STEPS, Play

DONE = st.lists(st.tuples(st.sampled_from(STEPS), st.none() | st.integers(1, 14)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(DONE, st.integers(0, 2**32))
def test_what_was_appended_outlives_every_end(
    steps: list[tuple[str, int | None]], seed: int
) -> None:
    play = Play(seed)
    for step, crash_at in steps:
        play.do(step, crash_at)
    play.end(cut=True)


STORY = (
    *["append"] * 6,
    "append large",
    "append huge",
    "append",
    "drop",
    "append large",
    "erase",
    *["append"] * 9,
    "drop",
    "erase",
    "reopen",
    "append",
    "drop",
    "erase",
)


def ended_at(call: int, seed: int) -> bool:
    """Play a story that ends at a call, and go on behind it; returns whether it came to that."""
    play = Play(seed)
    play.disk.calls = 0
    for step in STORY:
        left = call - play.disk.calls
        if left <= 0:
            break
        play.do(step, left)
    else:
        return False
    for step in ("append", "append large", "cut", "erase", "append", "kill", "cut"):
        play.do(step)
    return True


@pytest.mark.parametrize("seed", range(3))
def test_a_story_may_end_at_any_call(seed: int) -> None:
    call = 1
    while ended_at(call, seed):
        call += 1
    assert call > 80


def random_plays(count: int) -> Iterator[None]:
    for seed in range(count):
        dice = Random(seed)
        play = Play(seed)
        for _ in range(40):
            play.do(dice.choice(STEPS), dice.choice((None, None, dice.randint(1, 14))))
        play.end(cut=True)
        yield


@pytest.mark.long
@pytest.mark.timeout(300)
def test_long_plays_hold() -> None:
    for _ in random_plays(2000):
        pass


# ---- faults that must be seen ----


def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeDisk.__init__

    def without(self: FakeDisk, dice: Random) -> None:
        real(self, dice)
        self.syncs = False

    monkeypatch.setattr(FakeDisk, "__init__", without)


def no_sync_of_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeFile.sync

    def sync(self: FakeFile) -> None:
        if self._inode.disk:
            self._disk.look(self._life)
        else:
            real(self)

    monkeypatch.setattr(FakeFile, "sync", sync)


def no_sync_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDisk, "sync_names", lambda self: self.look(self.life))


def rename_before_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeDisk.rename

    def early(self: FakeDisk, name: str, to: str) -> None:
        if to in self._names:
            return
        real(self, name, to)

    def write(self: FakeFile, data: bytes, at: int) -> None:
        disk = self._disk
        for name, inode in list(disk._names.items()):
            if inode is self._inode and maker.is_unfinished(name):
                early(disk, name, name.removesuffix(".new"))
                disk.sync_names()
        written(self, data, at)

    def late(self: FakeDisk, name: str, to: str) -> None:
        if name in self._names:
            real(self, name, to)

    written = FakeFile.write
    monkeypatch.setattr(FakeFile, "write", write)
    monkeypatch.setattr(FakeDisk, "rename", late)


def nothing_made_durable_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.Journal, "_make_durable", lambda self, last_record: None)


def no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.journal.letting_go.pack_gap", lambda *_: bytes(32))


def no_wipe(monkeypatch: pytest.MonkeyPatch) -> None:
    real = letting_go.let_go

    def only_the_gap(*given: object, wipe: bool, **named: object) -> None:
        real(*given, wipe=False, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(segments, "let_go", only_the_gap)


def failure_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.Journal, "_check", lambda self: None)
    real = segments.Journal._fail

    def fail(self: segments.Journal, error: OSError) -> Exception:
        found = real(self, error)
        self._refusal = None
        return found

    monkeypatch.setattr(segments.Journal, "_fail", fail)


def leftovers_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwritten(self: segments.Journal, error: OSError, at: int, length: int) -> Exception:
        return self._full() if error.errno == 28 else self._fail(error)

    monkeypatch.setattr(segments.Journal, "_unwritten", unwritten)


@pytest.mark.parametrize(
    "plant",
    [
        no_sync,
        no_sync_of_appends,
        no_sync_of_names,
        rename_before_sync,
        nothing_made_durable_at_open,
        no_gap,
        no_wipe,
        failure_forgotten,
        leftovers_left,
    ],
    ids=lambda each: each.__name__,
)
def test_a_fault_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, StoreError)) as seen:
        for _ in random_plays(2000):
            pass
    print(plant.__name__, repr(seen.value))
