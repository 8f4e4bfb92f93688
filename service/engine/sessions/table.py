"""What is known of each session: one column per fact.

Columns are indexed by slot, so that a frame of many sessions is checked and committed with a few
array operations. A session keeps its slot as long as it is open, wherever its state is: in a row of
the device's arena, or out of it. One that is idle, and is not out, has a row. Knows nothing of
models or time: time is an argument.

Order is kept by tickets. Every row of work draws the next ticket of its slot when it is queued, and
may run when it is the one its slot serves; a slot serves its next ticket once the row before is
finished. One comparison of two columns finds the runnable rows of a whole frame.

A position is used again after a reset, and a slot by another session. A branch is the number of one
unbroken past, never used twice: positions compare only within it. What is queued carries the branch
that it is for, and is refused where the session is on another by then.
"""

import secrets
from dataclasses import dataclass
from enum import Enum, StrEnum

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.moving import Moving
from service.engine.work.columns import Branches, Ints, Mask
from service.engine.work.request import UNCHECKED
from service.errors import (
    CellarError,
    InternalError,
    SessionClosedError,
    StaleBranchError,
    StateLostError,
    StoreUnavailableError,
)

_CACHE_LINE = 64  # bytes
_BRANCHES = 2**63 - 1  # numbers from 1 on
_UPGRADED = 1000  # sessions of which is remembered where they went on


class SessionStatus(Enum):
    """Where a session is in its life."""

    OPEN = "open"
    MOVING = "moving"
    LOST = "lost"
    MODEL_CHANGED = "model changed"


class SessionTier(StrEnum):
    """Where a session's state is."""

    DEVICE = "device"
    HOST = "host"
    STORE = "store"


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


def new_branch() -> int:
    """The number of a branch that never was."""
    return secrets.randbelow(_BRANCHES) + 1


def _records(slots: int) -> NDArray[np.void]:
    """What is known of each session in one cache line: a step visits memory once, not per fact."""
    memory = np.zeros((slots + 1) * _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + slots * _CACHE_LINE].view(_RECORD)


class SessionTable:
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
        self.host_row = np.full(slots, -1, np.int64)  # of host memory; -1: none
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

    # -- lives ----------------------------------------------------------------------------

    def open(self, slot: int, *, opened_s: float, now_s: float, idle_timeout_s: float) -> None:
        """Begin a session in a slot, whatever was there before."""
        assert self.accepted[slot] == self.position[slot], "a slot is reused once nothing is queued"
        self.top = max(self.top, slot + 1)
        self.reset(slot, now_s=now_s)
        self.closing[slot] = self.seeded[slot] = False
        self.group[slot] = self.number[slot] = 0
        self.first_group[slot] = self.tail_steps[slot] = 0
        self.opened_s[slot] = opened_s
        self.idle_timeout_s[slot] = idle_timeout_s
        self._due_s = min(self._due_s, now_s + self.idle_timeout_s.item(slot))

    def hide(self, slot: int) -> None:
        """A session that was opened now is not there yet, for those who look at all of them."""
        self.idle_timeout_s[slot] = 0.0

    def begins_at(self, slot: int, position: int) -> None:
        """A session that was opened now will stand there: a `Load` is about to be queued."""
        self.accepted[slot] = position

    def reset(self, slot: int, *, now_s: float) -> int:
        """Put a session back to position 0 of a new branch, which is returned.

        Steps that are queued are for the branch before, and counted no longer.
        """
        branch = new_branch()
        self.branch[slot] = branch
        self.accepted[slot] = self.position[slot] = self._stood[slot] = self.left[slot] = 0
        self._entered[slot] = self._was_durable[slot] = 0
        self.lost[slot] = self.restoring[slot] = self.returning[slot] = False
        self.last_used_s[slot] = now_s
        self._last_steps[slot] = 0
        return branch

    def go_back(self, slot: int, position: int) -> int:
        """Let a session stand at an earlier position of a new branch, which is returned.

        Whoever calls this queues the `Load`, and the folds, that put it there: whatever is taken
        from now on waits behind them. What is queued or runs is for the branch before, and counted
        no longer.
        """
        branch = new_branch()
        self.left[slot], self.branch[slot] = self.branch[slot], branch
        self.accepted[slot] = self._stood[slot] = position
        self.returning[slot] = True
        return branch

    def restore(
        self, slot: int, *, position: int, branch: int, idle_s: float, left: int = 0
    ) -> None:
        """Let a session that was opened now stand where the store says; nothing else is here."""
        self.branch[slot], self.left[slot] = branch, left
        self.last_used_s[slot] -= idle_s
        self._due_s = -np.inf  # nobody has looked
        self.freeze(slot, position)

    def freeze(self, slot: int, position: int) -> None:
        """It stands at a position, and its state is in the store alone."""
        self.position[slot] = self.accepted[slot] = self._stood[slot] = position
        self._entered[slot] = self._was_durable[slot] = position
        self.cool(slot)

    def cool(self, slot: int) -> None:
        """Its state is out of the arena."""
        self.cold_count += not self.cold[slot]
        self.cold[slot] = True

    def warm(self, slot: int) -> None:
        """Its state is here, or on its way."""
        self.cold_count -= bool(self.cold[slot])
        self.cold[slot] = False

    def move_away(self, slot: int, moving: Moving | None) -> None:
        """A session does not step while it moves to another server; ``None``: it does again."""
        self.moving[slot] = moving is not None
        if moving is not None:
            self.moves[slot] = moving
        else:
            self.moves.pop(slot, None)

    def moved(self, slot: int, *, group: int, steps: int) -> None:
        """It has begun a branch in a group of the log, with a seed and so many steps behind it."""
        self.group[slot] = self.first_group[slot] = group
        self.tail_steps[slot] = steps
        self._entered[slot] = self._was_durable[slot] = 0

    def log(self, slots: Ints, *, group: int, steps: int, is_kept: bool) -> None:
        """So many steps of each of these are in a group of the log, which is its open one.

        Or they are not kept in it, but came at that time: nothing waits for them.
        """
        if is_kept:
            self.group[slots] = group
        first = self.first_group[slots]
        if not first.all():  # a tail begins
            self.first_group[slots] = np.where(first == 0, group, first)
        self.tail_steps[slots] += steps

    def enter_group(self, slots: Ints, positions: Ints, *, group: int, durable: int) -> None:
        """Sessions that stand at ``positions`` read on in a group, before `log` says so.

        All groups but the open one and the one before it are durable. So what a session had read
        before the group of its last step is durable when its next one comes in another group.
        """
        new = self.group[slots] != group
        if not new.any():
            return
        slots, positions = slots[new], positions[new]
        is_durable = self.group[slots] <= durable
        self._was_durable[slots] = np.where(is_durable, positions, self._entered[slots])
        self._entered[slots] = positions

    def durable_position(self, slot: int, durable: int) -> int:
        """As far as this a session is known to be durable, where all groups up to one are."""
        group = self.group.item(slot)
        if self.returning.item(slot):
            return 0  # the log does not know its branch yet
        if group <= durable:
            return self.position.item(slot)
        return (self._entered if group <= durable + 1 else self._was_durable).item(slot)

    def close(self, slot: int) -> None:
        """End the session of a slot: what is queued for it must not run."""
        self.warm(slot)
        self.move_away(slot, None)
        self.closing[slot] = True
        self.idle_timeout_s[slot] = 0.0

    def fork(self, slot: int, copies: Ints) -> None:
        """Let spare slots stand where a session stands."""
        self.position[copies] = self.accepted[copies] = self.position[slot]
        self.seeded[copies] = self.seeded[slot]
        self.group[copies] = self.group[slot]
        self.lost[copies] = False
        self.closing[copies] = False

    def load(
        self, slots: Ints, *, positions: Ints, last_steps: Ints, contents: Ints, lost: bool
    ) -> None:
        """Let sessions stand where rows that were put into their slots stand, (rows,) each.

        What `last_request` told of them may be asked for again. Whoever queued that has counted
        their steps as accepted. ``lost``: the rows may not be there.
        """
        self.lost[slots] = lost
        if not lost:  # whatever a run before has failed at
            self.restoring[slots] = False
        self.returning[slots] = False
        self.position[slots] = positions
        self._last_steps[slots] = last_steps
        self._last_content[slots] = contents

    def count_idle(
        self, slots: Ints, *, idle_timeouts_s: NDArray[np.float32], now_s: float
    ) -> None:
        """Count the idleness of sessions, (rows,), from now on, against other timeouts, (rows,)."""
        self.last_used_s[slots] = now_s
        self.idle_timeout_s[slots] = idle_timeouts_s
        self._due_s = min(self._due_s, now_s + float(idle_timeouts_s.min(initial=np.inf)))

    def expired(self, now_s: float, *, at_most: int) -> Ints:
        """Some idle slots whose session has not been used for longer than its timeout.

        There are no others where none are returned.
        """
        found = self._next_expired(now_s, at_most)
        if not len(found) and self._due_s < now_s:  # mostly nobody goes over a million sessions
            slots = np.flatnonzero(self.idle_timeout_s[: self.top])
            self._due_s = self.due_s(slots)
            self._due = slots[self.last_used_s[slots] + self.idle_timeout_s[slots] < now_s]
            found = self._next_expired(now_s, at_most)
        return found

    def _next_expired(self, now_s: float, at_most: int) -> Ints:
        """Some of those that were due when all were looked at, and are so still."""
        while len(self._due):
            slots, self._due = self._due[:at_most], self._due[at_most:]
            slots = self.due(slots, now_s)
            if len(slots):
                return slots
        return self._due

    def due(self, slots: Ints, now_s: float) -> Ints:
        """Those whose session is idle, and has not been used for longer than its timeout."""
        timeout = self.idle_timeout_s[slots]
        due = (timeout > 0) & (self.last_used_s[slots] + timeout < now_s)
        return slots[due & self.idle(slots)]

    def due_s(self, slots: Ints) -> float:
        """When the first of these sessions expires, if none is used before."""
        due_s = self.last_used_s[slots] + self.idle_timeout_s[slots]
        return float(due_s.min(initial=np.inf))

    def taken(self, start: int, stop: int, *, used_before_s: float | None = None) -> Ints:
        """The slots of a range that have sessions, ascending.

        With ``used_before_s`` only those that were not used since.
        """
        found = self.idle_timeout_s[start:stop] > 0
        if used_before_s is not None:
            found &= self.last_used_s[start:stop] <= used_before_s
        return start + np.flatnonzero(found)

    # -- questions ------------------------------------------------------------------------

    def fresh(self, slots: Ints, positions: Ints) -> Mask:
        """Which sessions read the model's initial state where they stand, (rows,)."""
        fresh: Mask = positions == 0
        if np.count_nonzero(fresh):
            fresh &= ~self.seeded[slots]
        return fresh

    def blocked(self, slots: Ints) -> Mask:
        """Which sessions must not step: their state is in doubt, or they are ending."""
        blocked: Mask = self._blocked[slots] != 0
        return blocked

    def stands(self, slots: Ints) -> Ints:
        """Where sessions stand, (rows,), also while one is brought back and reads it all again."""
        stood, returning = self._stood[slots], self.returning[slots]
        return np.where(returning, stood, np.maximum(self.position[slots], stood))

    def stands_at(self, slot: int) -> int:
        """Where one session stands."""
        stood = self._stood.item(slot)
        return stood if self.returning.item(slot) else max(self.position.item(slot), stood)

    def why_lost(self, slot: int) -> CellarError:
        """What is told of a session whose state is lost, or was when that was found."""
        if not self.branch[slot]:  # a copy of a session, which stands where it stood
            return InternalError("the model could not be run; the server's log tells why")
        if self.closing[slot]:
            why = "the session was closed, and a run of its steps has failed"
            return self.why_closed(int(self.branch[slot]), why)
        if self.restoring[slot] or not self.lost[slot]:
            return StoreUnavailableError(
                "a run has failed, and the session is brought back: try again shortly, "
                "with the position"
            )
        return StateLostError(int(self.position[slot]))

    def goes_on(self, slot: int, *, branch: int, position: int) -> None:
        """The session of a slot goes on in another slot, on this branch."""
        self.upgraded[int(self.branch[slot])] = branch, position
        while len(self.upgraded) > _UPGRADED:
            del self.upgraded[next(iter(self.upgraded))]

    def why_closed(self, branch: int, told: str) -> CellarError:
        """Why a session on a branch is here no more: ``told``, unless it was upgraded."""
        if branch not in self.upgraded:
            return SessionClosedError(told)
        after, position = self.upgraded[branch]
        return StaleBranchError(branch=after, position=position, upgraded=True)

    def rows(self, slots: Ints) -> Ints:
        """The rows of the arena of slots that run, which all have one.

        Raises:
            RuntimeError: one has none. A row below 0 would be read as one of the last.
        """
        rows: Ints = self.row[slots]
        if np.count_nonzero(rows < 0):
            raise RuntimeError("a session is to run whose state is out of the arena")
        return rows

    def halted(self, slots: Ints) -> Mask:
        """Which sessions cannot step now: those that are blocked or move, or whose state is out."""
        halted: Mask = self._halted[slots] != 0
        return halted

    def evictable(self, slots: Ints, *, queued: int = 0) -> Mask:
        """Which sessions may leave their rows: nothing but ``queued`` pieces of work is queued."""
        found: Mask = self.tickets[slots] - self.serving[slots] == queued
        found &= ~(self.returning[slots] | self.restoring[slots])
        found &= ~(self.blocked(slots) | self.cold[slots]) & (self.idle_timeout_s[slots] > 0)
        return found

    def is_nowhere(self, slots: Ints) -> Mask:
        """The states of which idle sessions are lost for good: until a reset they need no rows."""
        found: Mask = self.lost[slots] & ~(self.restoring[slots] | self.returning[slots])
        found &= ~self.cold[slots] & (self.idle_timeout_s[slots] > 0)
        return found & self.idle(slots)

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

    def lose_reply(self, slot: int) -> None:
        """The reply to a session's last request must not be repeated: its bits are others now."""
        self._last_steps[slot] = -abs(self._last_steps.item(slot))

    def replies_lost(self, slots: Ints) -> Mask:
        """The last replies of which sessions cannot be repeated, (rows,)."""
        lost: Mask = self._last_steps[slots] < 0
        return lost

    def last_request(self, slots: Ints) -> tuple[Ints, Ints]:
        """Of each session's last request its steps, 0 if there is none, and its inputs' digest.

        They are negative where its reply cannot be repeated.
        """
        return self._last_steps[slots].astype(np.int64), self._last_content[slots]

    def last_request_of(self, slot: int) -> tuple[int, int]:
        """The same of one session."""
        return self._last_steps.item(slot), self._last_content.item(slot)

    def unpredicted(self, slots: Ints) -> Mask:
        """Which sessions have read nothing with their own model, and yet stand somewhere, (rows,).

        They came there with another model's state: a prediction of their own is yet to come.
        """
        found: Mask = (self._last_steps[slots] == 0) & (self.position[slots] > 0)
        return found

    def has_started(self, slot: int) -> bool:
        """Whether a session will have a prediction of its own once what is queued has run."""
        at = self.accepted.item(slot)
        if at > self.position.item(slot) or self.cold.item(slot):
            return at > 0  # what it is then, `screen` sees
        return at > 0 and self._last_steps.item(slot) != 0

    def strays(self, slots: Ints, branches: Branches) -> Mask:
        """Which sessions are not on the branch that their rows are for, (rows,)."""
        strays: Mask = self.branch[slots] != branches
        return strays

    def stand(self, slots: Ints, expected: Ints) -> bool:
        """Whether all sessions stand where their rows expect them, and may step."""
        at = self.position[slots] == expected
        return bool(at.all()) and not self._halted[slots].any()

    def judge(self, slots: Ints, *, positions: Ints, steps: Ints, contents: Ints) -> Verdicts:
        """Say what must become of each row of a request; changes nothing.

        All arguments are columns (rows,): the position each row claims, its number of steps, and
        the digest of its inputs.
        """
        current = self.accepted[slots]
        apply = positions == current
        applied = self.position[slots]
        last_steps = np.abs(self._last_steps[slots])
        # The reply of the last step can be repeated only while no other is on its way.
        again = (positions + last_steps == applied) & (last_steps > 0) & (applied == current)
        again &= ~apply
        same = (steps == last_steps) & (contents == self._last_content[slots])
        queued = (positions >= applied) & (positions < current)
        queued |= (applied > current) & ~apply  # it goes back: what may be repeated is known then
        return Verdicts(
            apply=apply,
            replay=again & same,
            conflict=again & ~same,
            mismatch=~apply & ~again & ~queued,
            queued=queued,
        )

    # -- steps ----------------------------------------------------------------------------

    def begin(
        self, slots: Ints, claimed: Ints | None, branches: Branches | None = None
    ) -> Ints | None:
        """Begin the next step of idle sessions without queueing it.

        Returns:
            Where each stands, (rows,); ``None``, and nothing is begun, if a session is busy,
            blocked or cold, or is not at the position that its row claims, or on another branch.
        """
        tickets = self.tickets[slots]
        # `any` and `all` of arrays cost .8 us each, this .2: they are a tenth of a single step.
        if np.count_nonzero(tickets != self.serving[slots]) or np.count_nonzero(
            self._halted[slots]
        ):
            return None
        if branches is not None and np.count_nonzero(self.branch[slots] != branches):
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

    def withdraw(self, slots: Ints, steps: int, branches: Branches | None = None) -> None:
        """Queued steps, so many of each row, will not be applied."""
        if branches is not None:
            slots = slots[self.branch[slots] == branches]  # the others' are not counted
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
