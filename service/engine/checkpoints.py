"""Checkpoints, and what the catalogue is to know: written into the table, so that the journal goes.

A record of the journal is needed until every session in it has ended, or has a durable checkpoint
at or after its last entry there. So checkpoints begin with the sessions that hold the oldest
records. Knows nothing of when any of it is to be done.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from service.engine.directory import Directory
from service.engine.log.commit_log import CommitLog
from service.engine.log.entries import SessionRow, with_seed
from service.engine.log.keys import APPLIED, CHECKPOINT, SESSION, key
from service.engine.log.recovery.stored import Stored
from service.engine.served.registry import Registry
from service.engine.shard.shard import Shard
from service.engine.work.columns import Ints
from service.settings import EngineSettings
from service.store.records import Section, pack

_SAVED_AT_ONCE = 256  # sessions; some hundred KiB, so that the journal's writes do not wait
_APPLIED_AT_ONCE = 1000  # groups after which the catalogue is told that it knows all
_ROWS_AT_ONCE = 2000  # of the catalogue, in one write


class Checkpoints:
    """Writes the table of one store, on a thread of its own.

    Attributes:
        row_s: what a checkpoint costs, in seconds of a core.

    Args:
        log: what is committed.
        stored: what the store held at the start.
        ended: is told the group up to which sessions have ended.
    """

    def __init__(
        self,
        log: CommitLog,
        stored: Stored,
        *,
        registry: Registry,
        directory: Directory,
        settings: EngineSettings,
        ended: Callable[[int], None],
    ) -> None:
        self._log = log
        self._store = log.store
        self._registry = registry
        self._directory = directory
        self._settings = settings
        self._ended = ended
        self._applied = stored.applied
        self._changes = dict(stored.changes)
        self._saving: list[int] = []  # the first groups of tails whose checkpoints are on their way
        self.row_s = 1e-5
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="table")

    def due(self, *, must: bool, at_most: int) -> Iterable[tuple[Shard, Ints]]:
        """Sessions whose tails are too long, or which hold the journal's oldest records."""
        settings = self._settings
        for shard in self._registry.shards():
            table = shard.table
            own = np.flatnonzero(table.first_group)
            if not len(own):
                continue
            steps = table.tail_steps[own]
            order = np.argsort(table.first_group[own], kind="stable")
            most = settings.recovery_s / max(shard.limit.step_s, 1e-9)
            # Of the oldest, as many as the others' tails are too long together.
            left = int(steps.sum()) - np.cumsum(steps[order])
            count = (
                int(np.searchsorted(-left, -most)) + 1 if left[0] + steps[order[0]] > most else 0
            )
            chosen = own[order[:count]]
            long = own[steps >= settings.checkpoint_steps]
            chosen = np.concatenate([chosen, np.setdiff1d(long, chosen)])[:at_most]
            if must:  # whatever it costs
                oldest = own[order[: max(at_most, len(own) // 8)]]
                chosen = np.concatenate([chosen, np.setdiff1d(oldest, chosen)])
            if len(chosen):
                yield shard, chosen

    async def save_in_parts(self, shard: Shard, slots: Ints) -> None:
        """Write checkpoints, so few at a time that nobody waits for them."""
        for start in range(0, len(slots), _SAVED_AT_ONCE):
            await self.save(shard, slots[start : start + _SAVED_AT_ONCE])

    async def save(self, shard: Shard, slots: Ints) -> None:
        """Write checkpoints of these sessions."""
        began_s, before = time.thread_time(), self._log.group - 1
        saved = await shard.store.save(slots)
        firsts = [first for first in saved.first_groups if first]
        self._saving += firsts
        try:
            seeds: dict[int, tuple[SessionRow, bytes]] = {}
            for number, branch, first, idle_s, seed in zip(
                saved.numbers,
                saved.branches,
                saved.first_groups,
                saved.idle_s,
                saved.seeds,
                strict=True,
            ):
                row = self._log.find(number)
                if row is None or row.branch != branch:  # it has ended or was reset meanwhile
                    if first:
                        self._log.leave(first)
                else:
                    seeds[number] = (
                        with_seed(row, seed.position, before, idle_s),
                        pack([seed.pack()]),
                    )
            await self.write(seeds)
        except BaseException:
            shard.store.unsave(saved)
            raise
        finally:
            for first in firsts:
                self._saving.remove(first)
        cost_s = (time.thread_time() - began_s) / max(1, len(slots))
        self.row_s += 0.1 * (cost_s - self.row_s)

    async def write(
        self,
        seeds: dict[int, tuple[SessionRow, bytes]],
        *,
        more: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        """Write checkpoints, and what the catalogue does not know yet, in one go; and more rows."""
        group = self._log.durable
        changes = self._log.catalogue.changes(group)
        self._changes |= changes
        if None in changes.values():
            self._ended(group)
        if not (seeds or self._changes or more or group > self._applied + _APPLIED_AT_ONCE):
            return
        changes, puts, deletes = dict(self._changes), dict[bytes, bytes](), list[bytes]()
        for number, (row, checkpoint) in seeds.items():
            known = changes.get(number, row)
            if known is not None and known.branch == row.branch:
                changes[number] = row
                puts[key(CHECKPOINT, number)] = checkpoint
        for number, changed in changes.items():
            if changed is None:
                deletes.append(key(SESSION, number))
            else:
                puts[key(SESSION, number)] = pack([changed.pack()])
            if changed is None or not changed.seed:
                deletes.append(key(CHECKPOINT, number))
        meta = {"group": group, "next_number": self._log.catalogue.next_number}
        puts |= {APPLIED: pack([Section("applied", meta, {})]), **more}
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._store.write, puts, deletes)
        self._applied, self._changes = group, {}
        for number, changed in changes.items():
            latest = self._log.find(number)
            if changed is not None and latest is not None and latest.branch == changed.branch:
                self._log.catalogue.know(changed)

    async def write_row(self, key: bytes, value: bytes | None) -> None:
        """Write a row of the table, or delete it."""
        puts, deletes = ({}, [key]) if value is None else ({key: value}, [])
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._store.write, puts, deletes)

    async def let_go(self) -> int:
        """Let go of the journal what nobody needs; returns the bytes that are left."""
        return await self._log.drop(self.first_needed())

    def first_needed(self) -> int:
        """The first group that somebody needs."""
        needed = [
            *self._saving,
            *self._directory.stranded.groups(),
            *self._log.left_groups(),
        ]
        for shard in self._registry.shards():
            firsts = shard.table.first_group
            own = firsts[firsts > 0]
            if len(own):
                needed.append(int(own.min()))
        return min([self._applied + 1, *needed])

    async def save_all(self, until_s: float) -> int | None:
        """Write a checkpoint of every session; returns how many, ``None`` without time for all."""
        count = 0
        for shard in self._registry.shards():
            own = np.flatnonzero(shard.table.first_group)
            own = own[np.argsort(shard.table.first_group[own], kind="stable")]
            for start in range(0, len(own), 4 * _SAVED_AT_ONCE):
                if time.monotonic() > until_s:
                    return None
                await self.save(shard, own[start : start + 4 * _SAVED_AT_ONCE])
            count += len(own)
        return count

    async def write_idle_ages(self, *, since_s: float) -> None:
        """For how long sessions have been idle counts across a restart.

        What was written since then is right: the server is going down, and serves nobody.
        """
        grain_s = 1.0 + time.monotonic() - since_s
        await self.write({})  # first what is opened and reset, which knows of no age
        for shard in self._registry.shards():
            numbers = shard.table.number
            for start in range(0, len(numbers), 65_536):
                slots = start + np.flatnonzero(numbers[start : start + 65_536])
                idle_s = shard.store.idle_s(slots)
                for number, own_s in zip(numbers[slots].tolist(), idle_s.tolist(), strict=True):
                    row = self._log.find(number)
                    if row is not None and abs(row.idle_s - own_s) > grain_s:
                        self._changes[number] = replace(row, idle_s=own_s)
                    if len(self._changes) >= _ROWS_AT_ONCE:
                        await self.write({})
        await self.write({})

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)
