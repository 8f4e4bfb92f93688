"""Bare calls that are made until they are answered, and what all callers share."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.chaos.oracle.history import Ask, History
from cellar.calls import status
from cellar.errors import BusyError, CellarError, StateLostError
from cellar.v1 import session_pb2, session_pb2_grpc

HAS_BRANCHES = "branch" in session_pb2.Session.DESCRIPTOR.fields_by_name
DEADLINE_S = 1.5
"""A call without an answer is made again after that."""
_PATIENCE_S = 60.0
_AGAIN_S = 0.1
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", 64 * 2**20),
)
# Refusals by a store that may be well again in a moment, whatever the client makes of them.
_PASSING = ("STORE_FULL", "STORE_UNAVAILABLE", "LOADING", "DRAINING", "OVERLOADED")


class StuckError(Exception):
    """The server is well, and does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model that is served.

    Attributes:
        name: its name.
        tokens: how many there are; 0 for series.
    """

    name: str
    tokens: int = 0


@dataclass(slots=True)
class World:
    """What all callers share.

    Attributes:
        address: of the proxy.
        history: what they were told.
        chance: their dice.
        may_lose_tails: see `judge`.
        stopping: set when they are to come to an end.
        ids: makes session ids.
    """

    address: str
    history: History
    chance: random.Random
    may_lose_tails: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ids: Counter[str] = field(default_factory=Counter)

    def new_id(self, kind: str) -> str:
        """An id that no session had."""
        self.ids[kind] += 1
        return f"{kind}-{self.ids[kind]}"


class Connection:
    """A connection of one caller's, which is made anew after trouble."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._channel = self._open()
        self.stub: Any = session_pb2_grpc.SessionServiceStub(self._channel)

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._world.address, options=_OPTIONS)

    async def renew(self) -> None:
        """Leave the connection, and whatever is under way on it, and make another."""
        old, self._channel = self._channel, self._open()
        self.stub = session_pb2_grpc.SessionServiceStub(self._channel)
        await old.close()

    async def close(self) -> None:
        """Leave it."""
        await self._channel.close()

    async def call(self, method: str, request: Any) -> Any:
        """Make a call until it is answered.

        Raises:
            CellarError: it was refused, and trying again would not help.
            StuckError: nobody answers.
        """
        loop = asyncio.get_running_loop()
        end, tries = loop.time() + _PATIENCE_S, 0
        while True:
            tries += 1
            try:
                return await getattr(self.stub, method)(request, timeout=DEADLINE_S)
            except grpc.aio.AioRpcError as failure:
                error = status.from_call(failure)
            self._world.history.refusals[error.reason or error.code] += 1
            if not passes(error):
                raise error
            if loop.time() > end:
                raise StuckError(f"{method} was not answered for {_PATIENCE_S:g} s: {error}")
            self._world.history.faults["retry"] += 1
            await asyncio.sleep(_AGAIN_S * (1 + self._world.chance.random()))
            if tries % 2 == 0:
                await self.renew()


def passes(error: CellarError) -> bool:
    """Whether the same request may succeed later."""
    return (
        error.ambiguous
        or error.retryable
        or isinstance(error, BusyError)
        or error.reason in _PASSING
    )


def is_stale(error: CellarError) -> bool:
    """Whether a request was meant for another branch."""
    return error.reason == "STALE_BRANCH"


def is_gone(error: CellarError) -> bool:
    """Whether the session itself is lost."""
    return error.reason.startswith("SESSION_") or isinstance(error, StateLostError)


def on(branch: int) -> dict[str, Any]:
    """The field of a request that names a branch, where the wire has one."""
    return {"branch": branch} if HAS_BRANCHES and branch else {}


def branch_of(message: Any) -> int:
    """The branch that a session or a reply names; 0 where the wire has none."""
    return int(getattr(message, "branch", 0))


def told(world: World, ask: Ask, position: int, branch: int) -> int | None:
    """The answer to the question where a session is; the era that it is in now.

    ``None`` where it cannot be there: the session is of no use then.
    """
    history = world.history
    if branch != history.eras[ask.era].branch:
        return history.go_back(ask, position, branch)
    return ask.era if history.tell(ask, position) else None


__all__ = [
    "DEADLINE_S",
    "HAS_BRANCHES",
    "Connection",
    "StuckError",
    "Subject",
    "World",
    "branch_of",
    "is_gone",
    "is_stale",
    "on",
    "passes",
    "told",
]
