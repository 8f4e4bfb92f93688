"""How blocking calls of gRPC are read, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cellar.calls import status
from cellar.calls.peer import Peer


@contextmanager
def failures(peer: Peer) -> Iterator[None]:
    """Turns the failures of a call into exceptions of the client."""
    try:
        yield
    except grpc.RpcError as error:
        if peer.is_closed:
            raise peer.closed() from None
        raise peer.failed(status.from_call(error, peer.explained)) from None
    except ValueError as error:  # grpc's word for a channel that was closed
        raise peer.ended(error) from None


def next_message(call: Any) -> Any:
    """The next message of a call whose response is a stream; None at its end."""
    return next(call, None)
