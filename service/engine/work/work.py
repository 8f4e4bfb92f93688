"""Work for sessions: what is queued, and what a batch is made of.

Work comes in eight kinds. A `Request` of single steps is one row per session, and stays columns
from the message it came in to the message that answers it. `Decode` is several steps that
sessions draw for themselves. `Chunk` is several steps of one session. `Recall` asks for the
resident prediction again, without stepping. `Save` takes copies of sessions' rows, and `Load` puts
such in their place, neither of which counts as a step. `Fork` copies one session's rows to spare
slots. `Barrier` takes its turn and does nothing on the device.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.work.columns import NOTHING, Branches, Floats, Inputs, Ints, Mask, Outputs
from service.engine.work.flow import Flow
from service.engine.work.replies import NOBODY, Delivery, ReplyTo
from service.engine.work.sampling import Draws
from service.errors import CellarError, InternalError, untellable

_log = structlog.get_logger(__name__)


class Kind(Enum):
    """What a piece of work does, and a batch of it; the kinds take turns in this order."""

    STEPS = "steps"
    DECODE = "decode"
    CHUNKS = "chunks"
    RECALL = "recall"
    SAVE = "save"
    LOAD = "load"
    FORK = "fork"
    BARRIER = "barrier"


_NO_INTS = np.empty(0, np.int64)
_NO_BRANCHES = np.empty(0, np.uint64)
_NO_TICKETS = np.empty(0, np.int32)


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """Rows of work for the sessions in ``slots``; never two rows of one session."""

    kind: ClassVar[Kind]

    slots: Ints  # (rows,)
    expected: Ints = field(default_factory=_NO_INTS.view)
    """(rows,) the position each session must have when its row runs; nothing where any will do."""
    branches: Branches | None = None
    """(rows,) the branch each session must be on when its row runs; ``None`` is any."""
    outputs: Outputs = NOTHING
    draws: Draws | None = None
    reply_to: ReplyTo = NOBODY
    rows: Ints | None = None  # (rows,) which rows of the request they are; None: 0, 1, 2, ...
    commit: bool = False  # whether it applies steps to the sessions
    borrowed: bool = False  # nobody else reads its slots: long chunks work there
    feeds_back: bool = False  # its draws are the sessions' next steps, see `Feedback`
    row_steps: int = 1  # steps that one row stands for, for limits and metrics
    row_cost: int = 1  # rows that one row costs the device, or its answer where that is more
    submitted_s: float = field(default_factory=time.monotonic)
    tickets: NDArray[np.int32] = field(default_factory=_NO_TICKETS.view)  # (rows,) see `Scheduler`
    flow: Flow | None = None  # whose rows they all are
    round: int = 0  # of work of several flows: when it may run, see `FairQueue`
    turns_of: Hashable | None = None  # of such work: the principal in whose rounds that is
    is_fold: bool = False  # it was applied before, and is read again from the log
    bucket: int = 0  # of single steps that are read again: what their run is padded to; 0: any
    failure: CellarError | None = None  # it must not run any more, and this is why

    @property
    def party(self) -> Hashable:
        """Whom it is, where queues are fair between parties, see `Flow.party`."""
        return None if self.flow is None else self.flow.party

    @property
    def principal(self) -> Hashable | None:
        """In whose rounds it has its turns; ``None``: in those of all."""
        return self.turns_of if self.flow is None else self.flow.allowance

    @property
    def cancelled(self) -> bool:
        """Whether some of it must not run any more."""
        return self.failure is not None or self.reply_to.cancelled

    def rows_at(self, indices: Ints) -> Ints:
        """Which rows of the request some of its rows are."""
        return indices if self.rows is None else self.rows[indices]


def hand_over(work: Work, delivery: Delivery, *, fail: bool = False) -> None:
    """Answer some rows of it, or with ``fail`` those of them that had no answer.

    Whatever a receiver does must not keep the others waiting. One that cannot take an answer is
    told so, as an error is smaller than most answers.
    """
    try:
        if fail:
            work.reply_to.fail(delivery)
        else:
            work.reply_to.deliver(delivery)
    except Exception:
        not_handed_over(work, delivery, failed=fail)


def not_handed_over(work: Work, delivery: Delivery, *, failed: bool = False) -> None:
    """A receiver could not take this; called where that is handled."""
    _log.exception("reply could not be handed over")
    if failed:
        return
    error = delivery.error or InternalError(
        "the step was applied, but its reply could not be handed over; the server's log tells why"
    )
    lost = Delivery(rows=delivery.rows, positions=delivery.positions, error=error)
    hand_over(work, lost, fail=True)


def cannot_tell(work: Work, rows: Ints, positions: Ints) -> None:
    """What became of some rows of it cannot be told: say that to those that had no answer."""
    hand_over(work, Delivery(rows=rows, positions=positions, error=untellable()), fail=True)


class Piece(NamedTuple):
    """Steps of a chunk that ran at once."""

    stop: int  # one past the last of them
    bucket: int = 0  # what their run was padded to, where bits depend on that
    run_steps: int = 0  # the time steps of their run, where bits depend on where chunks are cut


@dataclass(slots=True, eq=False, kw_only=True)
class Chunk(Work):
    """Several steps of one session, ``row_steps`` of them, applied all or not at all.

    A chunk longer than one run works on a spare slot and writes the session's own slot with its
    last piece only. Where nobody else reads the slot, as it is borrowed for the chunk, it works
    there.
    """

    kind = Kind.CHUNKS

    inputs: Inputs  # (steps,) or (steps, width)
    contents: Ints  # (1,) digest of the inputs
    done: int = 0
    spare: int | None = None
    history: Floats | None = None  # (steps, width) predictions so far, with every_step
    pieces: list[Piece] = field(default_factory=list)
    """What it ran in, where bits depend on that; one that is read again has to run in them."""
    ran: list[Piece] | None = None
    """The same of a fold of what the session has not read yet, for whoever wants to know."""

    def next_piece(self, at_most: int) -> Piece:
        """The steps that are next, and how they have to run."""
        most = min(self.done + at_most, len(self.inputs))
        if not self.is_fold or not self.pieces:
            return Piece(most)
        piece = self.pieces[bisect_right(self.pieces, self.done, key=lambda own: own.stop)]
        return piece._replace(stop=min(most, piece.stop))

    @property
    def slot(self) -> int:
        """The session's slot."""
        return int(self.slots[0])


@dataclass(slots=True, eq=False, kw_only=True)
class Decode(Work):
    """Several steps for each of several sessions, each but the first drawn from the one before.

    Each row reads ``row_steps`` steps, and draws as many.
    """

    kind = Kind.DECODE

    inputs: Inputs  # (rows,) what is read first: token ids, or values


@dataclass(slots=True, eq=False, kw_only=True)
class Recall(Work):
    """The resident prediction of each session, asked for again.

    For the every-step reply of one session it is ``row_cost`` predictions.
    """

    kind = Kind.RECALL

    replays: bool = False  # answers a request that was applied already


@dataclass(slots=True, eq=False, kw_only=True)
class Save(Work):
    """Copies of sessions' rows, with what the table says of them at that moment, wherever it is.

    Once it is answered its columns are filled, but for the rows that were refused: those of
    sessions that have been closed or are lost.
    """

    kind = Kind.SAVE

    states: list[Floats] = field(default_factory=list)  # as `Runner.read` returns them
    positions: Ints = field(default_factory=_NO_INTS.view)  # (rows,)
    last_steps: Ints = field(default_factory=_NO_INTS.view)  # (rows,) of the last request
    contents: Ints = field(default_factory=_NO_INTS.view)  # (rows,) digest of its inputs
    # By slot, the predictions after each of its steps, where they are kept.
    histories: dict[int, Floats] = field(default_factory=dict)
    is_checkpoint: bool = False  # what the sessions read from here on is their tail
    evicts: bool = False  # they may leave their rows of the arena with that, see `Tiers`
    saved_branches: Branches = field(default_factory=_NO_BRANCHES.view)  # (rows,)
    # Of a session in the log: its number, and where its tail began.
    numbers: Ints = field(default_factory=_NO_INTS.view)  # (rows,)
    first_groups: Ints = field(default_factory=_NO_INTS.view)  # (rows,)

    def __post_init__(self) -> None:
        columns = np.zeros((5, len(self.slots)), np.int64)
        self.positions, self.last_steps, self.contents, self.numbers, self.first_groups = columns
        self.saved_branches = np.zeros(len(self.slots), np.uint64)


@dataclass(slots=True, eq=False, kw_only=True)
class Load(Work):
    """Rows that a `Save` took, put into slots, wherever their sessions stand and even if lost.

    Whoever queues it has counted ``positions`` as accepted. The sessions stand there whatever
    becomes of it, unless they are not on its ``branches`` any more; where it could not be done, or
    was refused, they are lost.
    """

    kind = Kind.LOAD

    states: list[Floats]  # as `Runner.write` takes them; those that stay are read when it runs
    positions: Ints  # (rows,) 0 only of sessions that are `SessionTable.seeded`
    last_steps: Ints  # (rows,) of the last request; 0: none; negative: its reply is lost
    contents: Ints  # (rows,) digest of its inputs
    histories: dict[int, Floats] = field(default_factory=dict)  # see `Save`
    in_host: bool = False  # the states are in host memory, until they are in their slots
    in_store: bool = False  # the same of the store
    tells: Callable[[], None] | None = None
    """Of one session that goes back: called once it stands there, to tell the log."""
    unread: Mask | None = None  # (rows,) the states are not there, and must not be put anywhere
    done: Mask = field(init=False)  # (rows,) the table says it

    def __post_init__(self) -> None:
        self.done = np.zeros(len(self.slots), np.bool_)

    @property
    def stays(self) -> bool:
        """Whether the states are where they come from, so that nothing is lost if this fails."""
        return self.in_host or self.in_store


@dataclass(slots=True, eq=False, kw_only=True)
class Fork(Work):
    """Copies of one session's rows, ``row_cost`` of them, in spare slots.

    Its answers are of the copies, ``draws`` too; the receiver must return the slots.
    """

    kind = Kind.FORK

    spares: Ints = field(default_factory=_NO_INTS.view)


@dataclass(slots=True, eq=False, kw_only=True)
class Barrier(Work):
    """Waits until what was queued before it has run, whatever position that led to.

    With ``reset`` the session is put back to position 0 at that point, of a ``new_branch``. If it
    was opened with a state of its own, ``then`` is queued behind it, which puts that there and is
    for the new branch alone. What ``acts`` is called at that point, and raises nothing. One that
    ``is_last`` waits for a session that was closed, and is not refused for that.
    """

    kind = Kind.BARRIER

    reset: bool = False
    new_branch: int = 0
    then: Load | None = None
    acts: Callable[[], None] | None = None
    is_last: bool = False
    freezes: bool = False
    """What ``acts`` may meet a session that moves to another server."""
