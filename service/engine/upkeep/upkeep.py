"""The log's upkeep: checkpoints move on, the journal is let go, and sessions come back at a start.

Says when each of these is done. Knows nothing of gRPC.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog

from service.engine.checkpoints import Checkpoints
from service.engine.directory.directory import Directory
from service.engine.log.commit_log import CommitLog
from service.engine.log.keys import IN_DOUBT
from service.engine.log.recovery.folding import Folding
from service.engine.log.recovery.stored import Stored
from service.engine.served.registry import Registry
from service.engine.shard.shard import Shard
from service.engine.upkeep.eraser import Eraser
from service.engine.upkeep.placing import Placing
from service.errors import StoreUnavailableError
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import StoreFailedError, StoreFullError

_PERIOD_S = 0.5
_STOWED_AT_ONCE = 1000
_STOWED_AGAIN_S = 0.01
_REPAIRED_S = 1.0  # somebody may have mended it by then
_log = structlog.get_logger(__name__)


class Upkeep:
    """Keeps one store: brings its sessions back, and keeps what they need in it small.

    Attributes:
        checkpoints: what writes them.
        eraser: what has the files written anew.

    Args:
        log: what is committed.
        stored: what the store held at the start.
    """

    def __init__(
        self,
        log: CommitLog,
        stored: Stored,
        *,
        registry: Registry,
        directory: Directory,
        settings: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._log = log
        self._store = log.store
        self._registry = registry
        self._directory = directory
        self._settings = settings
        self._metrics = metrics
        self.eraser = Eraser(
            log.store, every_s=settings.erase_s, last_group=max(stored.last_group, stored.applied)
        )
        self.checkpoints = Checkpoints(
            log,
            stored,
            registry=registry,
            directory=directory,
            settings=settings,
            ended=self.eraser.ended,
        )
        self._folding = Folding(log.store, self.checkpoints.write_row)
        self._placing = Placing(
            log,
            registry=registry,
            directory=directory,
            folding=self._folding,
            settings=settings,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._stowing: asyncio.Task[None] | None = None
        self._tight = asyncio.Event()  # some states have to be in the store alone
        # What one turn takes for saved, another one must not let go before it is written.
        self._turn = asyncio.Lock()
        self._show(metrics)

    def _show(self, metrics: Metrics) -> None:
        """Let metrics tell of what changes between two looks."""
        states, shards = metrics.restored_sessions.labels, self._registry.shards
        metrics.undurable_bytes.set_function(lambda: self._log.undurable_bytes)
        states("cold").set_function(lambda: sum(own.store.cold for own in shards()))
        states("restored").set_function(lambda: sum(own.store.restored for own in shards()))
        states("set_aside").set_function(lambda: sum(own.store.not_restored for own in shards()))
        states("other_model").set_function(lambda: len(self._directory.stranded))

    # -- a start --------------------------------------------------------------------------

    def place(self, stored: Stored) -> None:
        """Let every session of the store stand where it stood, see `Placing.place`."""
        self._placing.place(stored)

    def start(self) -> None:
        """Go on in the background."""
        self._tasks = [
            asyncio.create_task(self._keep()),
            asyncio.create_task(self._placing.thaw()),
        ]
        self._stowing = asyncio.create_task(self._stow())
        for shard in self._registry.shards():
            shard.tiers.leaving.stow = self._tight.set

    # -- as it goes -----------------------------------------------------------------------

    async def _stow(self) -> None:
        """Let states be in the store alone where others need their room."""
        while True:
            await self._tight.wait()
            self._tight.clear()
            stowed, again_s = 0, _STOWED_AGAIN_S
            for shard in self._registry.shards():
                try:
                    stowed += await self._stow_some(shard)
                except StoreFullError as error:
                    again_s = _REPAIRED_S
                    _log.error("states cannot be left to the store", reason=str(error))
                except (StoreFailedError, StoreUnavailableError):  # said already
                    return
                except Exception:
                    again_s = _REPAIRED_S
                    _log.exception("states could not be left to the store")
            if not stowed:  # all are in use, say
                await asyncio.sleep(again_s)

    async def _stow_some(self, shard: Shard) -> int:
        if not shard.tiers.leaving.is_tight:
            return 0
        slots = shard.tiers.leaving.stowable(_STOWED_AT_ONCE)
        # Not in a turn: one that waits for sessions which wait for rows would never end.
        stowed = await self.checkpoints.stow(shard, slots)
        if shard.tiers.leaving.is_tight:
            self._tight.set()
        return stowed

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                await self.look_after()
            except StoreFullError as error:
                _log.error("checkpoints cannot be written", reason=str(error))
            except (StoreFailedError, StoreUnavailableError):  # said already: the server ends
                return
            except Exception:
                _log.exception("the store could not be looked after")

    async def look_after(self) -> None:
        """Write the checkpoints that are due, and what opened and closed; let the journal go."""
        async with self._turn:
            await self._look_after()

    async def _look_after(self) -> None:
        journal_bytes = await self._log.journal_bytes()
        must = journal_bytes > self._settings.journal_bytes
        share_s = self._settings.checkpoint_share * _PERIOD_S
        at_most = max(1, int(share_s / self.checkpoints.row_s))
        for shard, slots in self.checkpoints.due(must=must, at_most=at_most):
            await self.checkpoints.save_in_parts(shard, slots)
        await self.checkpoints.write({})
        await self._erase()
        self._metrics.journal_seconds.count_noted()
        self._metrics.journal_bytes.set(await self.checkpoints.let_go())
        self._metrics.store_bytes.set(self._store.table_bytes)

    async def _erase(self) -> None:
        """Have what ended sessions had sent leave the files, if it is time for that.

        The groups that hold it hold steps of other sessions, too: these get checkpoints first.
        """
        until = self.eraser.due
        shards = self._registry.shards()
        # Those that have to read again go first.
        if not until or any(shard.store.is_behind for shard in shards):
            return
        for shard in shards:
            firsts = shard.table.first_group[: shard.table.top]
            slots = np.flatnonzero((firsts > 0) & (firsts <= until))
            await self.checkpoints.save_in_parts(shard, slots)
        await self.checkpoints.write({}, more=self.eraser.row())
        await self.checkpoints.let_go()
        self.eraser.begin(is_whole=self.checkpoints.first_needed() > until)

    # -- the end --------------------------------------------------------------------------

    async def settle(self, within_s: float) -> bool:
        """Write a checkpoint of every session, so that a start has nothing to read again.

        Returns whether there was time for all.

        Raises:
            StoreFailedError, StoreUnavailableError: the store has failed.
        """
        # Not yet what frees rows: whoever waits for one is saved once he has it.
        self._tasks = await _end(self._tasks)
        await self._folding.settle()
        began_s = time.monotonic()
        try:
            count = await self._save_all(began_s + within_s)
        finally:
            await self.stop()
        if count is not None:
            await self.checkpoints.write_idle_ages(since_s=began_s)
            await self.checkpoints.let_go()
            seconds = round(time.monotonic() - began_s, 3)
            _log.info("checkpoints written", sessions=count, seconds=seconds)
        await self._leave_no_doubt()
        return count is not None

    async def _save_all(self, until_s: float) -> int | None:
        """See `Checkpoints.save_all`.

        Raises:
            StoreUnavailableError: the store has failed, and nobody frees rows any more.
        """
        saving = asyncio.create_task(self.checkpoints.save_all(until_s))
        ends = (saving,) if self._stowing is None else (saving, self._stowing)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not saving.done():
                raise StoreUnavailableError("the store has failed while sessions were saved")
            return saving.result()
        finally:
            await _end([saving])

    async def _leave_no_doubt(self) -> None:
        """Say that nothing is lost, where all that was answered is in the store."""
        if not self._log.keeps_steps and any(
            shard.table.first_group[: shard.table.top].any() for shard in self._registry.shards()
        ):
            return  # what has no checkpoint is nowhere
        await self._log.flush()
        await self.checkpoints.write_row(IN_DOUBT, None)

    async def stop(self) -> None:
        """End what goes on in the background."""
        self._tasks = await _end(self._running)
        self._stowing = None

    def close(self) -> None:
        """End the threads, and what goes on if nobody has stopped it."""
        for task in self._running:
            task.cancel()
        self.checkpoints.close()
        self.eraser.close()

    @property
    def _running(self) -> list[asyncio.Task[None]]:
        return self._tasks if self._stowing is None else [*self._tasks, self._stowing]


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> list[asyncio.Task[None]]:
    """End tasks; returns what is left, none."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return []
