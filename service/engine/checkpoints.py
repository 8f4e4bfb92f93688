"""Checkpoints, and what the catalogue is to know: written into the table, so that the journal goes.

A record of the journal is needed until every session in it has ended, or has a durable checkpoint
at or after its last entry there. So checkpoints begin with the sessions that hold the oldest
records. Knows nothing of when any of it is to be done.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from service.engine.directory.directory import Directory
from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.session_row import SessionRow, as_moving, with_seed
from service.engine.log.keys import APPLIED, CHECKPOINT, INITIAL, SESSION, history_key, key
from service.engine.log.recovery.stored import Stored
from service.engine.served.registry import Registry
from service.engine.shard.history.unstored import Unstored
from service.engine.shard.restoring.shard_store import Saved
from service.engine.shard.shard import Shard
from service.engine.work.columns import Ints
from service.settings import EngineSettings
from service.store.records import Section, pack

_SAVED_AT_ONCE = 256  # sessions; some hundred KiB, so that the journal's writes do not wait
_PACKED_AT_ONCE = 8  # of them, some 0.5 ms: others on the event loop wait for no more
_STOWED_AT_ONCE = 64
_PAUSE_S = 0.001  # between them: a step takes several turns of the loop, in none of which one is
_APPLIED_AT_ONCE = 1000  # groups after which the catalogue is told that it knows all
_ROWS_AT_ONCE = 2000  # of the catalogue, in one write


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is written of one session.

    Attributes:
        row: for the catalogue.
        packed: the same, as it is written.
        checkpoint: its state.
        history: what is not in the table of its history, if it keeps one.
    """

    row: SessionRow
    packed: bytes
    checkpoint: bytes
    history: Unstored | None


def _is_overtaken(row: SessionRow, latest: SessionRow | None) -> bool:
    """Whether a later checkpoint of a session was written than the one that is about to be."""
    return (
        latest is not None
        and latest.branch == row.branch
        and not latest.seed_branch
        and latest.seed > row.seed
    )


def _has_begun_anew(row: SessionRow) -> bool:
    """Whether it was reset, or opened, and nothing of before is its past."""
    return not (row.seed or row.left or row.past)


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
        log.catalogue.began |= stored.began
        self._histories = {number: set(begin) for number, begin in stored.histories.items()}
        for number in self._histories.keys() - stored.sessions.keys():  # they have ended
            self._changes[number] = None
        self._saving: list[int] = []  # groups that checkpoints on their way still need
        self._writing = asyncio.Lock()
        self.row_s = 1e-5
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="table")

    def due(self, *, must: bool, at_most: int) -> Iterable[tuple[Shard, Ints]]:
        """Sessions whose tails are too long, or which hold the journal's oldest records."""
        settings = self._settings
        for shard in self._registry.shards():
            table = shard.table
            own = np.flatnonzero(table.first_group[: table.top])
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
        tails = shard.table.first_group[slots]
        # Until it is written: a tail that begins only now does so in the open group.
        first = min([*tails[tails > 0].tolist(), self._log.group])
        self._saving.append(first)
        try:
            await self._save(shard, await shard.store.save(slots), before)
        finally:
            self._saving.remove(first)
        cost_s = (time.thread_time() - began_s) / max(1, len(slots))
        self.row_s += 0.1 * (cost_s - self.row_s)

    async def _save(self, shard: Shard, saved: Saved, before: int) -> None:
        """Write the checkpoints of what was saved, when all groups ``before`` were closed."""
        try:
            seeds: dict[int, Kept] = {}
            for index, (slot, number) in enumerate(zip(saved.slots, saved.numbers, strict=True)):
                if index and not index % _PACKED_AT_ONCE:
                    await asyncio.sleep(_PAUSE_S)
                row = self._log.find(number)
                if row is None or row.branch != saved.branches[index]:
                    if saved.first_groups[index]:  # it has ended or was reset meanwhile
                        self._log.leave(saved.first_groups[index])
                    continue
                seed = saved.seed(index)
                row = with_seed(row, seed.position, before, saved.idle_s[index])
                seeds[number] = Kept(
                    row=row,
                    packed=pack([row.pack()]),
                    checkpoint=pack([seed.pack()]),
                    history=shard.chronicles.unstored(slot, seed.position),
                )
            await self.write(seeds)
        except BaseException:
            shard.store.unsave(saved)
            raise

    async def stow(self, shard: Shard, slots: Ints) -> int:
        """Let the states of idle sessions be in the store alone; returns of how many they are.

        Those that read on, or end, meanwhile stay where they are.
        """
        table = shard.table
        numbers = table.number[slots]
        for start in range(0, len(slots), _SAVED_AT_ONCE):
            # What has come in by now may want some of them back. To be saved behind that, they
            # would wait for the very rows that are to be free by this.
            shard.admit_inbox()
            part = slots[start : start + _SAVED_AT_ONCE]
            part = part[shard.tiers.may_leave(part)]
            part = part[[self._saved_row(shard, slot) is None for slot in part.tolist()]]
            if len(part):
                await self.save(shard, part)
        stowed = 0
        for start in range(0, len(slots), _STOWED_AT_ONCE):
            if start:
                await asyncio.sleep(_PAUSE_S)
            stop = start + _STOWED_AT_ONCE
            stowed += self._stow(shard, slots[start:stop], numbers[start:stop])
        return stowed

    def _stow(self, shard: Shard, slots: Ints, numbers: Ints) -> int:
        """Those of these sessions that are as they were saved are in the store alone from now."""
        table = shard.table
        slots = slots[(table.number[slots] == numbers) & shard.tiers.may_leave(slots)]
        rows = {slot: row for slot in slots.tolist() if (row := self._saved_row(shard, slot))}
        for slot, row in rows.items():
            shard.store.stow(slot, row)
        shard.tiers.leave_to_store(np.array(list(rows), np.int64))
        return len(rows)

    def _saved_row(self, shard: Shard, slot: int) -> SessionRow | None:
        """What the catalogue says of a session whose state the store has where it stands."""
        table = shard.table
        row = self._log.find(table.number.item(slot))
        if row is None or row.seed_branch or table.first_group.item(slot):
            return None
        stands = table.branch.item(slot), table.position.item(slot)
        return row if (row.branch, row.seed) == stands else None

    async def write(
        self,
        seeds: dict[int, Kept],
        *,
        more: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        """Write checkpoints, and what the catalogue does not know yet, in one go; and more rows."""
        async with self._writing:
            await self._write(seeds, more)

    async def _write(self, seeds: dict[int, Kept], more: Mapping[bytes, bytes]) -> None:
        group = self._log.durable
        changes = self._log.catalogue.changes(group)
        for number, changed in changes.items():
            latest = self._log.find(number)
            # One that was released, say, may have had a checkpoint since, on the same branch.
            if changed is not None and latest is not None and latest.branch == changed.branch:
                changes[number] = latest
        self._changes |= changes
        if None in changes.values():
            self._ended(group)
        if not (seeds or self._changes or more or group > self._applied + _APPLIED_AT_ONCE):
            return
        changes, puts, deletes = dict(self._changes), dict[bytes, bytes](), list[bytes]()
        histories: dict[int, set[int]] = {}  # where the parts begin that are in the table then
        for number, kept in seeds.items():
            known = changes.get(number, kept.row)
            is_its_branch = known is not None and known.branch == kept.row.branch
            latest = self._log.find(number)
            if is_its_branch and not _is_overtaken(kept.row, latest):
                # It may be released by now.
                changes[number] = kept.row if latest is None else as_moving(kept.row, latest)
                puts[key(CHECKPOINT, number)] = kept.checkpoint
                if kept.history is not None:
                    histories[number] = kept.history.begin
                    puts |= kept.history.rows(number)
            elif kept.history is not None:
                kept.history.not_written()
        all_began = self._log.catalogue.began
        began = [number for number in all_began if changes.get(number) is not None]
        puts |= {key(INITIAL, number): pack([all_began[number].pack()]) for number in began}
        for number, changed in changes.items():
            if changed is None:
                deletes += [key(SESSION, number), key(INITIAL, number)]
            else:
                kept_now = seeds.get(number)
                is_packed = kept_now is not None and changed is kept_now.row
                puts[key(SESSION, number)] = (
                    kept_now.packed
                    if kept_now is not None and is_packed
                    else pack([changed.pack()])
                )
            if changed is None or not changed.seed:
                deletes.append(key(CHECKPOINT, number))
            if changed is None or _has_begun_anew(changed):
                histories.setdefault(number, set())
        for number, begin in histories.items():
            gone = self._histories.get(number, set()) - begin
            deletes += [history_key(number, position) for position in gone]
        meta = {"group": group, "next_number": self._log.catalogue.next_number}
        puts |= {APPLIED: pack([Section("applied", meta, {})]), **more}
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._store.write, puts, deletes)
        except BaseException:
            for kept in seeds.values():
                if kept.history is not None:
                    kept.history.not_written()
            for number, begin in histories.items():  # nobody knows what is there
                self._histories.setdefault(number, set()).update(begin)
            raise
        for number, kept in seeds.items():
            if kept.history is not None and number in histories:
                kept.history.written()
        self._applied, self._changes = group, {}
        for number in began:
            all_began.pop(number, None)
        for number, begin in histories.items():
            self._histories[number] = begin
            if not begin:
                del self._histories[number]
        for number, changed in changes.items():
            latest = self._log.find(number)
            if changed is not None and latest is not None and latest.branch == changed.branch:
                self._log.catalogue.know(as_moving(changed, latest))

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
            firsts = shard.table.first_group[: shard.table.top]
            own = firsts[firsts > 0]
            if len(own):
                needed.append(int(own.min()))
        return min([self._applied + 1, *needed])

    async def save_all(self, until_s: float) -> int | None:
        """Write a checkpoint of every session; returns how many, ``None`` without time for all."""
        count = 0
        for shard in self._registry.shards():
            own = np.flatnonzero(shard.table.first_group[: shard.table.top])
            own = own[np.argsort(shard.table.first_group[own], kind="stable")]
            for start in range(0, len(own), 4 * _SAVED_AT_ONCE):
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return None
                try:
                    part = own[start : start + 4 * _SAVED_AT_ONCE]
                    await asyncio.wait_for(
                        self.save(shard, part), None if math.isinf(left_s) else left_s
                    )
                except TimeoutError:
                    return None
            count += len(own)
        return count

    async def write_idle_ages(self, *, since_s: float) -> None:
        """For how long sessions have been idle counts across a restart.

        What was written since then is right: the server is going down, and serves nobody.
        """
        grain_s = 1.0 + time.monotonic() - since_s
        await self.write({})  # first what is opened and reset, which knows of no age
        for shard in self._registry.shards():
            numbers = shard.table.number[: shard.table.top]
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
