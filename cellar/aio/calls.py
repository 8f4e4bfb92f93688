"""How calls of ``grpc.aio`` are read, and how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cellar import status
from cellar.errors import ClosedError, ConnectionLostError


@contextmanager
def failures() -> Iterator[None]:
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
        raise ConnectionLostError("the call was cancelled", code="CANCELLED") from None
    except grpc.aio.AioRpcError as error:
        raise status.from_call(error) from None
    except asyncio.InvalidStateError as error:
        raise ConnectionLostError(f"the call has ended: {error}") from None
    except grpc.aio.UsageError as error:  # grpc's word for a channel that was closed
        raise ClosedError(f"the client was closed: {error}") from None


async def next_message(call: Any) -> Any:
    """The next message of a call whose response is a stream; None at its end."""
    message = await call.read()
    return None if message is grpc.aio.EOF else message
