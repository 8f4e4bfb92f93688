"""A caller who moves nothing: it asks where others' sessions are, while they go on."""

import asyncio
from contextlib import suppress

from benchmarks.chaos.callers.calls import Connection, World, branch_of, is_gone
from cellar.errors import CellarError
from cellar.v1 import session_pb2

_PAUSE_S = 0.02
_AT_ONCE = 32
_CLOSING_S = 10.0


class Reader:
    """Reads sessions by dice.

    Attributes:
        reads: positions that were told.
    """

    def __init__(self, world: World) -> None:
        self._world, self._history = world, world.history
        self._connection = Connection(world)
        self.reads = 0

    async def run(self) -> None:
        """Go on until it is time to stop."""
        while not self._world.stopping.is_set():
            sessions = list(self._history.current)
            if sessions:
                await self._read(self._world.chance.choice(sessions), is_last=False)
            await asyncio.sleep(2 * _PAUSE_S * self._world.chance.random())

    async def read_all(self) -> None:
        """Every session that is open, once nobody moves any more."""
        sessions = iter(list(self._history.current))

        async def some() -> None:
            for session in sessions:
                await self._read(session, is_last=True)

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))

    async def close(self) -> None:
        """Leave."""
        await self._connection.close()

    async def _read(self, session: str, *, is_last: bool) -> None:
        era = self._history.current[session]
        ask = self._history.ask(era, "GetSession of another")
        request = session_pb2.GetSessionRequest(session_id=session)
        try:
            found = (await self._connection.call("GetSession", request)).session
        except CellarError as error:
            if is_gone(error):
                await self._look_again(session, era, error)
            return
        self.reads += 1
        if self._history.current.get(session) != era:
            return  # it began again meanwhile: nobody knows which era was read
        if branch_of(found) == self._history.eras[era].branch:
            self._history.tell(ask, found.position)
        elif is_last and self._history.eras[era].branch:
            self._history.go_back(ask, found.position, branch_of(found))

    async def _look_again(self, session: str, era: int, error: CellarError) -> None:
        """It is gone, unless whoever owns it is about to say that it was closed."""
        if self._history.eras[era].ended is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._world.stopping.wait(), _CLOSING_S)
        if self._history.current.get(session) == era and self._history.eras[era].ended is None:
            self._history.note("lost", f"{session} is gone: {error}")


__all__ = ["Reader"]
