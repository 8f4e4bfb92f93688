"""The log's upkeep: checkpoints move on, the journal is let go, and sessions come back at a start.

A record of the journal is needed until every session in it has ended, or has a durable checkpoint
at or after its last entry there. So checkpoints begin with the sessions that hold the oldest
records. Knows nothing of gRPC.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import structlog

from service.engine.directory import Directory
from service.engine.log.arithmetics import Arithmetics
from service.engine.log.commit_log import CommitLog
from service.engine.log.entries import SessionRow
from service.engine.log.eraser import Eraser
from service.engine.log.folding import Folding
from service.engine.log.recovery import (
    APPLIED,
    ARITHMETIC,
    CHECKPOINT,
    IN_DOUBT,
    SESSION,
    Stored,
    key,
    with_seed,
)
from service.engine.served.registry import Registry, ServedModel
from service.engine.shard.shard import Shard
from service.engine.work.columns import Ints
from service.errors import (
    ModelChangedError,
    ModelUnavailableError,
    ModelUnknownError,
    StoreUnavailableError,
)
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.records import Section, pack, unpack
from service.store.store import StoreError, StoreFailedError, StoreFullError

_PERIOD_S = 0.5
_SAVED_AT_ONCE = 256  # sessions; some hundred KiB, so that the journal's writes do not wait
_THAWED_AT_ONCE = 128  # sessions; whoever comes waits for so many folds at most
_APPLIED_AT_ONCE = 1000  # groups after which the catalogue is told that it knows all
_ROWS_AT_ONCE = 2000  # of the catalogue, in one write
_log = structlog.get_logger(__name__)


class Upkeep:
    """Keeps one store: brings its sessions back, and keeps what they need in it small.

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
        self._applied = stored.applied
        self._changes = dict(stored.changes)
        self._saving: list[int] = []  # the first groups of tails whose checkpoints are on their way
        self._row_s = 1e-5  # what a checkpoint costs
        self._table = ThreadPoolExecutor(1, thread_name_prefix="table")
        self._folding = Folding(log.store, self._write_row)
        self._tasks: list[asyncio.Task[None]] = []
        # What one turn takes for saved, another one must not let go before it is written.
        self._turn = asyncio.Lock()
        self.eraser = Eraser(
            log.store, every_s=settings.erase_s, last_group=max(stored.last_group, stored.applied)
        )
        self._show(metrics)

    def _show(self, metrics: Metrics) -> None:
        """Let metrics tell of what changes between two looks."""
        shards, states = self._registry.shards, metrics.restored_sessions.labels
        metrics.undurable_bytes.set_function(lambda: self._log.undurable_bytes)
        states("cold").set_function(lambda: sum(shard.cold for shard in shards()))
        states("restored").set_function(lambda: sum(shard.restored for shard in shards()))
        states("set_aside").set_function(lambda: sum(shard.not_restored for shard in shards()))
        states("other_model").set_function(lambda: self._directory.stranded)

    # -- a start --------------------------------------------------------------------------

    def place(self, stored: Stored) -> None:
        """Let every session of the store stand where it stood; their states come when needed.

        Raises:
            SessionLimitError: there are more of them than a model may have.
            StoreError: what they have read since their checkpoints would be read again under
                another arithmetic, and the settings forbid that; or the store cannot be used.
        """
        began_s, stranded, damaged = time.monotonic(), 0, 0
        self._compare_arithmetics(stored)
        tails = [own.row for own in stored.sessions.values() if own.tail is not None]
        aside = self._folding.compare(tails)
        for session in stored.sessions.values():
            self._log.know(session.row)
            damaged += session.is_damaged
            session.is_aside = session.row.number in aside
            served = self._model_of(session.row)
            if isinstance(served, ModelChangedError):
                stranded += 1
                self._directory.strand(session, served, self._log)
            else:
                self._directory.restore(served, session)
        if stored.sessions:
            _log.info(
                "sessions found in the store",
                sessions=len(stored.sessions),
                tail_steps=sum(session.tail_steps for session in stored.sessions.values()),
                seconds=round(time.monotonic() - began_s, 3),
                **({"of_other_models": stranded} if stranded else {}),
                **({"damaged": damaged} if damaged else {}),
                **({"set_aside": len(aside)} if aside else {}),
            )

    def _compare_arithmetics(self, stored: Stored) -> None:
        """See under which arithmetics the sessions' tails were run, and note the present ones."""
        oldest = min(
            [own.first_group for own in stored.sessions.values() if own.first_group],
            default=self._log.group,
        )
        rows, others = dict[bytes, bytes](), dict[str, int]()
        for served in self._registry.all():
            if not served.shards:
                continue
            label = f"{served.name}/{served.version}"
            row = self._store.row(ARITHMETIC + label.encode())
            before = Arithmetics() if row is None else Arithmetics.unpack(unpack(row))
            now = before.followed_by(served.arithmetic, self._log.group, oldest=oldest)
            if now is not before:
                rows[ARITHMETIC + label.encode()] = pack(now.pack())
            for shard in served.shards:
                shard.expect(now, self._folding)
            if now.all_same(oldest):
                continue
            count = sum(
                not now.same(own.tail.own_groups).all()
                for own in stored.sessions.values()
                if own.tail is not None
                and f"{own.row.model}/{own.row.version}" == label
                and own.row.fingerprint == served.fingerprint
            )
            if count:
                others[label] = count
        if others and self._settings.strict_replay:
            told = ", ".join(f"{count} of {label}" for label, count in others.items())
            raise StoreError(
                f"{told}: so many sessions have read steps under another arithmetic, and would "
                "come to other numbers: start the server as it was before and stop it, which "
                "leaves nothing to read again, or start without --strict-replay"
            )
        if others:
            _log.warning(
                "sessions are restored under another arithmetic: their last replies are lost",
                sessions=sum(others.values()),
                models=others,
            )
        if rows:  # before any step is taken
            self._store.write(rows, [])

    def _model_of(self, row: SessionRow) -> ServedModel | ModelChangedError:
        label = f"{row.model}/{row.version}"
        try:
            served = self._registry.find(row.model, row.version)
        except (ModelUnknownError, ModelUnavailableError) as error:
            return ModelChangedError(
                f"session_id: '{row.id}' is a session of {label}, which is not served ({error}): "
                "put its file back, or close the session"
            )
        if served.fingerprint != row.fingerprint:
            return ModelChangedError(
                f"session_id: '{row.id}' was opened on another file of {label}: put that back, or "
                "close the session"
            )
        return served

    def start(self) -> None:
        """Go on in the background."""
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._thaw())]

    async def _thaw(self) -> None:
        """Bring back the sessions that nobody has asked for."""
        began_s = time.monotonic()
        shards = [shard for shard in self._registry.shards() if shard.cold]
        total, told_s = sum(shard.cold for shard in shards), began_s
        while any(shard.cold or shard.is_thawing for shard in shards):
            for shard in shards:
                if not shard.is_thawing:
                    shard.thaw_some(_THAWED_AT_ONCE)
            await asyncio.sleep(0.001)
            if time.monotonic() - told_s > 5.0:
                told_s = time.monotonic()
                left = sum(shard.cold for shard in shards)
                _log.info("restoring sessions", restored=total - left, of=total)
        if total:
            failed = sum(shard.not_restored for shard in shards)
            seconds = round(time.monotonic() - began_s, 3)
            _log.info("sessions restored", sessions=total - failed, failed=failed, seconds=seconds)

    # -- checkpoints ----------------------------------------------------------------------

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
        for shard, slots in self._due(must=must, at_most=max(1, int(share_s / self._row_s))):
            await self._save_in_parts(shard, slots)
        await self._write({})
        await self._erase()
        self._metrics.journal_bytes.set(await self._let_go())
        self._metrics.store_bytes.set(self._store.table_bytes)

    async def _erase(self) -> None:
        """Have what ended sessions had sent leave the files, if it is time for that.

        The groups that hold it hold steps of other sessions, too: these get checkpoints first.
        """
        until = self.eraser.due
        shards = self._registry.shards()
        if not until or any(shard.cold for shard in shards):  # those that come back go first
            return
        for shard in shards:
            firsts = shard.table.first_group
            slots = np.flatnonzero((firsts > 0) & (firsts <= until))
            await self._save_in_parts(shard, slots)
        await self._write({}, more=self.eraser.row())
        await self._let_go()
        self.eraser.begin(is_whole=self._first_needed() > until)

    def _due(self, *, must: bool, at_most: int) -> Iterable[tuple[Shard, Ints]]:
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

    async def _save_in_parts(self, shard: Shard, slots: Ints) -> None:
        """Write checkpoints, so few at a time that nobody waits for them."""
        for start in range(0, len(slots), _SAVED_AT_ONCE):
            await self._save(shard, slots[start : start + _SAVED_AT_ONCE])

    async def _save(self, shard: Shard, slots: Ints) -> None:
        """Write checkpoints of these sessions."""
        began_s, before = time.thread_time(), self._log.group - 1
        saved = await shard.save(slots)
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
            await self._write(seeds)
        except BaseException:
            shard.unsave(saved)
            raise
        finally:
            for first in firsts:
                self._saving.remove(first)
        cost_s = (time.thread_time() - began_s) / max(1, len(slots))
        self._row_s += 0.1 * (cost_s - self._row_s)

    async def _write(
        self,
        seeds: dict[int, tuple[SessionRow, bytes]],
        *,
        more: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        """Write checkpoints, and what the catalogue does not know yet, in one go; and more rows."""
        group, changes = self._log.catalogue_changes()
        self._changes |= changes
        if None in changes.values():
            self.eraser.ended(group)
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
        meta = {"group": group, "next_number": self._log.next_number}
        puts |= {APPLIED: pack([Section("applied", meta, {})]), **more}
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._table, self._store.write, puts, deletes)
        self._applied, self._changes = group, {}
        for number, changed in changes.items():
            latest = self._log.find(number)
            if changed is not None and latest is not None and latest.branch == changed.branch:
                self._log.know(changed)

    async def _write_row(self, key: bytes, value: bytes | None) -> None:
        """Write a row of the table, or delete it."""
        puts, deletes = ({}, [key]) if value is None else ({key: value}, [])
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._table, self._store.write, puts, deletes)

    async def _let_go(self) -> int:
        """Let go of the journal what nobody needs; returns the bytes that are left."""
        return await self._log.drop(self._first_needed())

    def _first_needed(self) -> int:
        """The first group that somebody needs."""
        needed = [
            *self._saving,
            *self._directory.stranded_groups(),
            *self._log.left_groups(),
        ]
        for shard in self._registry.shards():
            firsts = shard.table.first_group
            own = firsts[firsts > 0]
            if len(own):
                needed.append(int(own.min()))
        return min([self._applied + 1, *needed])

    # -- the end --------------------------------------------------------------------------

    async def settle(self, within_s: float) -> bool:
        """Write a checkpoint of every session, so that a start has nothing to read again.

        Returns whether there was time for all.
        """
        await self.stop()
        await self._folding.settle()
        began_s = time.monotonic()
        count = await self._save_all(began_s + within_s)
        if count is not None:
            await self._write_idle_ages(since_s=began_s)
            await self._let_go()
            seconds = round(time.monotonic() - began_s, 3)
            _log.info("checkpoints written", sessions=count, seconds=seconds)
        await self._leave_no_doubt()
        return count is not None

    async def _save_all(self, until_s: float) -> int | None:
        """Write a checkpoint of every session; returns how many, ``None`` without time for all."""
        count = 0
        for shard in self._registry.shards():
            own = np.flatnonzero(shard.table.first_group)
            own = own[np.argsort(shard.table.first_group[own], kind="stable")]
            for start in range(0, len(own), 4 * _SAVED_AT_ONCE):
                if time.monotonic() > until_s:
                    return None
                await self._save(shard, own[start : start + 4 * _SAVED_AT_ONCE])
            count += len(own)
        return count

    async def _leave_no_doubt(self) -> None:
        """Say that nothing is lost, where all that was answered is in the store."""
        if not self._log.keeps_steps and any(
            shard.table.first_group.any() for shard in self._registry.shards()
        ):
            return  # what has no checkpoint is nowhere
        await self._log.flush()
        await self._write_row(IN_DOUBT, None)

    async def _write_idle_ages(self, *, since_s: float) -> None:
        """For how long sessions have been idle counts across a restart.

        What was written since then is right: the server is going down, and serves nobody.
        """
        grain_s = 1.0 + time.monotonic() - since_s
        await self._write({})  # first what is opened and reset, which knows of no age
        for shard in self._registry.shards():
            numbers = shard.table.number
            for start in range(0, len(numbers), 65_536):
                slots = start + np.flatnonzero(numbers[start : start + 65_536])
                idle_s = shard.idle_s(slots)
                for number, own_s in zip(numbers[slots].tolist(), idle_s.tolist(), strict=True):
                    row = self._log.find(number)
                    if row is not None and abs(row.idle_s - own_s) > grain_s:
                        self._changes[number] = replace(row, idle_s=own_s)
                    if len(self._changes) >= _ROWS_AT_ONCE:
                        await self._write({})
        await self._write({})

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
        self._table.shutdown(wait=True)
        self.eraser.close()
