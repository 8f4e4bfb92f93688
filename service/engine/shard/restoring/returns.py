"""Sessions that go back: each stands then where it had read less, of a branch of its own.

What does it is the seed's `Load` and folds of what stays read, queued before anything else; what
is taken meanwhile waits behind them. Knows nothing of generations, nor why anybody goes back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog

from service.engine.log.groups.entries import Steps
from service.engine.log.seeds import Seed
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.folds import Unread, folds, load_of
from service.engine.work.columns import Ints
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Load, Work

_MOST_TRIES = 20  # where no log can bring it back
_AGAIN_S = 0.001  # between looks at whether one can be tried again
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Return:
    """How one session goes back.

    Attributes:
        slot: the session's.
        seed: a state that it had.
        tail: what it read from there on, and stays read.
        branch: the new one, once it goes back.
        load: what puts the seed there.
        tries: how often it could not.
        waits: it is to be tried again, and is not queued yet.
        noted: is called once the log has been told of it, to tell it more in the same group.
    """

    slot: int
    seed: Seed
    tail: Steps
    branch: int = 0
    load: Load | None = None
    tries: int = 0
    waits: bool = False
    noted: Callable[[], None] | None = None

    @property
    def position(self) -> int:
        """Where the session stands then."""
        return self.seed.position + len(self.tail.inputs)


class Returns:
    """The sessions of one shard that go back.

    Attributes:
        waiting: those that could not, and are to be tried again.

    Args:
        queue: queues work.
        wake: tells that some is queued.
        call_later: calls something after so many seconds.
        went_back: is told of a session that stands at a position now, or will, from a seed on:
            slot, position, seed.
        tell_log: tells the log of it once the seed is in its slot: slot, seed, tail.
        restore: has the log restore sessions whose states are in doubt, (rows,) slots; ``None``
            where there is none that can.
        give_up: is told of a fault that left the queue in doubt.
    """

    def __init__(
        self,
        table: SessionTable,
        *,
        queue: Callable[[Work], None],
        wake: Callable[[], None],
        call_later: Callable[[float, Callable[[], None]], Any],
        went_back: Callable[[int, int, Seed], None],
        tell_log: Callable[[int, Seed, Steps], None],
        restore: Callable[[Ints], None] | None,
        give_up: Callable[[Exception], None],
    ) -> None:
        self.waiting = 0
        self._table = table
        self._queue = queue
        self._wake = wake
        self._call_later = call_later
        self._went_back = went_back
        self._tell_log = tell_log
        self._restore = restore
        self._give_up = give_up

    def begin(self, own: Return, *, branch: int, stands: int, under_way: int) -> bool:
        """Let a session go back; what came in before was queued.

        Not where others have moved it, or are about to: what they were told holds. One that the log
        is about to restore, as a run has failed, goes back all the same.

        Args:
            own: where to.
            branch: what it read behind that is on this one.
            stands: where it stands, but for what is under way.
            under_way: steps that it still reads on there, and nobody else's.

        Returns:
            Whether it does; it is on a new branch then.
        """
        table, slot = self._table, own.slot
        if (
            table.branch[slot] != branch
            or (table.lost[slot] and not table.restoring[slot])
            or table.closing[slot]
            or table.moving[slot]
            or table.position[slot] != stands
            or table.accepted[slot] != stands + under_way
        ):
            return False
        self.go(own)
        return True

    def go(self, own: Return) -> None:
        """Let a session go back, wherever it stands; it is on a new branch then.

        Raises:
            MemoryError: nothing has moved.
        """
        works = self._works(own)  # before anything moves: there may be no memory for them
        own.branch = self._table.go_back(own.slot, own.position)
        self._went_back(own.slot, own.position, own.seed)
        self._put(own, works)

    def _put(self, own: Return, works: Sequence[Work]) -> None:
        for work in works:
            work.branches = np.array([own.branch], np.uint64)
            work.reply_to = _Heard(self._failed, own)
            if isinstance(work, Load):
                own.load = work
        try:
            for work in works:
                self._queue(work)
        except Exception as fault:
            self._give_up(fault)
            self._failed(own)  # nobody hears of it if none was queued
        self._wake()

    def _failed(self, own: Return) -> None:
        """Some of the work could not be done: the session's state is in doubt."""
        table, slot = self._table, own.slot
        if table.branch[slot] != own.branch or table.closing[slot] or own.waits:
            return  # it was reset or closed meanwhile, or goes back once more
        table.lost[slot] = True
        if self._restore is not None and not table.returning[slot]:
            if not table.restoring[slot]:
                self._restore(np.array([slot]))
            return
        # The log does not know its branch: whatever else failed, it cannot restore it either.
        table.restoring[slot] = own.tries < _MOST_TRIES
        if table.restoring[slot]:
            own.tries += 1
            if own.load is not None:  # it may run: the session does not stand there for that
                own.load.failure = table.why_lost(slot)
            own.waits = True
            self.waiting += 1
            self._call_later(0.0, lambda: self._put_again(own))

    def _put_again(self, own: Return) -> None:
        """Once more, when nothing of before is queued or runs, and counts its steps."""
        table, slot = self._table, own.slot
        if self._is_over(own):
            self._wait_no_more(own)
            return
        if not table.is_idle(slot):
            self._call_later(_AGAIN_S, lambda: self._put_again(own))
            return
        self._wait_no_more(own)
        try:
            works = self._works(own)
        except Exception:
            _log.exception("session could not go back")
            table.restoring[slot] = False
            return
        table.accepted[slot] = own.position
        self._put(own, works)

    def _works(self, own: Return) -> list[Work]:
        """What puts a session where it goes back to."""
        load = load_of([(own.slot, own.seed)])
        load.tells = partial(self._tell, own)
        if not len(own.tail.inputs):
            return [load]
        unread = Unread(slot=own.slot, position=own.seed.position, tail=own.tail)
        return [load, *[work for work, _ in folds([unread])]]

    def _tell(self, own: Return) -> None:
        """Tell the log; a fault is this session's alone, which is put there once more.

        Raised from here it would leave the whole queue in doubt, even while that is given up.
        """
        try:
            self._tell_log(own.slot, own.seed, own.tail)
            if own.noted is not None:
                own.noted()
        except Exception:
            _log.exception("the log could not be told that a session goes back")
            table = self._table
            table.lost[own.slot] = table.returning[own.slot] = True
            if not len(own.tail.inputs):  # else what is to be read again is refused
                self._call_later(0.0, lambda: self._failed(own))

    def _wait_no_more(self, own: Return) -> None:
        own.waits = False
        self.waiting -= 1

    def _is_over(self, own: Return) -> bool:
        """Whether its session was reset, closed or brought back meanwhile, or goes back anew."""
        table, slot = self._table, own.slot
        is_there = table.branch[slot] == own.branch and not table.closing[slot]
        return not (is_there and table.restoring[slot])


class _Heard(InsideReceiver):
    """Hears what becomes of the work."""

    def __init__(self, failed: Callable[[Return], None], own: Return) -> None:
        self._failed = failed
        self._own = own

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        if delivery.error is not None:
            self._failed(self._own)
