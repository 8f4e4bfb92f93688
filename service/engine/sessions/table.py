"""Sessions, and what is known of each: one object per session, one column per fact.

Columns are indexed by slot, so that a frame of many sessions is checked and committed with a few
array operations. Knows nothing of queues, models or time: time is an argument.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.engine.work.work import Ints

if TYPE_CHECKING:
    from service.engine.served.registry import ServedModel
    from service.engine.shard.shard import Shard


_CACHE_LINE = 64  # bytes


class SessionStatus(Enum):
    """Where a session is in its life."""

    OPEN = "open"
    LOST = "lost"


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One client-visible sequence in progress."""

    id: str
    served: "ServedModel"
    shard: "Shard"
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as a client sees it; times are seconds since the epoch."""

    id: str
    model: str
    version: int
    status: SessionStatus
    position: int
    opened_s: float
    last_used_s: float
    idle_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What becomes of each row of a request; the masks are disjoint and cover all rows."""

    expected: Ints  # (rows,) the position each session must have when its row runs
    apply: NDArray[np.bool_]  # the session's next step
    replay: NDArray[np.bool_]  # the step just applied, sent again
    conflict: NDArray[np.bool_]  # its position, with other content
    mismatch: NDArray[np.bool_]  # any other position
    queued: NDArray[np.bool_]  # a position that queued steps will consume: ask again after them


_RECORD = np.dtype(
    {
        "names": [
            "position", "accepted", "last_content", "opened_s", "last_steps", "lost", "closing",
        ],
        "formats": ["i8", "i8", "i8", "f8", "i4", "?", "?"],
        "itemsize": _CACHE_LINE,
    }
)  # fmt: skip


def _records(slots: int) -> NDArray[np.void]:
    """What is known of each session in one cache line: a step visits memory once, not per fact."""
    memory = np.zeros((slots + 1) * _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + slots * _CACHE_LINE].view(_RECORD)


class SessionTable:
    """The columns. ``slots`` counts every row of the arena, spare and scratch rows included."""

    def __init__(self, slots: int) -> None:
        rows = _records(slots)
        self.position: Ints = rows["position"]  # steps applied
        self.accepted: Ints = rows["accepted"]  # the same, and the steps that are queued
        self.lost: NDArray[np.bool_] = rows["lost"]
        self.closing: NDArray[np.bool_] = rows["closing"]
        self.opened_s: NDArray[np.float64] = rows["opened_s"]  # since the epoch
        self._last_steps: NDArray[np.int32] = rows["last_steps"]  # of the step just applied
        self._last_content: Ints = rows["last_content"]  # digest of its inputs
        # Apart, because the search for idle sessions goes over all of them.
        self.last_used_s = np.zeros(slots, np.float64)
        self.idle_timeout_s = np.zeros(slots, np.float32)  # 0: no session here

    def open(self, slot: int, *, opened_s: float, now_s: float, idle_timeout_s: float) -> None:
        """Begin a session in a slot, whatever was there before."""
        assert self.accepted[slot] == self.position[slot], "a slot is reused once nothing is queued"
        self.reset(slot, now_s=now_s)
        self.closing[slot] = False
        self.opened_s[slot] = opened_s
        self.idle_timeout_s[slot] = idle_timeout_s

    def reset(self, slot: int, *, now_s: float) -> None:
        """Put a session back to position 0; steps that are queued stay counted."""
        self.accepted[slot] -= self.position[slot]
        self.position[slot] = 0
        self.lost[slot] = False
        self.last_used_s[slot] = now_s
        self._last_steps[slot] = 0

    def close(self, slot: int) -> None:
        """End the session of a slot: what is queued for it must not run."""
        self.closing[slot] = True
        self.idle_timeout_s[slot] = 0.0

    def blocked(self, slots: Ints) -> NDArray[np.bool_]:
        """Which sessions must not step: their state is in doubt, or they are ending."""
        blocked: NDArray[np.bool_] = self.lost[slots] | self.closing[slots]
        return blocked

    def is_blocked(self, slot: int) -> bool:
        """Whether one session must not step."""
        return bool(self.lost.item(slot) or self.closing.item(slot))

    def judge(
        self,
        slots: Ints,
        *,
        positions: Ints | None,
        steps: Ints,
        contents: Ints,
    ) -> Verdicts:
        """Say what must become of each row of a request; changes nothing.

        All arguments are columns (rows,): the position each row claims, its number of steps, and
        the digest of its inputs.
        """
        current = self.accepted[slots]
        none = np.zeros(len(slots), np.bool_)
        apply = ~none if positions is None else positions == current
        if positions is None or apply.all():
            return Verdicts(
                expected=current,
                apply=apply,
                replay=none,
                conflict=none,
                mismatch=none,
                queued=none,
            )
        applied = self.position[slots]
        last_steps = self._last_steps[slots]
        # The reply of the last step can be repeated only while no other is on its way.
        again = (positions + last_steps == applied) & (last_steps > 0) & (applied == current)
        same = (steps == last_steps) & (contents == self._last_content[slots])
        queued = (positions >= applied) & (positions < current)
        return Verdicts(
            expected=current,
            apply=apply,
            replay=again & same,
            conflict=again & ~same,
            mismatch=~apply & ~again & ~queued,
            queued=queued,
        )

    def accept(self, slots: Ints, steps: Ints | int) -> None:
        """Count steps as queued."""
        self.accepted[slots] += steps

    def commit(
        self,
        slots: Ints,
        *,
        steps: int,
        contents: Ints,
        now_s: float,
        last_steps: int | None = None,
    ) -> None:
        """Count steps as applied; ``last_steps`` of them are what may be asked for again."""
        self.position[slots] += steps
        self._last_steps[slots] = steps if last_steps is None else last_steps
        self._last_content[slots] = contents
        self.last_used_s[slots] = now_s

    def stand(self, slots: Ints, positions: Ints, *, contents: Ints, now_s: float) -> None:
        """One step of each session was applied: it stands there now."""
        self.position[slots] = positions
        self._last_steps[slots] = 1
        self._last_content[slots] = contents
        self.last_used_s[slots] = now_s

    def withdraw(self, slots: Ints, steps: Ints | int) -> None:
        """Queued steps will not be applied."""
        self.accepted[slots] -= steps

    def fork(self, slot: int, copies: Ints) -> None:
        """Let spare slots stand where a session stands."""
        self.position[copies] = self.accepted[copies] = self.position[slot]
        self.lost[copies] = False
        self.closing[copies] = False

    def idle(self, now_s: float) -> Ints:
        """The slots whose session has been idle for longer than its timeout."""
        timeout = self.idle_timeout_s
        return np.flatnonzero((timeout > 0) & (self.last_used_s + timeout < now_s))
