"""A start: every session of the store stands where it stood, and its state comes later."""

import asyncio
import time
from collections import deque

import numpy as np
import structlog

from service.engine.directory.directory import Directory
from service.engine.log.checking import read_of
from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.keys import ARITHMETIC
from service.engine.log.recovery.arithmetics import Arithmetics
from service.engine.log.recovery.folding import Folding
from service.engine.log.recovery.stored import Stored
from service.engine.served.registry import Registry, ServedModel
from service.engine.shard.shard import Shard
from service.errors import ModelChangedError, ModelUnavailableError, ModelUnknownError
from service.settings import EngineSettings
from service.store.records import pack, unpack
from service.store.store import StoreError

_THAWED_AT_ONCE = 128  # sessions; whoever comes waits for so many folds at most
_log = structlog.get_logger(__name__)


class Placing:
    """Puts the sessions of one store where they stood.

    Args:
        log: what is committed.
        folding: where is noted which sessions are being folded.
    """

    def __init__(
        self,
        log: CommitLog,
        *,
        registry: Registry,
        directory: Directory,
        folding: Folding,
        settings: EngineSettings,
    ) -> None:
        self._log = log
        self._store = log.store
        self._registry = registry
        self._directory = directory
        self._folding = folding
        self._settings = settings

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
            self._log.catalogue.know(session.row)
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
            with read_of(f"what it notes of {label}"):
                before = Arithmetics() if row is None else Arithmetics.unpack(unpack(row))
            now = before.followed_by(served.arithmetic, self._log.group, oldest=oldest)
            if now is not before:
                rows[ARITHMETIC + label.encode()] = pack(now.pack())
            for shard in served.shards:
                shard.store.expect(now, self._folding)
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

    async def thaw(self) -> None:
        """Bring back the sessions that nobody has asked for."""
        began_s = told_s = time.monotonic()
        shards = self._registry.shards()
        left = {shard: deque(shard.store.left()) for shard in shards if shard.store.cold}
        total = sum(map(len, left.values()))
        while any(left.values()) or any(shard.store.is_thawing for shard in left):
            for shard, slots in left.items():
                if not shard.store.is_thawing:
                    _thaw_some(shard, slots)
            await asyncio.sleep(0.001)
            if time.monotonic() - told_s > 5.0:
                told_s = time.monotonic()
                behind = sum(map(len, left.values()))
                _log.info("restoring sessions", restored=total - behind, of=total)
        if total:
            failed = sum(shard.store.not_restored for shard in left)
            stay = sum(shard.store.cold for shard in left)
            seconds = round(time.monotonic() - began_s, 3)
            _log.info(
                "sessions restored",
                sessions=total - failed - stay,
                in_store=stay,
                failed=failed,
                seconds=seconds,
            )


def _thaw_some(shard: Shard, slots: deque[int]) -> None:
    """Bring back some of these: all that have to read again, the others while there is room."""
    some: list[int] = []
    while slots and len(some) < _THAWED_AT_ONCE:
        if len(some) >= shard.tiers.leaving.roomy and not shard.store.has_tail(slots[0]):
            slots.clear()  # those that have to read again came first
            break
        some.append(slots.popleft())
    if some:
        shard.bring(np.array([slot for slot in some if shard.store.has(slot)], np.int64))
        shard.wake()
