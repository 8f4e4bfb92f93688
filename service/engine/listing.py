"""The sessions that are open, page by page.

A page goes on behind the slot where the one before it ended. A session keeps its slot as long as it
is open, so one that is open throughout is on exactly one page, whatever opens and closes meanwhile.
Nothing of it depends on how many sessions there are, and cold ones stay where they are.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import operator
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from service.auth.principal import Role, calling
from service.engine.directory.directory import Directory
from service.engine.log.commit_log import CommitLog
from service.engine.served.registry import Registry
from service.engine.sessions.info import SessionInfo
from service.engine.shard.shard import Shard
from service.errors import BadInputError, ModelUnavailableError

_DEFAULT_SESSIONS = 100
_MOST_SESSIONS = 1000
_SESSIONS_AT_ONCE = 100  # described before others on the event loop have a turn
_SLOTS_AT_ONCE = 2**16  # looked at, likewise: some 100 µs
_SLOTS_A_PAGE = 2**20
_SIGN_BYTES = 16
_TOKEN_BYTES = 96  # whole multiples of it
_SESSION_BYTES = 200  # what a session takes in a message beside its names, at most


class _Place(NamedTuple):
    """Where a page begins; they compare as they are listed."""

    is_stranded: bool  # behind all others, those whose model is not served, by their place
    model: str
    version: int
    shard: int
    slot: int


_FIRST = _Place(False, "", 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some sessions; ``next`` leads to the others, and is empty where there are none."""

    sessions: tuple[SessionInfo, ...]
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which sessions are listed, and how many at once.

    Attributes:
        model: its sessions only; empty: those of all.
        version: of the model; 0: all.
        idle_for_s: only those that have been idle for so long at least; ``None``: all.
        page_size: at most; 0: some.
        owner: only those of this principal, see `Directory.wanted_owner`; ``None``: of an admin's
            view all, of others' their own.
    """

    model: str = ""
    version: int = 0
    idle_for_s: float | None = None
    page_size: int = 0
    owner: str | None = None

    def is_of(self, model: str, version: int) -> bool:
        """Whether sessions of a model's version are wanted."""
        return self.model in ("", model) and self.version in (0, version)


class Listing:
    """Lists the sessions of a directory.

    Args:
        log: what is told of sessions waits for it; ``None``: nothing does.
        page_bytes: what a page may take as a message, about.
        clock: the directory's.
        wall_clock: the same.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        log: CommitLog | None,
        *,
        page_bytes: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._log = log
        self._page_bytes = page_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._secret = secrets.token_bytes(32)  # of this process: others have other slots

    async def page(self, wanted: Wanted, token: str = "") -> Page:
        """One page; the next begins at its token.

        Raises:
            BadInputError: the token is none of this server, the time is below 0, or there is a
                version without a model.
            ModelUnknownError: there is no such model, and no session of it.
            StoreUnavailableError: what is told must be durable, and the store does not answer.
        """
        start = self._read(token) if token else _FIRST
        is_all = wanted.owner is None and calling.get().grant.has(Role.ADMIN)
        owner = None if is_all else self._directory.wanted_owner(wanted.owner)
        self._check(wanted, owner)
        found = _Found(wanted.page_size, self._page_bytes)
        end = None
        for place, shard in self._shards(wanted, start):
            end = await self._of_shard(shard, place, wanted, owner, found)
            if end is not None:
                break
        else:
            behind = start.slot if start.is_stranded else 0
            end = await self._stranded(behind, wanted, owner, found)
        if self._log is not None:
            await self._log.flush()  # who is not on the page has ended, and that is told by it
        return Page(sessions=tuple(found.sessions), next="" if end is None else self._token(end))

    def _shards(self, wanted: Wanted, start: _Place) -> Iterator[tuple[_Place, Shard]]:
        """The shards from a place on, each with where to begin."""
        for served in self._registry.all():
            if not wanted.is_of(served.name, served.version):
                continue
            for number, shard in enumerate(served.shards):
                place = _Place(False, served.name, served.version, number, 0)
                if place[:4] == start[:4]:
                    yield start, shard
                elif place > start:
                    yield place, shard

    async def _of_shard(
        self, shard: Shard, place: _Place, wanted: Wanted, owner: str | None, found: "_Found"
    ) -> _Place | None:
        """Add a shard's sessions; returns where the next page begins, if this one is full."""
        start, capacity = place.slot, shard.table.top
        owned = None if owner is None else self._directory.owner_number(owner)
        while start < capacity:
            stop = min(start + _SLOTS_AT_ONCE, capacity)
            before_s = None if wanted.idle_for_s is None else self._clock() - wanted.idle_for_s
            slots = shard.table.taken(start, stop, used_before_s=before_s)
            if owned is not None:
                slots = slots[shard.slots.owners[slots] == owned]
            if len(slots) > _SESSIONS_AT_ONCE:
                slots = slots[:_SESSIONS_AT_ONCE]
                stop = int(slots[-1]) + 1
            full = None
            for slot, session in zip(slots.tolist(), shard.slots.tenants(slots), strict=True):
                if not found.add(self._directory.info(session)):
                    full = place._replace(slot=slot)
                    break
            returning = slots[shard.table.returning[slots]]
            if len(returning):
                await shard.settled(returning)
            if full is not None:
                return full
            if found.looked_at(stop - start):
                return place._replace(slot=stop)
            start = stop
            await asyncio.sleep(0)
        return None

    async def _stranded(
        self, start: int, wanted: Wanted, owner: str | None, found: "_Found"
    ) -> _Place | None:
        """Add the sessions whose model is not served, from one on: none joins them any more."""
        for number in range(start, self._directory.stranded.before):
            if number % _SESSIONS_AT_ONCE == 0:
                await asyncio.sleep(0)
            at = _Place(True, "", 0, 0, number)
            if found.looked_at(1):
                return at
            info = self._directory.stranded.info(number)
            if info is None or not wanted.is_of(info.model, info.version):
                continue
            if owner not in (None, info.owner):
                continue
            idle_s = self._wall_clock() - info.last_used_s
            if wanted.idle_for_s is not None and idle_s < wanted.idle_for_s:
                continue
            if not found.add(info):
                return at
        return None

    def _check(self, wanted: Wanted, owner: str | None) -> None:
        if wanted.idle_for_s is not None and wanted.idle_for_s < 0:
            raise BadInputError("idle_for", f"{wanted.idle_for_s:g} s is below 0")
        if not wanted.model:
            if wanted.version:
                raise BadInputError("model_version", "name the model too")
            return
        may_use = calling.get().grant.may_use(wanted.model)
        number = self._directory.owner_number(calling.get().name)
        if any(
            # Of a model that he may not use he is told of the sessions alone that he has still.
            may_use or any(len(shard.slots.owned(number)) for shard in served.shards)
            for served in self._registry.all()
            if wanted.is_of(served.name, served.version)
        ):
            return
        if self._directory.stranded.are_of(owner):  # their models need not be here
            return
        with suppress(ModelUnavailableError):
            self._registry.find(wanted.model, wanted.version)

    def _token(self, place: _Place) -> str:
        """A place that nobody reads or makes: by slots one could count what others have."""
        data = json.dumps(place).encode()
        data = data.ljust(-(-len(data) // _TOKEN_BYTES) * _TOKEN_BYTES)  # its length tells, too
        sign = self._sign(data)
        return base64.urlsafe_b64encode(sign + self._masked(data, sign)).decode()

    def _sign(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._secret, digest_size=_SIGN_BYTES).digest()

    def _masked(self, data: bytes, sign: bytes) -> bytes:
        """Data that is masked, or that was."""
        mask = hashlib.shake_256(self._secret + sign).digest(len(data))
        return bytes(map(operator.xor, data, mask))

    def _read(self, token: str) -> _Place:
        try:
            found = base64.urlsafe_b64decode(token.encode())
            sign = found[:_SIGN_BYTES]
            data = self._masked(found[_SIGN_BYTES:], sign)
            if hmac.compare_digest(self._sign(data), sign):
                return _Place(*json.loads(data))
        except ValueError:  # it is no base64
            pass
        raise BadInputError(
            "page_token",
            "it is none that this server has given since it was started: begin with the first page",
        )


class _Found:
    """What is on a page so far.

    Args:
        sessions: at most so many; 0: some.
        page_bytes: what they may take, about.
    """

    def __init__(self, sessions: int, page_bytes: int) -> None:
        self.sessions: list[SessionInfo] = []
        self._room = min(sessions or _DEFAULT_SESSIONS, _MOST_SESSIONS)
        self._bytes = page_bytes
        self._left = _SLOTS_A_PAGE

    def add(self, info: SessionInfo) -> bool:
        """Add a session; False where there is no room for it."""
        size = _SESSION_BYTES + 4 * (len(info.id) + len(info.model) + len(info.owner))
        if len(self.sessions) == self._room or (self.sessions and size > self._bytes):
            return False
        self.sessions.append(info)
        self._bytes -= size
        return True

    def looked_at(self, slots: int) -> bool:
        """Count slots that were looked at; whether that is enough for a page."""
        self._left -= slots
        return self._left < 0
