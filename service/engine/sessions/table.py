"""What is known of each session: one column per fact.

Columns are indexed by slot, so that a frame of many sessions is checked and committed with a few
array operations. Knows nothing of models or time: time is an argument.

Order is kept by tickets. Every row of work draws the next ticket of its slot when it is queued, and
may run when it is the one its slot serves; a slot serves its next ticket once the row before is
finished. One comparison of two columns finds the runnable rows of a whole frame.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints, Mask
from service.engine.work.request import UNCHECKED

_CACHE_LINE = 64  # bytes


class SessionStatus(Enum):
    """Where a session is in its life."""

    OPEN = "open"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What becomes of each row of a request; the masks are disjoint and cover all rows."""

    apply: Mask  # the session's next step
    replay: Mask  # the step just applied, sent again
    conflict: Mask  # its position, with other content
    mismatch: Mask  # any other position
    queued: Mask  # a position that queued steps will consume: ask again after them


_RECORD = np.dtype(
    {
        "names": [
            "position", "accepted", "last_content", "opened_s", "last_steps", "tickets", "serving",
            "lost", "closing", "blocked",
        ],
        "formats": ["i8", "i8", "i8", "f8", "i4", "i4", "i4", "?", "?", "u2"],
        # Lost and closing together are what blocks a session: read as one number where both matter.
        "offsets": [0, 8, 16, 24, 32, 36, 40, 44, 45, 44],
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
        self.lost: Mask = rows["lost"]
        self.closing: Mask = rows["closing"]
        self.opened_s: NDArray[np.float64] = rows["opened_s"]  # since the epoch
        # Only compared and counted up: they may wrap around.
        self.tickets: NDArray[np.int32] = rows["tickets"]  # the next to be drawn
        self.serving: NDArray[np.int32] = rows["serving"]
        self._blocked: NDArray[np.uint16] = rows["blocked"]
        self._last_steps: NDArray[np.int32] = rows["last_steps"]  # of the step just applied
        self._last_content: Ints = rows["last_content"]  # digest of its inputs
        # Apart, because the search for idle sessions goes over all of them.
        self.last_used_s = np.zeros(slots, np.float64)
        self.idle_timeout_s = np.zeros(slots, np.float32)  # 0: no session here

    def __len__(self) -> int:
        return len(self.position)

    # -- lives ----------------------------------------------------------------------------

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

    def fork(self, slot: int, copies: Ints) -> None:
        """Let spare slots stand where a session stands."""
        self.position[copies] = self.accepted[copies] = self.position[slot]
        self.lost[copies] = False
        self.closing[copies] = False

    def expired(self, now_s: float) -> Ints:
        """The slots whose session has been idle for longer than its timeout."""
        timeout = self.idle_timeout_s
        return np.flatnonzero((timeout > 0) & (self.last_used_s + timeout < now_s))

    # -- questions ------------------------------------------------------------------------

    def blocked(self, slots: Ints) -> Mask:
        """Which sessions must not step: their state is in doubt, or they are ending."""
        blocked: Mask = self._blocked[slots] != 0
        return blocked

    def is_blocked(self, slot: int) -> bool:
        """Whether one session must not step."""
        return bool(self._blocked.item(slot))

    def idle(self, slots: Ints) -> Mask:
        """Which slots have nothing queued or running, (slots,)."""
        idle: Mask = self.tickets[slots] == self.serving[slots]
        return idle

    def is_idle(self, slot: int) -> bool:
        """Whether a slot has nothing queued or running."""
        return self.tickets.item(slot) == self.serving.item(slot)

    def stand(self, slots: Ints, expected: Ints) -> bool:
        """Whether all sessions stand where their rows expect them, and may step."""
        at = self.position[slots] == expected
        return bool(at.all()) and not self._blocked[slots].any()

    def judge(self, slots: Ints, *, positions: Ints, steps: Ints, contents: Ints) -> Verdicts:
        """Say what must become of each row of a request; changes nothing.

        All arguments are columns (rows,): the position each row claims, its number of steps, and
        the digest of its inputs.
        """
        current = self.accepted[slots]
        apply = positions == current
        applied = self.position[slots]
        last_steps = self._last_steps[slots]
        # The reply of the last step can be repeated only while no other is on its way.
        again = (positions + last_steps == applied) & (last_steps > 0) & (applied == current)
        again &= ~apply
        same = (steps == last_steps) & (contents == self._last_content[slots])
        queued = (positions >= applied) & (positions < current)
        return Verdicts(
            apply=apply,
            replay=again & same,
            conflict=again & ~same,
            mismatch=~apply & ~again & ~queued,
            queued=queued,
        )

    # -- steps ----------------------------------------------------------------------------

    def begin(self, slots: Ints, claimed: Ints | None) -> Ints | None:
        """Begin the next step of idle sessions without queueing it.

        Returns:
            Where each stands, (rows,); ``None``, and nothing is begun, if a session is busy or
            blocked, or is not at the position that its row claims.
        """
        tickets = self.tickets[slots]
        # `any` and `all` of arrays cost .8 us each, this .2: they are a tenth of a single step.
        if np.count_nonzero(tickets != self.serving[slots]) or np.count_nonzero(
            self._blocked[slots]
        ):
            return None
        at = self.position[slots]
        if claimed is not None:
            elsewhere = claimed != at
            if np.count_nonzero(elsewhere) and (claimed[elsewhere] != UNCHECKED).any():
                return None
        self.tickets[slots] = tickets + 1
        self.accepted[slots] = at + 1
        return at

    def accept(self, slots: Ints, steps: Ints | int) -> None:
        """Count steps as queued."""
        self.accepted[slots] += steps

    def withdraw(self, slots: Ints, steps: Ints | int) -> None:
        """Queued steps will not be applied."""
        self.accepted[slots] -= steps

    def settle(self, running: Ints, steps: Ints) -> None:
        """Queued rows are gone, whatever was counted of them, but for one row of each of these.

        ``running`` are the slots of those rows, ``steps`` what each of them will apply.
        """
        serving = self.serving[running]
        self.serving[:] = self.tickets
        self.serving[running] = serving
        self.tickets[running] = serving + 1
        self.accepted[:] = self.position
        self.accepted[running] += steps

    def commit(
        self, slots: Ints, positions: Ints, *, contents: Ints, last_steps: int = 1, now_s: float
    ) -> None:
        """Sessions have read on, and stand at ``positions`` now, (rows,).

        The last ``last_steps`` of what they read, whose digest is in ``contents``, may be asked for
        again.
        """
        self.position[slots] = positions
        self._last_steps[slots] = last_steps
        self._last_content[slots] = contents
        self.last_used_s[slots] = now_s
