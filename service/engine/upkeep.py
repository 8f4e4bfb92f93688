"""The log's upkeep: checkpoints move on, the journal is let go, and sessions come back at a start.

Says when each of these is done. Knows nothing of gRPC.
"""

import asyncio
import time

import numpy as np
import structlog

from service.engine.checkpoints import Checkpoints
from service.engine.directory import Directory
from service.engine.eraser import Eraser
from service.engine.log.commit_log import CommitLog
from service.engine.log.keys import IN_DOUBT
from service.engine.log.recovery.folding import Folding
from service.engine.log.recovery.stored import Stored
from service.engine.placing import Placing
from service.engine.served.registry import Registry
from service.errors import StoreUnavailableError
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import StoreFailedError, StoreFullError

_PERIOD_S = 0.5
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
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._placing.thaw())]

    # -- as it goes -----------------------------------------------------------------------

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
        if not until or any(shard.store.cold for shard in shards):  # those that come back go first
            return
        for shard in shards:
            firsts = shard.table.first_group
            slots = np.flatnonzero((firsts > 0) & (firsts <= until))
            await self.checkpoints.save_in_parts(shard, slots)
        await self.checkpoints.write({}, more=self.eraser.row())
        await self.checkpoints.let_go()
        self.eraser.begin(is_whole=self.checkpoints.first_needed() > until)

    # -- the end --------------------------------------------------------------------------

    async def settle(self, within_s: float) -> bool:
        """Write a checkpoint of every session, so that a start has nothing to read again.

        Returns whether there was time for all.
        """
        await self.stop()
        await self._folding.settle()
        began_s = time.monotonic()
        count = await self.checkpoints.save_all(began_s + within_s)
        if count is not None:
            await self.checkpoints.write_idle_ages(since_s=began_s)
            await self.checkpoints.let_go()
            seconds = round(time.monotonic() - began_s, 3)
            _log.info("checkpoints written", sessions=count, seconds=seconds)
        await self._leave_no_doubt()
        return count is not None

    async def _leave_no_doubt(self) -> None:
        """Say that nothing is lost, where all that was answered is in the store."""
        if not self._log.keeps_steps and any(
            shard.table.first_group.any() for shard in self._registry.shards()
        ):
            return  # what has no checkpoint is nowhere
        await self._log.flush()
        await self.checkpoints.write_row(IN_DOUBT, None)

    async def stop(self) -> None:
        """End what goes on in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def close(self) -> None:
        """End the threads, and what goes on if nobody has stopped it."""
        for task in self._tasks:
            task.cancel()
        self.checkpoints.close()
        self.eraser.close()
