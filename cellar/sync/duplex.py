"""The call of a stream, on blocking gRPC."""

from __future__ import annotations

import queue
import threading
from typing import Any

from cellar.calls.peer import Peer
from cellar.calls.procedures import Read, Reopen, Sleep, StreamEffect
from cellar.errors import CellarError, ConnectionLostError, DeadlineExceededError
from cellar.sync.calls import failures, next_message
from cellar.sync.transport import Transport


class Duplex:
    """Effects of a stream: one call at a time, read by a thread of its own."""

    def __init__(self, transport: Transport) -> None:
        """No call yet."""
        self._transport = transport
        self._call: Any = None
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def perform(self, effect: StreamEffect) -> object:
        """Does one effect."""
        if isinstance(effect, Read):
            return self._read(effect.timeout_s)
        if isinstance(effect, Sleep):
            return self._transport.perform(effect)
        if isinstance(effect, Reopen):
            self._reopen()
        else:
            self._outgoing.put(effect.request)
        return None

    def close(self) -> None:
        """Cancels the call, if there is one, and so ends its threads."""
        if self._call is not None:
            self._outgoing.put(None)
            self._call.cancel()
            self._call = None

    def _reopen(self) -> None:
        self.close()
        self._outgoing = queue.SimpleQueue()
        self._incoming = queue.SimpleQueue()
        with failures(self._transport.peer):
            self._call = self._transport.duplex(iter(self._outgoing.get, None))
        threading.Thread(
            target=_receive,
            args=(self._call, self._transport.peer, self._incoming, self._outgoing),
            name="cellar-stream",
            daemon=True,
        ).start()

    def _read(self, timeout_s: float | None) -> object:
        try:
            message = self._incoming.get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineExceededError("the stream did not answer in time") from None
        if isinstance(message, CellarError):
            raise message
        return message


def _receive(
    call: Any, peer: Peer, incoming: queue.SimpleQueue[Any], outgoing: queue.SimpleQueue[Any]
) -> None:
    try:
        with failures(peer):
            while (message := next_message(call)) is not None:
                incoming.put(message)
        incoming.put(ConnectionLostError("the server ended the stream"))
    except CellarError as error:
        incoming.put(error)
    finally:
        outgoing.put(None)
