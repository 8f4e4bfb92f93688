"""Single steps of many streams, gathered until the next tick.

A stream that carries one session sends messages of one step each. Here nothing is made per step
but a tuple: a tick turns them into the columns of one request, and its answers into one reply per
row, all at once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.engine.work.work import Answers, Caller, Delivery, Inputs, Ints, Outputs, Sampling


@dataclass(slots=True, kw_only=True)
class LoneReplies:
    """What some lone steps came to, a column each, (rows,)."""

    channels: Ints
    numbers: NDArray[np.uint64]  # of the frames they came in
    positions: Ints
    answers: Answers


Encode: TypeAlias = Callable[[LoneReplies], Sequence[Any]]
"""Makes one reply per row, whatever a reply is to who sends it."""


@dataclass(frozen=True, slots=True, eq=False)
class LoneKind:
    """Lone steps that can run and be answered together."""

    outputs: Outputs
    encode: Encode


class Sender(Protocol):
    """The stream that a lone step came on."""

    cancelled: bool
    """The client is gone: its steps must not run."""

    @property
    def sampling(self) -> Sampling | None:
        """How it draws, where samples are wanted."""

    def put(self, reply: Any) -> None:
        """Send the reply to one step."""

    def put_other(self, caller: Caller, channel: int, number: int, delivery: Delivery) -> None:
        """Send what else became of one step, refused or answered again, to a tracked caller."""

    def track(self, caller: Caller) -> None:
        """Cancel this caller too when the client goes."""


@dataclass(slots=True, kw_only=True)
class Tags:
    """Whom lone steps are answered to and under which name, a column each, (rows,)."""

    channels: Sequence[int]
    numbers: Sequence[int]
    senders: Sequence[Sender]
    encode: Encode

    def only(self, rows: Ints) -> "Tags":
        """Some of the rows."""
        wanted = rows.tolist()
        return Tags(
            channels=[self.channels[row] for row in wanted],
            numbers=[self.numbers[row] for row in wanted],
            senders=[self.senders[row] for row in wanted],
            encode=self.encode,
        )

    def called_off(self) -> list[bool]:
        """Which rows nobody waits for any more."""
        return [sender.cancelled for sender in self.senders]

    def caller(self, row: int) -> Caller:
        """Who asked for a row: for what is not the common case."""
        sender = self.senders[row]
        caller = Caller(cancelled=sender.cancelled)
        caller.deliver = partial(sender.put_other, caller, self.channels[row], self.numbers[row])
        sender.track(caller)
        return caller

    def replies(self, positions: Ints, answers: Answers) -> Sequence[Any]:
        """What to send to each sender.

        Raises:
            Exception: whatever makes replies.
        """
        replies = self.encode(
            LoneReplies(
                channels=np.array(self.channels, np.int64),
                numbers=np.array(self.numbers, np.uint64),
                positions=positions,
                answers=answers,
            )
        )
        assert len(replies) == len(self.senders), "one reply per row"
        return replies


LoneRow: TypeAlias = tuple[int, int | Inputs, int, int, int, Sender]
"""Slot; token id, or values (1, width); position or ``UNCHECKED``; channel; number; sender."""


@dataclass(slots=True, eq=False)
class Lones:
    """The lone steps of one kind that came in since the last tick."""

    kind: LoneKind
    rows: list[LoneRow] = field(default_factory=list)
    submitted_s: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Steps in all."""
        return len(self.rows)

    @property
    def are_distinct(self) -> bool:
        """Whether no session appears twice."""
        return len({row[0] for row in self.rows}) == len(self.rows)
