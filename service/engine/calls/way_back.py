"""The way back of a generation: to the last piece that was written to its client.

What it has read behind that nobody knows of, so that a session whose generation is broken off goes
back there: its state at an earlier position, the base, is put into its slot again, and what it read
from there up to that piece is folded. The base moves on, so that this never takes long.
"""

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.directory import Session
from service.engine.log.seeds import Seed
from service.engine.scheduler.feedback import FeedbackCall
from service.engine.shard.restoring.returns import Return
from service.engine.work.columns import Inputs, Ints
from service.engine.work.replies import Delivery, Receiver
from service.engine.work.work import Save

BASE_STEPS = 4096  # behind which there is another base: what going back costs at most


class _NextBase(Receiver):
    """A session's state once it was saved."""

    is_inside = True
    wake = staticmethod(lambda: None)

    def __init__(self, slot: int, branch: int) -> None:
        slots, branches = np.array([slot], np.int64), np.array([branch], np.uint64)
        self.save = Save(slots=slots, branches=branches, reply_to=self)
        self.seed: Seed | None = None
        self.is_done = False

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self.is_done = True
        save = self.save
        if delivery.error is None:
            self.seed = Seed(
                branch=0,
                position=int(save.positions[0]),
                last_steps=int(save.last_steps[0]),
                content=int(save.contents[0]),
                states=[rows[0] for rows in save.states],
            )

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        del delivery
        self.is_done = True


@dataclass(slots=True, eq=False, kw_only=True)
class WayBack:
    """What one generation needs to go back to what was written of it.

    Attributes:
        session: whose it is.
        branch: the session's.
        base: a state that the session had.
        written: the position that the client may know of: where the session goes back to.
        drawn: the steps from the base to there, tokens or values.
    """

    session: Session
    branch: int
    base: Seed
    written: int
    drawn: "array[Any]"
    _ran: "array[int] | None" = None  # in what, where bits depend on that: those and more
    _next: _NextBase | None = None
    _is_gone: bool = False

    def ran(self, position: int, runs: Ints) -> None:
        """See `FeedbackCall.ran`; the steps come in order."""
        if self._ran is None:
            self._ran = array("q")
        unknown = position - len(runs) - self.base.position - len(self._ran) // 2
        self._ran.extend([0] * (2 * unknown))
        self._ran.frombytes(runs.tobytes())

    def move_on(self) -> None:
        """Much was written since the base: see to a later one."""
        if self.base.history is not None:  # of what was read before: it may be large
            self.base = self.base.without_history()
        if len(self.drawn) < BASE_STEPS:
            return
        found = self._next
        if found is None:
            self._next = _NextBase(self.session.slot, self.branch)
            self.session.shard.put(self._next.save)
        elif found.is_done and found.seed is None:
            self._next = None  # it could not be saved: once more
        elif found.seed is not None and found.seed.position <= self.written:
            done = found.seed.position - self.base.position
            del self.drawn[:done]
            if self._ran is not None:
                del self._ran[: 2 * done]
            self.base, self._next = found.seed, None

    def go_back(self, call: FeedbackCall, rows: Ints) -> bool:
        """Let the session stand at what was written; returns whether it moves for that.

        It does not where it stands there already, or where somebody else has moved it.
        """
        if self._is_gone:
            return False
        shard = self.session.shard
        shard.admit_inbox()
        stands, under_way = shard.feedback.stand(call, int(rows[0]))
        if stands + under_way <= self.written:
            return False
        own = Return(
            slot=self.session.slot,
            seed=self.base,
            drawn=self._inputs(),
            runs=self._runs(),
        )
        moves = shard.go_back(own, branch=self.branch, stands=stands, under_way=under_way)
        self._is_gone = True
        return moves

    def _inputs(self) -> Inputs:
        if self.session.served.reader.has_tokens:
            return np.array(self.drawn, np.int64)
        return np.array(self.drawn, np.float32)[:, None]

    def _runs(self) -> Ints:
        """In what these ran, (steps, 2); of those of which that is not known, anything will do."""
        found = np.zeros((len(self.drawn), 2), np.int64)
        if self._ran is not None:
            ran = np.array(self._ran, np.int64).reshape(-1, 2)[: len(found)]
            found[: len(ran)] = ran
        return found
