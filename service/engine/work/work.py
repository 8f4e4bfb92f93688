"""Work for sessions: what is queued, and what a batch is made of.

Work comes in six kinds. A `Request` of single steps is one row per session, and stays columns from
the message it came in to the message that answers it. `Decode` is several steps that sessions
draw for themselves. `Chunk` is several steps of one session. `Recall` asks for the resident
prediction again, without stepping. `Fork` copies one session's rows to spare slots. `Barrier`
takes its turn and does nothing on the device.
"""

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.work.columns import NOTHING, Floats, Inputs, Ints, Outputs
from service.engine.work.flow import Flow
from service.engine.work.replies import NOBODY, Delivery, ReplyTo
from service.engine.work.sampling import Draws
from service.errors import CellarError, InternalError

_log = structlog.get_logger(__name__)


class Kind(Enum):
    """What a piece of work does, and a batch of it; the kinds take turns in this order."""

    STEPS = "steps"
    DECODE = "decode"
    CHUNKS = "chunks"
    RECALL = "recall"
    FORK = "fork"
    BARRIER = "barrier"


_NO_INTS = np.empty(0, np.int64)
_NO_TICKETS = np.empty(0, np.int32)


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """Rows of work for the sessions in ``slots``; never two rows of one session."""

    kind: ClassVar[Kind]

    slots: Ints  # (rows,)
    expected: Ints = field(default_factory=_NO_INTS.view)
    """(rows,) the position each session must have when its row runs."""
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
    failure: CellarError | None = None  # it must not run any more, and this is why

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
class Fork(Work):
    """Copies of one session's rows, ``row_cost`` of them, in spare slots.

    Its answers are of the copies, ``draws`` too; the receiver must return the slots.
    """

    kind = Kind.FORK

    spares: Ints = field(default_factory=_NO_INTS.view)


@dataclass(slots=True, eq=False, kw_only=True)
class Barrier(Work):
    """Waits until what was queued before it has run, whatever position that led to.

    With ``reset`` the session is put back to position 0 at that point. One that ``is_last`` waits
    for a session that was closed, and is not refused for that.
    """

    kind = Kind.BARRIER

    reset: bool = False
    is_last: bool = False
