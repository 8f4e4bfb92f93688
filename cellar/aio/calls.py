"""How calls of ``grpc.aio`` are read, and how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cellar.calls import status
from cellar.calls.peer import Peer
from cellar.errors import ClosedError, ConnectionLostError


@contextmanager
def failures(peer: Peer) -> Iterator[None]:
    """Turns the failures of a call into exceptions of the client.

    That the call was cancelled from elsewhere (its channel was closed) is such a failure; that
    the caller's own task is cancelled is not.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        if peer.is_closed:
            raise peer.closed() from None
        raise ConnectionLostError("the call was cancelled", code="CANCELLED") from None
    except grpc.aio.AioRpcError as error:
        if peer.is_closed:
            raise peer.closed() from None
        raise peer.failed(status.from_call(error, peer.explained)) from None
    except asyncio.InvalidStateError as error:
        raise ConnectionLostError(f"the call has ended: {error}") from None
    except grpc.aio.UsageError as error:  # grpc's word for a channel that was closed
        raise peer.ended(error) from None
    except (grpc.aio.BaseError, grpc.aio.InternalError) as error:  # of what a call is made of
        raise ConnectionLostError(f"the call failed within gRPC: {error}") from None
    except RuntimeError as error:  # the loop is closed, or another than the client was made in
        if "loop" not in str(error):
            raise
        raise ClosedError(f"the client belongs to another event loop: {error}") from None


async def next_message(call: Any) -> Any:
    """The next message of a call whose response is a stream; None at its end."""
    message = await call.read()
    return None if message is grpc.aio.EOF else message
