"""Sessions whose states a failed run has left in doubt: they are read back, and restored.

Knows nothing of why a run has failed.
"""

import asyncio
from collections.abc import Callable

import numpy as np
import structlog

from service.engine.log.commit_log import CommitLog
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.restorer import Restorer
from service.engine.work.columns import Ints
from service.errors import StoreUnavailableError
from service.store.store import StoreError, StoreFailedError

_AGAIN_S = 0.05  # a store that could not be read is read again after that
_log = structlog.get_logger(__name__)


class Lost:
    """The lost sessions of one shard that the log brings back.

    Attributes:
        bringing: what brings them back, while there are any.

    Args:
        is_idle: whether a slot has nothing queued or running.
        wake: tells that work is queued.
        bring: see `Shard.bring`.
    """

    def __init__(
        self,
        table: SessionTable,
        log: CommitLog,
        restorer: Restorer,
        *,
        is_idle: Callable[[int], bool],
        wake: Callable[[], None],
        bring: Callable[[Ints], None],
    ) -> None:
        self._table = table
        self._log = log
        self._restorer = restorer
        self._is_idle = is_idle
        self._wake = wake
        self._bring = bring
        self._loop = asyncio.get_running_loop()
        self._lost: dict[int, int] = {}  # whose sessions are to be restored: slot and branch
        self.bringing: asyncio.Task[None] | None = None

    def bring_back(self, slots: Ints) -> None:
        """The states in these are in doubt, what they had read is in the log."""
        for slot in slots.tolist():
            if self._table.number[slot] and self._restorer.may_try_again(slot):
                self._table.restoring[slot] = True
                self._lost[slot] = self._table.branch.item(slot)
        if self.bringing is None and self._lost:
            self.bringing = self._loop.create_task(self._bring_all_back())

    async def _bring_all_back(self) -> None:
        try:
            while self._lost:
                lost, self._lost = self._lost, {}
                await self._bring_some_back(lost)
        finally:
            self.bringing = None

    async def _bring_some_back(self, lost: dict[int, int]) -> None:
        """Restore lost sessions from the log, each once what was queued behind it is refused.

        Args:
            lost: the slot and the branch of each.
        """
        table = self._table
        numbers = {slot: int(table.number[slot]) for slot in lost}
        try:
            found = await self._log.read_back(numbers.values())
            while self._some_are_busy(lost):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        except (StoreFailedError, StoreUnavailableError):
            return  # they are not lost: the server ends, and the next one has them
        except Exception as fault:  # a store that cannot be read now, or a fault of ours
            exc_info = None if isinstance(fault, StoreError) else fault
            _log.error("sessions could not be read back", reason=str(fault), exc_info=exc_info)
            await asyncio.sleep(_AGAIN_S)
            self._read_again(lost, str(fault))
            return
        for slot, branch in lost.items():
            # It may have ended meanwhile or was reset, and has failed again on its next branch.
            if not self._is_lost(slot, branch):
                continue
            session = found.get(numbers[slot])
            if session is not None and session.row.branch != branch:
                self._lost[slot] = branch  # the log does not know yet that it goes back: once more
                continue
            table.restoring[slot] = False
            if session is None or session.is_damaged or session.position < table.position[slot]:
                self._restorer.set_aside(slot, "some of what it had read is not in the store")
                continue
            table.lost[slot] = False
            table.freeze(slot, session.position)
            self._restorer.keep(slot, session)
            self._bring(np.array([slot]))
        self._wake()

    def _is_lost(self, slot: int, branch: int) -> bool:
        """Whether a session that was lost, and to be restored, is still to be."""
        table = self._table
        is_there = table.number.item(slot) != 0 and table.branch.item(slot) == branch
        return is_there and table.restoring.item(slot)

    def _some_are_busy(self, lost: dict[int, int]) -> bool:
        """Whether some that are still lost are not idle; one that was reset may never be."""
        return any(self._is_lost(*own) and not self._is_idle(own[0]) for own in lost.items())

    def _read_again(self, lost: dict[int, int], reason: str) -> None:
        """The store could not be read: try those again that may be."""
        for slot, branch in lost.items():
            if not self._is_lost(slot, branch):
                continue
            self._table.restoring[slot] = False
            self.bring_back(np.array([slot]))
            if not self._table.restoring[slot]:
                self._restorer.set_aside(slot, reason)
