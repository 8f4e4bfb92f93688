"""What callers may ask, in one place: it joins the models, their shards, and the sessions on them.

What may be asked of sessions is in its bases. Everything here runs on one event loop. Knows nothing
of gRPC or protobuf, nor how a model runs.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from service.engine.directory.directory import Directory
from service.engine.listing import Listing
from service.engine.log.commit_log import CommitLog
from service.engine.log.recovery import doubt
from service.engine.log.recovery.reading import read_store
from service.engine.log.recovery.stored import Stored
from service.engine.quotas.allowance import Allowances
from service.engine.served.registry import Registry
from service.engine.session_calls import SessionCalls
from service.engine.upkeep.upkeep import Upkeep
from service.engine.work.flow import Flows
from service.engine.work.memory import BufferMemory, Held
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import Store

_log = structlog.get_logger(__name__)


class Engine(SessionCalls):
    """Joins models, shards and sessions, and the store that they outlive the process in.

    Attributes:
        directory: the sessions, by id.
        listing: the same, page by page.
        allowances: what each principal has under way.
        flows: whose turn is whose, by who calls.
        memory: what callers have the server hold.
        snapshot_key: what snapshots are signed with now, and have to be; ``None``: nothing.

    Args:
        clock: seconds, never going back: for idleness.
        wall_clock: seconds since the epoch: for people.
        store: where what sessions read is kept, so that they outlive the process; ``None`` where it
            is not.
        snapshot_key: see above.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        store: Store | None = None,
        snapshot_key: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.snapshot_key = snapshot_key
        self.settings = settings
        self.metrics = metrics
        self.allowances = Allowances()
        metrics.principal_steps.read = self.allowances.steps
        self.flows = Flows(self.allowances)
        stored = None
        if store is not None:
            stored = read_store(store)
            doubt.resolve(store, stored)
        self.log = None if store is None or stored is None else self._open_log(store, stored)
        self.memory = BufferMemory(settings.buffer_memory, self.allowances)
        limits = ["buffer_memory", "history_memory"]
        limits += ["max_undurable_bytes", "journal_bytes"] * (store is not None)
        for limit in limits:
            metrics.limit_bytes.labels(limit).set(getattr(settings, limit))
        for kind in Held:
            size = partial(self.memory.by_kind.__getitem__, kind)
            metrics.buffered_bytes.labels(kind.value).set_function(size)
        self.registry = Registry(
            settings, metrics, self.flows, self.memory, clock, self.lose_device, self.log
        )
        self.directory = Directory(
            settings, metrics, self.registry, clock=clock, wall_clock=wall_clock
        )
        metrics.history_bytes.set_function(lambda: self.registry.history.used)
        metrics.principal_sessions.read = self.directory.open_by_owner
        self.listing = Listing(
            self.registry,
            self.directory,
            self.log,
            page_bytes=settings.part_bytes,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._upkeep: Upkeep | None = None
        self._stored = stored

    def _open_log(self, store: Store, stored: Stored) -> CommitLog | None:
        settings = self.settings
        return CommitLog(
            store,
            group=stored.last_group + 1,
            next_number=stored.next_number,
            durability=settings.durability,
            most_bytes=settings.max_undurable_bytes,
            timeout_s=settings.store_timeout_s,
            failed=self._lose_store,
            took=self.metrics.journal_seconds.noted.append,
        )

    def restore_sessions(self) -> None:
        """Let the sessions of the store be open again; call it when the models are loaded.

        Raises:
            StoreError: they have no place.
        """
        if self.log is None or self._stored is None:
            return
        self._upkeep = Upkeep(
            self.log,
            self._stored,
            registry=self.registry,
            directory=self.directory,
            settings=self.settings,
            metrics=self.metrics,
        )
        self._upkeep.place(self._stored)
        self._stored = None
        doubt.mark(self.log.store, self.settings.durability)
        self._upkeep.start()

    def _lose_store(self, fault: Exception) -> None:
        """Take nothing new, and tell nothing more: what was being written is in doubt."""
        _log.error("store lost", reason=str(fault))
        self.fail("the store has failed")

    async def drain(self) -> None:
        """Wait for what is queued, and until that is durable; take nothing new."""
        self.draining = True
        await asyncio.gather(*(served.drained() for served in self.registry.all()))
        if self.log is not None:
            await self.log.flush()

    async def settle_store(self, within_s: float) -> bool:
        """Write a checkpoint of every session; call ``drain`` first.

        Returns whether there was time for all.
        """
        if self._upkeep is None or self.failed.is_set():
            return True
        return await self._upkeep.settle(within_s)

    def stop(self) -> None:
        """End the worker threads; call ``drain`` first."""
        if self.log is not None:
            self.log.stop()
        if self._upkeep is not None:
            self._upkeep.close()
        for served in self.registry.all():
            served.predictor.stop()
        for shard in self.registry.shards():
            shard.stop()
