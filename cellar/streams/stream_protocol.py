"""The rules of one stream: how it begins, and how it resumes.

A step is written at the position that its session has once all earlier steps are applied. When
the connection breaks, the stream attaches its sessions again and sends every unanswered row
once more *at its old position*: a row that had been applied is answered from the server's
store, any other is applied now. So a break costs time, and no step; for what a crash of the server
has taken see ``returning.py``. A session that is on another branch by then for any other reason is
not attached again: its rows, and whoever names its channel, are told.

Knows nothing of threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellar.calls.procedures import Read, Reopen, Sleep, StreamProcedure, Write
from cellar.calls.retry import Attempts
from cellar.errors import (
    CellarError,
    ClosedError,
    DeadlineExceededError,
    ProtocolError,
    UnansweredError,
)
from cellar.streams.in_flight import InFlight
from cellar.streams.pending import Frame, Pending
from cellar.streams.returning import Returning
from cellar.v1 import session_pb2, values_pb2
from cellar.values.model_info import ModelInfo
from cellar.values.predictions import told_levels


class StreamProtocol:
    """One stream as its client sees it.

    Attributes:
        model: the model, with the version that all sessions of the stream share.
        in_flight: what is asked and not yet answered.
        attempts: turns a timeout (None: the client's) into the tries of a request.
        live: True while requests may be written; otherwise the next ``pump`` resumes first,
            and sends all that is pending.
        closed: why nothing can be received any more, once this side has closed it.
    """

    def __init__(
        self,
        model: ModelInfo,
        outputs: values_pb2.Outputs,
        *,
        levels: tuple[float, ...],
        attempts: Callable[[float | None], Attempts],
    ) -> None:
        """Prepares a stream."""
        self.model = model
        self.in_flight = InFlight(model, levels)
        self._returning = Returning(self.in_flight)
        self.live = False
        self.attempts = attempts
        self._outputs = outputs
        self.closed: ClosedError | None = None
        self._attempts: Attempts | None = None  # since the last sign of progress

    def pump(self, timeout_s: float | None) -> StreamProcedure[list[Pending]]:
        """Receives one message, or resumes once; returns what is done by it.

        Raises:
            DeadlineExceededError: nothing came in time; all is pending as before.
            CellarError: the stream is broken for good; call ``give_up``.
        """
        if self.closed is not None:
            raise ClosedError("the stream was closed")
        if not self.live:
            return (yield from self._resume(timeout_s))
        try:
            response = yield Read(timeout_s)
        except DeadlineExceededError:
            raise
        except CellarError as error:
            self.live = False
            yield from self._pause(error, timeout_s)
            return (yield from self._resume(timeout_s))
        self.in_flight.receive(response)
        self._attempts = None
        return self.in_flight.take_done()

    def give_up(self, error: CellarError) -> list[Pending]:
        """Ends the connection; all that is pending has failed, and is returned.

        The next ``pump`` begins anew.
        """
        self.live = False
        self._attempts = None
        return self.in_flight.give_up(error)

    def abandon(self, pending: Pending) -> list[Pending]:
        """Nobody waits for this any more; returns what has failed with it."""
        if isinstance(pending, Frame):
            self.in_flight.forget(pending)
            return []
        if pending.done:
            return []
        return self.give_up(CellarError("an attach, a reset or a detach was given up"))

    def close(self, awaited: Sequence[Frame]) -> list[Pending]:
        """Ends the stream for good; all that is pending has failed, and is returned.

        ``awaited`` are the frames that were in flight when it began to be closed.
        """
        failed = self.give_up(ClosedError("the stream was closed"))
        if self.closed is None:
            left = [frame.number for frame in awaited if frame.error is not None]
            self.closed = UnansweredError(left) if left else ClosedError("the stream was closed")
        return failed

    def _resume(self, timeout_s: float | None) -> StreamProcedure[list[Pending]]:
        while True:
            attempts = self._attempts = self._attempts or self.attempts(timeout_s)
            try:
                yield Reopen()
                start = session_pb2.StreamStart(
                    model=self.model.name,
                    model_version=self.model.version,
                    outputs=self._outputs,
                    tell_durable=True,
                )
                yield Write(session_pb2.StreamRequest(start=start))
                response = yield Read(attempts.remaining_s())
                attempts.answered()
                if response.WhichOneof("message") != "started":
                    raise ProtocolError("a stream did not begin with started")
                told = response.started.outputs.quantiles
                self.in_flight.levels = told_levels(told, self.in_flight.levels)
                yield from self._returning.attach_again(attempts)
                for pending in self.in_flight.pending:  # grows while others ask for more
                    if not pending.done:
                        yield Write(pending.request())
            except CellarError as error:
                yield from self._pause(error, timeout_s)
            else:
                self.live = True
                done = self.in_flight.take_done()
                if not self.in_flight.pending:
                    self._attempts = None
                return done

    def _pause(self, error: CellarError, timeout_s: float | None) -> StreamProcedure[None]:
        attempts = self._attempts or self.attempts(timeout_s)
        self._attempts = None  # unless there is another try
        delay_s = attempts.failed(error)
        self._attempts = attempts
        yield Sleep(delay_s)
