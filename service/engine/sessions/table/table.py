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

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions.moving import Moving
from service.engine.sessions.table.durable import Durable
from service.engine.sessions.table.explaining import Explaining
from service.engine.sessions.table.idleness import Idleness
from service.engine.work.columns import Branches, Ints, Mask
from service.engine.work.request import UNCHECKED

_BRANCHES = 2**63 - 1  # numbers from 1 on


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What becomes of each row of a request; the masks are disjoint and cover all rows."""

    apply: Mask  # the session's next step
    replay: Mask  # the step just applied, sent again
    conflict: Mask  # its position, with other content
    mismatch: Mask  # any other position
    queued: Mask  # a position that queued steps will consume: ask again after them


def new_branch() -> int:
    """The number of a branch that never was."""
    return secrets.randbelow(_BRANCHES) + 1


class SessionTable(Idleness, Durable, Explaining):
    """What may be done with the columns. ``slots`` counts all, spare and scratch slots included."""

    # -- lives ----------------------------------------------------------------------------

    def open(self, slot: int, *, opened_s: float, now_s: float, idle_timeout_s: float) -> None:
        """Begin a session in a slot, whatever was there before."""
        assert self.accepted[slot] == self.position[slot], "a slot is reused once nothing is queued"
        self.top = max(self.top, slot + 1)
        self.reset(slot, now_s=now_s)
        self.closing[slot] = self.seeded[slot] = False
        self.group[slot] = self.number[slot] = 0
        self.refused.pop(slot, None)
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

    def cool(self, slots: Ints | int) -> None:
        """The states of one session, or of several, are out of the arena."""
        self.cold_count += int(np.count_nonzero(~self.cold[slots]))
        self.cold[slots] = True

    def warm(self, slots: Ints | int) -> None:
        """Their states are here, or on their way."""
        self.cold_count -= int(np.count_nonzero(self.cold[slots]))
        self.cold[slots] = False

    def stays_out(self, slots: Ints) -> None:
        """States that were on their way are out as before: what is queued behind that is refused.

        Whoever asks again may have them on their way once more before that is seen to.
        """
        self.cool(slots)
        self.refused |= zip(slots.tolist(), self.tickets[slots].tolist(), strict=True)

    def are_refused(self, slots: Ints, tickets: NDArray[np.int32]) -> Mask:
        """Which rows, (rows,), were queued behind states that could not come; see `stays_out`."""
        refused = np.zeros(len(slots), np.bool_)
        for row, slot in enumerate(slots.tolist()):
            if slot in self.refused:  # tickets may wrap around
                refused[row] = np.int32(self.refused[slot]) - tickets[row] > 0
                if not refused[row]:  # nor is what comes behind it
                    del self.refused[slot]
        return refused

    def move_away(self, slot: int, moving: Moving | None) -> None:
        """A session does not step while it moves to another server; ``None``: it does again."""
        self.moving[slot] = moving is not None
        if moving is not None:
            self.moves[slot] = moving
        else:
            self.moves.pop(slot, None)

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
        self.refused.clear()
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
