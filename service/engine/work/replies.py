"""Whom to answer, and with what. Knows nothing of what was asked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from service.engine.work.columns import Answers, Ints, Mask
from service.engine.work.flow import Flow
from service.errors import CellarError

UNKNOWN = -1
"""The position of a session whose queued steps may run, or may not."""


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per message on the hot path
class Delivery:
    """What became of some rows of a request: ``answers`` to them, or an ``error`` for all."""

    rows: Ints  # (rows,) which rows of the request
    positions: Ints  # (rows,) where each session stands now, or UNKNOWN
    answers: Answers | None = None
    error: CellarError | None = None
    replayed: bool = False
    groups: tuple[int, int] = (0, 0)
    """Of the log, with answers: one by which all this is durable, and the last that is; 0: none."""

    def row(self, index: int) -> "Delivery":
        """One of the rows, as the only row of a request."""
        return Delivery(
            rows=np.zeros(1, np.int64),
            positions=self.positions[index : index + 1],
            answers=None if self.answers is None else self.answers.rows(index, index + 1),
            error=self.error,
            replayed=self.replayed,
            groups=self.groups,
        )

    def but(self, answered: Sequence[Ints]) -> "Delivery":
        """Of an error, what is for the rows that are not among these."""
        if not answered:
            return self
        left = ~np.isin(self.rows, np.concatenate(answered))
        return replace(self, rows=self.rows[left], positions=self.positions[left])


class ReplyTo(Protocol):
    """Whom the rows of a request are answered to, and whether they still want it."""

    @property
    def is_inside(self) -> bool:
        """Whether nobody outside the process hears of it, but behind what waits for the log."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for some of the rows any more."""

    def cancelled_rows(self, rows: Ints) -> Mask:
        """Which of some rows nobody waits for any more, (rows,)."""

    def deliver(self, delivery: Delivery) -> None:
        """Take some of the rows; each row comes once."""

    def fail(self, delivery: Delivery) -> None:
        """Take an error for those of the rows that had no answer: where a fault was contained."""


class Receiver(ABC):
    """One who waits for all rows of a request."""

    is_inside = False
    cancelled = False
    wake: Callable[[], None]
    """Lets the shard look at what was cancelled."""

    @abstractmethod
    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""

    @abstractmethod
    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""

    def cancelled_rows(self, rows: Ints) -> Mask:
        """See `ReplyTo.cancelled_rows`."""
        return np.full(len(rows), self.cancelled)

    def cancel(self) -> None:
        """Drop whatever the device has not been given; it will not be applied."""
        self.cancelled = True
        self.wake()


class InsideReceiver(Receiver):
    """One of the engine, which cancels nothing; it hears of a contained fault as of a refusal."""

    is_inside = True
    wake = staticmethod(lambda: None)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery)


class Nobody(InsideReceiver):
    """Nobody waits, and the work is done all the same."""

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""


NOBODY = Nobody()


class SingleReceiver(Protocol):
    """One who waits for single steps, each under a channel and a number."""

    cancelled: bool
    """Nobody waits any more: the steps must not run."""
    flow: Flow
    """Whose steps they are."""

    @property
    def sampling(self) -> Any:
        """How it draws, a `Sampling`, where samples are wanted."""

    def put(self, reply: Any) -> None:
        """Take the reply to one step, as the kind's ``encode`` made it."""

    def put_other(self, channel: int, number: int, delivery: Delivery) -> None:
        """Take what else became of one step: refused, or answered again."""


@dataclass(slots=True, kw_only=True)
class SingleReplies:
    """What some single steps came to, a column each, (rows,)."""

    channels: Sequence[int]
    numbers: Sequence[int]
    positions: Ints
    answers: Answers
    groups: tuple[int, int] = (0, 0)  # see `Delivery`


Encode: TypeAlias = Callable[[SingleReplies], Sequence[Any]]
"""Makes one reply per row, whatever a reply is to who receives it."""
