"""The columns that hold what is known of each session, indexed by slot. Knows no rules."""

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.moving import Moving
from service.engine.work.columns import Branches, Ints, Mask

_CACHE_LINE = 64  # bytes

_RECORD = np.dtype(
    {
        "names": [
            "position", "accepted", "last_content", "opened_s", "last_steps", "tickets", "serving",
            "lost", "closing", "cold", "moving", "blocked", "halted", "branch", "group",
        ],
        "formats": [
            "i8", "i8", "i8", "f8", "i4", "i4", "i4", "?", "?", "?", "?", "u2", "u4", "u8", "i8",
        ],
        # Lost and closing together are what blocks a session: read as one number where both matter.
        # So is what keeps a step from running at once: these, that its state is not here yet, and
        # that it moves to another server.
        "offsets": [0, 8, 16, 24, 32, 36, 40, 44, 45, 46, 47, 44, 44, 48, 56],
        "itemsize": _CACHE_LINE,
    }
)  # fmt: skip


def _records(slots: int) -> NDArray[np.void]:
    """What is known of each session in one cache line: a step visits memory once, not per fact."""
    memory = np.zeros((slots + 1) * _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + slots * _CACHE_LINE].view(_RECORD)


class SessionColumns:
    """The columns. ``slots`` counts all of them, spare and scratch slots included."""

    def __init__(self, slots: int) -> None:
        rows = _records(slots)
        self.position: Ints = rows["position"]  # steps applied
        self.accepted: Ints = rows["accepted"]  # the same, and the steps that are queued
        self.branch: Branches = rows["branch"]  # 0: never a session's
        self.lost: Mask = rows["lost"]
        self.closing: Mask = rows["closing"]
        self.cold: Mask = rows["cold"]  # its state is out of the arena, and where `position` says
        self.cold_count = 0
        self.moving: Mask = rows["moving"]  # it is frozen, see `moves`
        self.moves: dict[int, Moving] = {}
        """How sessions move to other servers, by slot."""
        self.top = 0  # no slot from here on had a session, but for spare ones
        self.row = np.zeros(slots, np.int64)  # of the arena; -1: none
        # Of host memory; -1: none. Says nothing where no session was ever, and of spare slots -1.
        self.host_row = np.zeros(slots, np.int64)
        self.opened_s: NDArray[np.float64] = rows["opened_s"]  # since the epoch
        # Only compared and counted up: they may wrap around.
        self.tickets: NDArray[np.int32] = rows["tickets"]  # the next to be drawn
        self.serving: NDArray[np.int32] = rows["serving"]
        self._blocked: NDArray[np.uint16] = rows["blocked"]
        self._halted: NDArray[np.uint32] = rows["halted"]
        self.group: Ints = rows["group"]  # of the log: where its last step or event is
        # What the log's upkeep looks at.
        self.number = np.zeros(slots, np.int64)  # of the session, in the store; 0: none
        self.first_group = np.zeros(slots, np.int64)  # of its tail; 0: it has none
        self.tail_steps = np.zeros(slots, np.int64)
        self._stood = np.zeros(slots, np.int64)  # where it stood before its state went cold
        # Where replies do not wait for the log: where it stood when it first read in `group`, and
        # how much was durable then.
        self._entered = np.zeros(slots, np.int64)
        self._was_durable = np.zeros(slots, np.int64)
        self.restoring = np.zeros(slots, np.bool_)  # it is lost, and the log brings it back
        self.returning = np.zeros(slots, np.bool_)  # it goes back, see `go_back`
        self.left = np.zeros(slots, np.uint64)  # the branch that it has gone back from; 0: none
        self.refused: dict[int, int] = {}
        """By slot whose state could not come: the ticket before which all that is queued for it is
        refused, as it was to run behind that."""
        self.seeded = np.zeros(slots, np.bool_)  # its own row is read at position 0, see `Initials`
        # Of the request just applied; negative where its reply cannot be repeated.
        self._last_steps: NDArray[np.int32] = rows["last_steps"]
        self._last_content: Ints = rows["last_content"]  # digest of its inputs
        self.upgraded: dict[int, tuple[int, int]] = {}
        """By branch that an upgrade has ended: the one on which it goes on, and from where."""
        # Apart, because the search for idle sessions goes over all of them.
        self.last_used_s = np.zeros(slots, np.float64)
        self.idle_timeout_s = np.zeros(slots, np.float32)  # 0: no session here
        self._due_s = np.inf  # no session has been idle for too long before this
        self._due = np.empty(0, np.int64)  # slots that were due when all were looked at last

    def __len__(self) -> int:
        return len(self.position)
