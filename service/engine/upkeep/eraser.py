"""When what ended sessions had sent is to leave the store's files, and the thread that does it.

What is dropped or deleted stays in the files until its room is used again; `Store.erase` writes
what is kept into new ones. That costs a copy of the store, so it is done now and then, for all
sessions that have ended since. Knows nothing of sessions.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from service.engine.log.keys import META
from service.store.records import Section, pack, unpack
from service.store.store import Store, StoreError, StoreFailedError

ERASED = META + b"erased"
"""When the files were written anew, by the wall clock."""
_AGAIN_S = 60.0  # after a failure
_log = structlog.get_logger(__name__)


class Eraser:
    """Has the files of one store written anew.

    Args:
        every_s: how often at most, and how long after its end a session's inputs may be there; 0
            for never.
        last_group: of the store, at the start; 0 where it was empty.
        clock: seconds, never going back.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        *,
        every_s: float,
        last_group: int,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._group = last_group  # whether sessions had ended before the start is not known
        self._next_s = clock() + every_s - self._age_s()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="erase")
        self._task: asyncio.Task[None] | None = None

    def _age_s(self) -> float:
        """How long ago the files were written anew, as far as a clock that jumps can say."""
        row = self._store.row(ERASED)
        if row is None:
            return 0.0
        age_s = self._wall_clock() - float(unpack(row)[0].meta["at_s"])
        return min(max(age_s, 0.0), self._every_s)

    def ended(self, group: int) -> None:
        """Sessions have ended; all they had sent is in that group or before it."""
        self._group = max(self._group, group)

    @property
    def due(self) -> int:
        """The group up to which the journal is to be let go before `begin`; 0: not now."""
        if not self._every_s or self._task is not None or self._clock() < self._next_s:
            return 0
        return self._group

    def row(self) -> dict[bytes, bytes]:
        """What the table is to know before `begin`."""
        return {ERASED: pack([Section("erased", {"at_s": self._wall_clock()}, {})])}

    def begin(self, *, is_whole: bool) -> None:
        """Write the files anew, in the background.

        Args:
            is_whole: the journal was let go up to the group that `due` said; else there is more to
                erase the next time.
        """
        if is_whole:
            self._group = 0
        self._next_s = self._clock() + self._every_s
        self._task = asyncio.get_running_loop().create_task(self._erase())

    async def _erase(self) -> None:
        began_s, group = self._clock(), self._group
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._store.erase)
        except StoreFailedError:  # said already, and the server ends
            pass
        except StoreError as error:  # all is as it was
            self._group = max(group, self._group, 1)
            self._next_s = self._clock() + min(self._every_s, _AGAIN_S)
            _log.error("the store's files could not be written anew", reason=str(error))
        else:
            seconds = round(self._clock() - began_s, 3)
            _log.info("what ended sessions had sent is erased", seconds=seconds)
        finally:
            self._task = None

    async def finished(self) -> None:
        """Wait until nothing is being erased."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def close(self) -> None:
        """End the thread; to close the store breaks off what it does."""
        self._thread.shutdown(wait=False)
