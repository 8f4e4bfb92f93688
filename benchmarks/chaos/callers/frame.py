"""Frames of a stream, as a caller sends and remembers them."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.callers.calls import DEADLINE_S, Subject
from benchmarks.chaos.callers.lives import Ghost, inputs_of
from benchmarks.chaos.oracle.history import Floats, Ints
from cellar.v1 import session_pb2


@dataclass(slots=True, kw_only=True)
class Frame:
    """A frame, and which of its rows have no answer yet.

    Attributes:
        rows: ascending; a row's number is its channel, (rows,).
        eras: of each row, (rows,).
        before: its position, (rows,).
        counts: its steps, (rows,).
        inputs: of all rows, one after the other, (steps,).
        waiting: (rows,).
        sent: when, in ticks.
        is_duplicate: sent again on purpose.
    """

    number: int
    rows: Ints
    eras: Ints
    before: Ints
    counts: Ints
    inputs: Floats
    waiting: NDArray[np.bool_]
    sent: int
    is_duplicate: bool = False

    @property
    def starts(self) -> Ints:
        """Where each row's steps begin, (rows,)."""
        found: Ints = np.cumsum(self.counts) - self.counts
        return found

    def steps_of(self, at: Ints) -> tuple[Ints, Ints]:
        """Of some rows, by their index here: each step's row among them, and its place in it."""
        counts = self.counts[at]
        owner = np.repeat(np.arange(len(at)), counts)
        return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)

    def row(self, at: int) -> Ghost:
        """One row by its index here, as a request of its own."""
        start = int(self.starts[at])
        inputs = self.inputs[start : start + int(self.counts[at])]
        return Ghost(era=int(self.eras[at]), position=int(self.before[at]), inputs=inputs)

    def again(self, number: int, *, waiting: NDArray[np.bool_], sent: int) -> "Frame":
        """The same, to be sent once more though it was answered."""
        return replace(self, number=number, waiting=waiting, sent=sent, is_duplicate=True)

    def message(self, subject: Subject) -> session_pb2.StreamRequest:
        """The rows that wait."""
        at = np.flatnonzero(self.waiting)
        owner, within = self.steps_of(at)
        single = bool((self.counts[at] == 1).all())
        frame = session_pb2.StreamFrame(
            channels=self.rows[at].tolist(),
            steps=[] if single else self.counts[at].tolist(),
            positions=self.before[at].tolist(),
            inputs=inputs_of(subject, self.inputs[self.starts[at][owner] + within]),
            number=self.number,
        )
        return session_pb2.StreamRequest(frame=frame)


class TroubleError(Exception):
    """The stream is of no use any more: begin anew from where the sessions are."""


async def write(call: Any, message: session_pb2.StreamRequest) -> None:
    """Send a message.

    Raises:
        TimeoutError: the connection takes nothing.
    """
    await asyncio.wait_for(call.write(message), DEADLINE_S)


async def read(call: Any) -> Any:
    """The next message.

    Raises:
        TimeoutError: there is none.
        TroubleError: there will be none.
    """
    heard = await asyncio.wait_for(call.read(), DEADLINE_S)
    if heard is grpc.aio.EOF:
        raise TroubleError("the stream has ended")
    return heard


__all__ = ["Frame", "TroubleError", "read", "write"]
