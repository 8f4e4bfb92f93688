"""A store that crashes the process at a call that was chosen before.

Knows nothing of engines.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from random import Random

from service.store.store import StoreFailedError
from tests.service.store.fake import FakeStore


class Stage(Enum):
    """Where in a call the process ends."""

    BEFORE = "before"
    WITHIN = "within"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """When the process ends: at the n-th append, write or drop from now (1: the next)."""

    call: int
    stage: Stage


class DyingStore(FakeStore):
    """Ends its process at a point.

    Attributes:
        point: when; ``None`` for never.
        dice: which of what was not durable is left.
        left: the store as the next process finds it, once this one has ended.
        died_at: in which call and at which stage that was.
        on_death: called then, from any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.point: Point | None = None
        self.dice = Random(0)
        self.left: DyingStore | None = None
        self.died_at = ""
        self.on_death: Callable[[], object] = lambda: None
        self._calls = 0
        self._turn = threading.Lock()  # the two threads of a store share one count
        self._within = threading.local()

    def append(self, number: int, group: bytes) -> None:
        """See `Store.append`."""
        stage = self._begin("append")
        super().append(number, group)
        self._end(stage, "append")

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """See `Store.write`."""
        stage = self._begin("write")
        super().write(puts, deletes)
        self._end(stage, "write")

    def drop(self, before: int) -> None:
        """See `Store.drop`."""
        stage = self._begin("drop")
        super().drop(before)
        # What is dropped takes no time: within it is after it.
        self._end(Stage.AFTER if stage is Stage.WITHIN else stage, "drop")

    def die(self, where: str) -> None:
        """End the process."""
        with self._turn:
            if self.left is not None:
                return
            self.left, self.died_at = self.crash(self.dice), where
        self.on_death()

    def _begin(self, call: str) -> Stage | None:
        with self._turn:
            self._calls += 1
            point = self.point
            stage = point.stage if point is not None and point.call == self._calls else None
        if stage is Stage.BEFORE:
            self.die(f"{call} before")
        self._within.call = call if stage is Stage.WITHIN else None
        return stage

    def _wait(self) -> None:
        call = self._within.call
        if call is not None:
            self.die(f"{call} within")
        super()._wait()

    def _end(self, stage: Stage | None, call: str) -> None:
        if stage is Stage.AFTER:
            self.die(f"{call} after")
            raise StoreFailedError("the process has crashed")
