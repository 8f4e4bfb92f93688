"""The way back of a generation: to the last piece that was written to its client.

What it has read behind that nobody knows of, so that a session whose generation is broken off goes
back there: its state at an earlier position, the base, is put into its slot again, and what it read
from there up to that piece is folded. The base moves on, so that this never takes long.
"""

from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from service.engine.directory.session import Session
from service.engine.log.chronicle import BASE_STEPS
from service.engine.log.groups.entries import Steps, drawn_steps
from service.engine.log.seeds import Seed
from service.engine.scheduler.feedback.call import FeedbackCall
from service.engine.shard.history.generated import Generated
from service.engine.shard.restoring.returns import Return
from service.engine.work.columns import Inputs, Ints
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Save


class _NextBase(InsideReceiver):
    """A session's state once it was saved."""

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


class _Drawn(NamedTuple):
    """What was read from a base on, and in what."""

    base: Seed
    drawn: "array[Any]"
    ran: "array[int] | None"


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
    _branch_after: int = 0
    _before: _Drawn | None = None  # up to the base: some steps at least can be taken back so

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
            ran = None if self._ran is None else self._ran[: 2 * done]
            self._before = _Drawn(self.base, self.drawn[:done], ran)
            del self.drawn[:done]
            if self._ran is not None:
                del self._ran[: 2 * done]
            self.base, self._next = found.seed, None

    def keep(self) -> None:
        """The generation has ended: what it wrote is kept, so that its client may go back further.

        The client alone knows what of it has arrived.
        """
        session = self.session
        shard, slot = session.shard, session.slot
        if self.written == self.base.position and self._before is None:
            return
        if not self._is_there():
            return
        own = [_Drawn(self.base, self.drawn, self._ran)]
        if self._before is not None:
            own.insert(0, self._before)
        base, steps = own[0].base, sum([len(part.drawn) for part in own])
        shard.chronicles.generations.keep(
            slot,
            Generated(
                branch=int(shard.table.branch[slot]),
                base=base,
                end=self.written,
                tail=lambda: self._joined(own),
                nbytes=sum([row.nbytes for row in base.states]) + 20 * steps,
            ),
        )

    def _joined(self, own: list[_Drawn]) -> Steps:
        some = [part for part in own if len(part.drawn)] or own[:1]
        parts = [self._steps(*part) for part in some]
        return Steps.joined(parts) if len(parts) > 1 else parts[0]

    def _is_there(self) -> bool:
        """Whether the session stands, or will, where the generation was written to."""
        table, slot = self.session.shard.table, self.session.slot
        branch = int(table.branch[slot])
        is_own = branch == self.branch or (self._is_gone and branch == self._branch_after)
        return is_own and not table.closing[slot] and table.stands_at(slot) == self.written

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
            tail=self._tail(),
        )
        moves = shard.go_back(own, branch=self.branch, stands=stands, under_way=under_way)
        self._is_gone, self._branch_after = True, own.branch
        return moves

    def _tail(self) -> Steps:
        return self._steps(self.base, self.drawn, self._ran)

    def _steps(self, base: Seed, drawn: "array[Any]", ran: "array[int] | None") -> Steps:
        """What was read from a base on; of what nobody knows in what, anything will do."""
        inputs: Inputs = np.array(drawn, np.float32)[:, None]
        if self.session.served.reader.has_tokens:
            inputs = np.array(drawn, np.int64)
        runs = np.zeros((len(drawn), 2), np.int64)
        if ran is not None:
            known = np.array(ran, np.int64).reshape(-1, 2)[: len(runs)]
            runs[: len(known)] = known
        return drawn_steps(base.position, inputs, runs)
