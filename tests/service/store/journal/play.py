"""A journal on a disk that ends at any call, held against what a journal promises."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

from service.store.journal.segments import Journal
from service.store.store import StoreFailedError, StoreFullError
from tests.service.store.journal.disk import CrashError, FakeDisk

SEGMENT = 8192
STEPS = (
    "append",
    "append",
    "append",
    "append large",
    "append huge",
    "drop",
    "erase",
    "reopen",
    "kill",
    "cut",
    "full",
    "room",
    "no room for a group",
    "failed write",
    "failed sync",
)


class Play:
    """Does one thing after another to a journal, and checks after every end what is there.

    Args:
        seed: Of all that is drawn.
    """

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.disk = FakeDisk(self.dice)
        self.kept: dict[int, bytes] = {}
        self.doubtful: dict[int, bytes] = {}
        self.secrets: list[bytes] = []
        self.dropped = self.erased = 0
        self.next = 0
        self._attempt = 0
        self.journal = self.open()

    def open(self) -> Journal:
        return Journal(self.disk, "journal", segment_bytes=SEGMENT, begin=self._begin)

    def _begin(self, job: Callable[[], None]) -> Callable[[], None]:
        if self.dice.random() < 0.5:
            job()
            return lambda: None
        return job

    # ---- what is done ----

    def do(self, step: str, crash_at: int | None = None) -> None:
        """One step, which may end the process or the machine at a call."""
        self.disk.crash_at = crash_at
        try:
            self._do(step)
            self.disk.crash_at = None
        except CrashError:
            self.end(cut=self.dice.random() < 0.7)
        except StoreFailedError:
            self._check_failed()
            self.end(cut=self.dice.random() < 0.5)

    def _do(self, step: str) -> None:
        match step:
            case "append":
                self.append(self.dice.randint(20, 700))
            case "append large":
                self.append(self.dice.randint(1000, 4000))
            case "append huge":
                self.append(SEGMENT + self.dice.randint(0, 999))
            case "drop":
                self.dropped = max(self.dropped, self.dice.randint(0, self.next))
                self.journal.drop(self.dropped)
            case "erase":
                self.journal.erase()
                self._note_erased()
            case "reopen":
                self.journal.close()
                self.disk.kill()
                self.check()
            case "kill" | "cut":
                self.end(cut=step == "cut")
            case "full" | "room":
                self.disk.full = step == "full"
            case "no room for a group":
                self._with_fault("write", errno.ENOSPC)
            case "failed write":
                self._with_fault("write", errno.EIO)
            case "failed sync":
                self._with_fault("sync", errno.EIO)

    def _with_fault(self, kind: str, code: int) -> None:
        self.disk.fails[kind] = code
        self.append(self.dice.randint(20, 2000))
        self.disk.fails.clear()

    def append(self, length: int) -> None:
        self._attempt += 1
        number = self.next + self.dice.choice((0, 0, 0, 1, 5))
        # Ends in zeros now and then: what is not written looks like that, too.
        name = b"<%d, try %d>" % (number, self._attempt)
        group = (name * length)[: length - 9] + self.dice.choice((bytes(9), name * 9))[:9]
        self.doubtful = {number: group}
        try:
            self.journal.append(number, group)
        except StoreFullError:
            self.doubtful = {}
            return
        self.doubtful = {}
        self.kept[number] = group
        self.next = number + 1

    def _note_erased(self) -> None:
        self.erased = max(self.erased, min(self.dropped, self.next))
        gone = [number for number in self.kept if number < self.erased]
        self.secrets += [self.kept.pop(number)[:-9] for number in gone]
        left = self.disk.bytes
        assert not any(secret in left for secret in self.secrets), "what was erased is there"

    # ---- what must hold ----

    def end(self, *, cut: bool) -> None:
        """End without a word, and open what is left."""
        if cut:
            self.disk.cut()
        else:
            self.disk.kill()
        self.disk.fails.clear()
        self.check()

    def check(self) -> None:
        """Open the journal again, and compare."""
        was_full, self.disk.full = self.disk.full, False
        self.journal = self.open()
        self.disk.full = was_full
        found = dict(self.journal.groups())
        may_be = self.kept | self.doubtful
        for number, group in found.items():
            # What was dropped, and is half gone, may be called missing.
            if group or number >= self.dropped:
                assert group == may_be.get(number), f"group {number} is not what was appended"
        for number, group in self.kept.items():
            assert number < self.dropped or found.get(number) == group, f"group {number} is lost"
        assert list(found) == sorted(found)
        assert max(found, default=-1) <= self.journal.last
        assert self.next - 1 <= self.journal.last, "the last number is forgotten"
        # Whoever has seen it counts on it.
        self.kept |= {number: found[number] for number in self.doubtful if number in found}
        self.doubtful = {}
        self.next = self.journal.last + 1
        # What was dropped may show again; whoever has seen it drops it again.
        self.journal.drop(self.dropped)

    def _check_failed(self) -> None:
        calls: list[Callable[[], None]] = [
            lambda: self.journal.append(self.next + 9, b""),
            self.journal.erase,
        ]
        for call in calls:
            try:
                call()
            except StoreFailedError:
                continue
            raise AssertionError("a journal that failed goes on")
