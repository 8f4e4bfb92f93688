"""The journal as it is written: groups of what sessions have read, one write at a time.

A commit adds columns to the open group, on the event loop. A thread writes one group after the
other, and each takes what has come since the write before began: group commit. Whatever tells of a
session outside the process waits for the group of the session's last commit. The engine itself
never waits for the disk. Knows nothing of devices or gRPC.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import structlog

from service.engine.log.catalogue import Catalogue
from service.engine.log.groups.entries import Entry, steps_section
from service.engine.log.groups.events import (
    Began,
    Closed,
    Event,
    Moved,
    Opened,
    Reset,
    after_move,
    events_sections,
)
from service.engine.log.groups.session_row import SessionRow, after_moving, after_reset
from service.engine.log.recovery.reading import read_sessions
from service.engine.log.recovery.stored import StoredSession
from service.engine.log.watched import WatchedStore
from service.engine.log.writer import Writer
from service.engine.sessions.moving import Moving
from service.errors import CellarError, OverloadedError, StoreFullError, StoreUnavailableError
from service.settings import Durability
from service.store.records import Section, pack
from service.store.store import Store
from service.store.store import StoreFullError as NoRoomError

_PACKED_HERE_BYTES = 256 << 10  # more of it would hold up the event loop
_AGAIN_S = 0.2  # a full disk is tried again after that
_INTERVAL_S = 0.05  # what is not waited for is written together for so long
_TOLD_AFTER_S = 0.1  # whoever wants to know what is durable is told so much later
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Group:
    """What is to be written as one record."""

    number: int
    # In order: the entries of a model that came between two events lie together.
    parts: list[list[Event] | dict[str, list[Entry]]] = field(default_factory=list)
    nbytes: int = 0

    def entries(self) -> dict[str, list[Entry]]:
        """Where entries go."""
        if not self.parts or isinstance(self.parts[-1], list):
            self.parts.append({})
        found = self.parts[-1]
        assert isinstance(found, dict), "it was just added"
        return found

    def events(self) -> list[Event]:
        """Where events go."""
        if not self.parts or isinstance(self.parts[-1], dict):
            self.parts.append([])
        found = self.parts[-1]
        assert isinstance(found, list), "it was just added"
        return found

    def sections(self) -> list[Section]:
        """The record's."""
        found: list[Section] = []
        for part in self.parts:
            if isinstance(part, list):
                found += events_sections(part)
            else:
                found += [steps_section(model, entries) for model, entries in part.items()]
        return found


class CommitLog:
    """What all shards have committed, on its way to the store.

    All calls come from the event loop.

    Attributes:
        store: where groups are appended; whatever finds that its disk has failed ends the server.
        group: the number of the open group: what is committed now is in that.
        catalogue: the open sessions.
        durable: the number of the last group that is durable; all before it are.
        holds_steps: replies to steps wait for their group, see `hold`.
        keeps_steps: steps are in groups at all.
        tells_later: they are, and replies do not wait for them.
        undurable_bytes: memory of what is not durable.
        is_failed: the disk has failed: whoever waits is never told.

    Args:
        store: where groups are appended.
        group: the number of the first group.
        next_number: of the session that is opened next.
        durability: what replies to steps wait for.
        most_bytes: of what is not durable; beyond it no new step is taken.
        timeout_s: how long a write may take; beyond it no new step is taken.
        failed: called when the disk has failed: nothing is told any more, the process must end.
        took: called on another thread with the seconds that a write took.
    """

    def __init__(
        self,
        store: Store,
        *,
        group: int,
        next_number: int = 1,
        durability: Durability,
        most_bytes: int,
        timeout_s: float,
        failed: Callable[[Exception], None],
        took: Callable[[float], None] = lambda _seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = WatchedStore(store, self.fail)
        self.group = group
        self.catalogue = Catalogue(next_number)
        self.durable = group - 1
        self.holds_steps = durability is Durability.COMMIT
        self.keeps_steps = durability is not Durability.NONE
        self.tells_later = durability is Durability.INTERVAL
        self._delay_s = _INTERVAL_S if durability is Durability.INTERVAL else 0.0
        self.undurable_bytes = 0
        self.full = False
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._failed = failed
        self._took = took
        self._clock = clock
        self._open = _Group(group)
        self._writing: _Group | None = None
        self._began_s = 0.0
        self.is_failed = False
        self._held: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting: set[asyncio.Future[None]] = set()
        self._curious: list[Callable[[], None]] = []
        self._left: deque[tuple[int, int]] = deque()  # the group of the event, and of the tail
        self._timer: asyncio.Handle | None = None
        self._dropped = 0
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._loop)

    # -- what happens ---------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Steps were applied."""
        group = self._open
        group.entries().setdefault(entry.model, []).append(entry)
        self._count(entry.nbytes)

    def open(self, row: SessionRow) -> None:
        """A session was opened."""
        self._event(Opened(row=row))
        self._note(row.number, row)

    def begin_with(self, event: Began) -> None:
        """The session that was opened last starts from a state of its own."""
        self._event(event, event.nbytes)
        self.catalogue.began[event.number] = event

    def reset(self, number: int, branch: int, *, first_group: int) -> None:
        """A session was put back to position 0; its tail began there, 0 for none."""
        self._leave(first_group)
        self._event(Reset(number=number, branch=branch))
        self._note(number, after_reset(self.catalogue.rows[number], branch))

    def move(self, event: Moved, *, first_group: int) -> None:
        """A session was put to another position; its tail began there, 0 for none."""
        self._leave(first_group)
        self._event(event, event.seed.nbytes)
        self._note(event.number, after_move(self.catalogue.rows[event.number], event))

    def moving(self, event: Moving) -> None:
        """A session moves to another server, or does so no more."""
        self._event(event)
        self._note(event.number, after_moving(self.catalogue.rows[event.number], event))

    def close(self, number: int, *, first_group: int) -> None:
        """A session has ended; its tail began there, 0 for none."""
        self._leave(first_group)
        self._event(Closed(number=number))
        self._note(number, None)

    def find(self, number: int) -> SessionRow | None:
        """A session, if it is open."""
        return self.catalogue.rows.get(number)

    def leave(self, first_group: int) -> None:
        """A tail that began there is needed until all that has happened is durable."""
        self._left.append((self.last_group, first_group))

    def left_groups(self) -> list[int]:
        """Where tails begin that nobody needs once it is durable why: until then a crash does."""
        while self._left and self._left[0][0] <= self.durable:
            self._left.popleft()
        return [first for _, first in self._left]

    # -- what waits for it ----------------------------------------------------------------

    def hold(self, group: int, release: Callable[[], None]) -> None:
        """Call it once a group is durable; at once if it is."""
        if group <= self.durable and not self.is_failed:
            release()
            return
        assert group <= self.group, "nothing waits for what has not happened"
        if self._delay_s or self._timer is None:  # somebody wants to know
            self._write()
        held = self._held
        place = len(held)
        # Of a session that has been quiet for longer than those that came before, maybe.
        while place and held[place - 1][0] > group:
            place -= 1
        held.insert(place, (group, release))

    async def wait(self, group: int) -> None:
        """Wait until a group is durable.

        Raises:
            StoreUnavailableError: the disk has failed: nobody knows whether it is.
        """
        if self.is_failed:
            raise _failed_for_good()
        if group <= self.durable:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(done)
        done.add_done_callback(self._waiting.discard)
        self.hold(group, lambda: None if done.done() else done.set_result(None))
        await done

    def tell_later(self, told: Callable[[], None]) -> None:
        """Call it in a moment, when more may be durable, together with others."""
        if not self._curious:
            self._loop.call_later(_TOLD_AFTER_S, self._tell_all)
        self._curious.append(told)

    def _tell_all(self) -> None:
        curious, self._curious = self._curious, []
        for told in curious:
            try:
                told()
            except Exception:  # of one who is told; the others are, too
                _log.exception("what is durable could not be told")

    @property
    def last_group(self) -> int:
        """The last group that holds anything."""
        return self.group if self._open.parts else self.group - 1

    @property
    def groups(self) -> tuple[int, int]:
        """For a reply to steps: a group by which they are durable, and the last that is."""
        return (self.last_group, self.durable) if self.keeps_steps else (0, 0)

    async def flush(self) -> None:
        """Wait until all that has happened is durable, and what waited for it is told."""
        await self.wait(self.last_group)

    def check(self) -> None:
        """Check that new steps may be taken.

        Raises:
            StoreFullError: the disk is full.
            StoreUnavailableError: it does not answer.
            OverloadedError: more is to be written than may wait for that.
        """
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    @property
    def takes_more(self) -> bool:
        """Whether `check` passes."""
        return self._refusal() is None

    def _refusal(self) -> CellarError | None:
        """Why no new step is taken now, if none is."""
        if self.full:
            return StoreFullError(
                "the store's disk is full: nothing new is taken until there is room; what was "
                "taken before is written then"
            )
        if self._writing is None:
            return None
        waits_s = self._clock() - self._began_s
        if waits_s > self._timeout_s:
            return StoreUnavailableError(
                f"the store has not answered for {waits_s:.3g} s: try again shortly"
            )
        if self.undurable_bytes > self._most_bytes:
            return OverloadedError(
                f"{self.undurable_bytes:,} bytes wait to be written to the store, the limit is "
                f"{self._most_bytes:,}: try again shortly"
            )
        return None

    async def read_back(self, numbers: Iterable[int]) -> dict[int, StoredSession]:
        """Some open sessions as they are in the store.

        Raises:
            StoreUnavailableError: the store has failed.
            StoreError: it cannot be read.
        """
        await self.flush()
        rows = {number: row for number in numbers if (row := self.find(number)) is not None}
        return await self._writer.do(partial(read_sessions, self.store, rows))

    def fail(self, fault: Exception) -> None:
        """The disk has failed: nothing of sessions is told any more."""
        if self.is_failed:
            return
        _log.error("store failed", reason=str(fault))
        self.is_failed = True
        for waiting in list(self._waiting):
            if not waiting.done():
                waiting.set_exception(_failed_for_good())
        self._failed(fault)

    async def drop(self, before: int) -> int:
        """Let go of the groups before one; returns the bytes of those that are left."""

        def drop() -> int:
            if before > self._dropped:
                self.store.drop(before)
                self._dropped = before
            return self.store.journal_bytes

        return await self._writer.do(drop)

    async def journal_bytes(self) -> int:
        """Bytes of the groups that are kept."""
        return await self._writer.do(lambda: self.store.journal_bytes)

    def stop(self) -> None:
        """End the thread; call `flush` first."""
        self._writer.stop()

    # -- writing --------------------------------------------------------------------------

    def _leave(self, first_group: int) -> None:
        """The event that comes now makes a tail that began there needless, 0 for none."""
        if first_group:
            self._left.append((self.group, first_group))

    def _event(self, event: Event, nbytes: int = 0) -> None:
        self._open.events().append(event)
        self._count(256 + nbytes)

    def _note(self, number: int, row: SessionRow | None) -> None:
        self.catalogue.note(number, row, group=self.group)

    def _count(self, size: int) -> None:
        self._open.nbytes += size
        self.undurable_bytes += size
        if self._writing is not None or self._timer is not None:
            return
        if self._delay_s:
            self._timer = self._loop.call_later(self._delay_s, self._write)
        else:  # after what is ready now, which shares the group
            self._timer = self._loop.call_soon(self._write)

    def _write(self) -> None:
        """Leave the open group to the writer, if it has none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None or not self._open.parts or self.is_failed:
            return
        self._writing, self._began_s = self._open, self._clock()
        self.group += 1
        self._open = _Group(self.group)
        self._hand(self._writing)

    def _hand(self, group: _Group) -> None:
        """Leave a group to the writer."""
        record = None
        try:
            # Two threads that both run Python take turns so often that it costs more than the work.
            if group.nbytes <= _PACKED_HERE_BYTES:
                record = pack(group.sections())
        except Exception as error:
            self._written(error)
            return
        self._writer.hand(partial(self._append, group, record), self._written)

    def _append(self, group: _Group, record: bytes | None) -> None:
        """On the writer's thread."""
        if record is None:
            record = pack(group.sections())
        began_s = time.perf_counter()
        self.store.append(group.number, record)
        self._took(time.perf_counter() - began_s)

    def _written(self, fault: Exception | None) -> None:
        group = self._writing
        assert group is not None, "it was handed over"
        if isinstance(fault, NoRoomError):
            if not self.full:
                _log.error("store full", reason=str(fault))
            self.full = True
            self._loop.call_later(_AGAIN_S, self._hand, group)
            return
        if fault is not None:
            self.fail(fault)
            return
        if self.is_failed:  # its table has, meanwhile
            return
        if self.full:
            _log.info("store has room again")
            self.full = False
        self.durable, self._writing = group.number, None
        self.undurable_bytes -= group.nbytes
        held = self._held
        if self._open.parts:
            if not self._delay_s or (held and held[-1][0] > self.durable):
                self._write()  # first: the disk need not wait for what is told
            elif self._timer is None:
                self._timer = self._loop.call_later(self._delay_s, self._write)
        while held and held[0][0] <= self.durable:
            _, release = held.popleft()
            try:
                release()
            except Exception:  # of one who is told; the others are, too
                _log.exception("what waited for the store could not be told")


def _failed_for_good() -> StoreUnavailableError:
    return StoreUnavailableError("the store has failed, and the server ends: connect to another")
