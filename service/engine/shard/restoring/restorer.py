"""Brings back sessions of one shard whose state is in the store: a checkpoint, and what follows.

What a session has read since its checkpoint is read again, through the queue, with the runs and the
bits of the first time: a fold. Whoever touches a session that is not here yet has it brought back
first, and whatever is asked of it waits behind that. Knows nothing of models or files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import structlog

from service.engine.log.checking import read_of
from service.engine.log.groups.entries import Steps
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.keys import CHECKPOINT, key
from service.engine.log.recovery.arithmetics import Arithmetics
from service.engine.log.recovery.folding import Folding
from service.engine.log.recovery.stored import StoredSession, Tail
from service.engine.log.seeds import Seed, initial_seed
from service.engine.scheduler.holds import Holds
from service.engine.sessions.initials import Initials
from service.engine.sessions.table.table import SessionTable
from service.engine.shard.restoring.folds import Unread, folds, load_of
from service.engine.shard.restoring.stowed import StowedStates
from service.engine.work.columns import Ints, Mask
from service.engine.work.replies import Delivery, InsideReceiver
from service.engine.work.work import Load, Work
from service.store.records import unpack
from service.store.store import Store, StoreError, StoreFailedError

_LOADED_AT_ONCE = 256
_MOST_TRIES = 5  # to bring a session back; then it is set aside, alone
_log = structlog.get_logger(__name__)


class Restorer:
    """The sessions of one shard that are in the store alone.

    Args:
        initials: what they were opened with.
        store: where their checkpoints are.
        queue: takes work for their slots, behind what is queued.
        holds: lets what is queued for slots wait.
        again: lets lost sessions be brought back once more, those that `may_try_again`; ``None``
            where the log does not have what they read: they stay in the store then.
        stays: is told of slots whose sessions are in the store as before.
        is_back: is told of slots whose sessions are here.
    """

    def __init__(
        self,
        table: SessionTable,
        initials: Initials,
        store: Store,
        *,
        queue: Callable[[Work], None],
        holds: Holds,
        again: Callable[[Ints], None] | None,
        stays: Callable[[Ints], None],
        is_back: Callable[[Ints], None],
    ) -> None:
        self._again = again
        self._stays = stays
        self._is_back = is_back
        self.restored = 0  # how often one was brought back
        # Sessions that could not be brought back: their numbers, and the branches they were on.
        self.failed: dict[int, int] = {}
        self.arithmetics: Arithmetics | None = None
        """Under which the model's steps in the journal were run."""
        self._marked: set[int] = set()  # slots whose bits may be others than those of before
        self._table = table
        self._initials = initials
        self._store = store
        self._queue = queue
        self._holds = holds
        self._stowed = StowedStates(table, store, holds, set_aside=self.set_aside)
        self.folding: Folding | None = None
        """Where is noted which sessions are being folded."""
        # By slot its number there, and what lets go of it alone.
        self._noted: dict[int, tuple[int, Callable[[], None] | None]] = {}
        self._unseated: dict[int, SessionRow] = {}  # by slot, those of these that have no row yet
        self.cold: dict[int, StoredSession] = {}
        """Those whose state is in the store alone, by slot."""
        self._coming: dict[int, StoredSession] = {}  # on their way, all of whom is a checkpoint
        self._folding: set[_Folded] = set()  # pieces of work that are on their way
        self._tries: dict[int, tuple[int, int]] = {}  # in a row, by slot: its branch, how many

    @property
    def is_busy(self) -> bool:
        """Whether some are on their way."""
        return bool(self._folding)

    def keep(self, slot: int, session: StoredSession) -> None:
        """A session that stands in a slot, and whose state is in the store."""
        self.cold[slot] = session

    def forget(self, slot: int) -> None:
        """It has ended, and need not be brought back."""
        self._marked.discard(slot)
        self._coming.pop(slot, None)
        self._stowed.forget(slot)
        cold = self.cold.pop(slot, None)
        number = self._noted[slot][0] if cold is None and slot in self._noted else 0
        number = number if cold is None else cold.row.number
        self._denote(slot)
        if self.folding is not None and number:
            self.folding.forget(number)

    def has_tail(self, slot: int) -> bool:
        """Whether one of those has to read again what came after its checkpoint."""
        session = self.cold.get(slot)
        return session is not None and session.tail is not None

    def thaw(self, slots: Iterable[int]) -> None:
        """Bring back those of these that are not here yet.

        Raises:
            Exception: a fault of ours, so that the queue is in doubt; they are tried once more.
        """
        own = [slot for slot in slots if slot in self.cold]
        stowed = [slot for slot in own if self.cold[slot].is_stowed]
        if stowed:
            own = [slot for slot in own if not self.cold[slot].is_stowed]
        for bring, some in [
            *((self._fetch, part) for part in _parts(stowed)),
            *((self._thaw, part) for part in _parts(own)),
        ]:
            try:
                bring(some)
            except Exception as fault:
                self._not_begun(some, str(fault))
                raise

    def _not_begun(self, slots: Sequence[int], reason: str) -> None:
        """A fault of ours: maybe nothing is queued that brings these back."""
        if self._again is None:  # those that are still out need not go there again
            self.stay([slot for slot in slots if slot in self._coming])
            slots = [slot for slot in slots if slot not in self.cold]
        for slot in slots:
            self.cold.pop(slot, None)
            self._stowed.drop(slot)
            self._table.warm(slot)
            self._failed(slot, reason)

    def stay(self, slots: Iterable[int]) -> None:
        """The states of sessions could not come; all of them is a checkpoint.

        Whoever asks again has them brought once more. Not those that are lost, nor those that go
        back: these are put elsewhere next.
        """
        table, out = self._table, list[int]()
        for slot in slots:
            self._stowed.drop(slot)
            session = self._coming.pop(slot, None)
            if session is None or table.lost[slot] or session.row.branch != table.branch[slot]:
                continue
            self.cold[slot] = session
            out.append(slot)
        self._stays(np.array(out, np.int64))

    def _fetch(self, slots: Sequence[int]) -> None:
        """Bring those back that were stowed: their states are read soon."""
        at = np.array(slots, np.int64)
        sessions = [self.cold.pop(slot) for slot in slots]
        if self._again is None:
            self._coming |= zip(slots, sessions, strict=True)
        load = self._stowed.load(at, sessions)
        load.in_store = self._again is None
        self._table.warm(at)
        self._put(load, set(slots))

    def _thaw(self, slots: Sequence[int]) -> None:
        table = self._table
        seeds: list[tuple[int, Seed]] = []
        unread: list[Unread] = []
        noted: list[tuple[int, SessionRow]] = []
        for slot in slots:
            session = self.cold.pop(slot)
            if self._again is None and session.tail is None:
                self._coming[slot] = session
            table.warm(slot)
            try:
                seed = self._seed(session) or self._initial(slot, session)
            except StoreFailedError:  # it is not lost: the server ends, and says no more
                self._coming.pop(slot, None)
                self._table.lost[slot] = self._table.restoring[slot] = True
                continue
            except StoreError as error:
                self._coming.pop(slot, None)
                self.set_aside(slot, str(error))
                continue
            at = np.array([slot])
            begins = np.array([(0, 0, 0) if seed is None else seed.stands], np.int64).T
            table.load(
                at, positions=begins[0], last_steps=begins[1], contents=begins[2], lost=False
            )
            if seed is not None:
                seeds.append((slot, seed))
            if session.tail is not None:
                tail = self._as_now(slot, session.tail)
                noted.append((slot, session.row))
                unread.append(Unread(slot=slot, position=session.begins, tail=tail))
            elif seed is None:  # it has read nothing, and is here
                self._coming.pop(slot, None)
                self._tries.pop(slot, None)
        self._note(noted)
        read_on = {own.slot for own in unread}
        staying = [own for own in seeds if own[0] in self._coming]
        seeds = [own for own in seeds if own[0] not in self._coming]
        if seeds:
            self._load(seeds, {slot for slot, _ in seeds} - read_on)
        if staying:
            load = load_of(staying)
            load.in_store = True
            self._put(load, {slot for slot, _ in staying})
        for work, is_last in folds(unread):
            self._put(work, set(work.slots.tolist()) if is_last else set())

    def _note(self, sessions: Sequence[tuple[int, SessionRow]]) -> None:
        """Note that these are folded, which waits for that: should one of them end the process."""
        folding = self.folding
        if folding is None:
            return
        together: list[tuple[int, SessionRow]] = []
        for slot, row in sessions:
            is_seated = self._table.row[slot] >= 0
            if is_seated and not folding.is_suspect(row):
                together.append((slot, row))
                continue
            go = self._holds.hold(np.array([slot]))
            self._noted[slot] = row.number, go
            if is_seated:
                folding.begin([row], go)
            else:  # it may wait for long, and what ends the process then is not its fault
                self._unseated[slot] = row
        if together:
            go = self._holds.hold(np.array([slot for slot, _ in together]))
            own = go if len(together) == 1 else None
            self._noted |= {slot: (row.number, own) for slot, row in together}
            folding.begin([row for _, row in together], go)

    def seated(self, slots: Ints) -> None:
        """Sessions that were asked for have rows of the arena now: they may be folded.

        Before that nothing is noted of them, and no state is read.
        """
        self._stowed.seated(slots)
        if not self._unseated:
            return
        for slot in slots.tolist():
            row, (_, go) = self._unseated.pop(slot, None), self._noted.get(slot, (0, None))
            if row is not None and go is not None and self.folding is not None:
                self.folding.begin([row], go)

    def _denote(self, slot: int) -> None:
        """It is not folded any more."""
        self._unseated.pop(slot, None)
        number, go = self._noted.pop(slot, (0, None))
        if number and self.folding is not None:
            self.folding.end(number)
        if go is not None:  # what waits for its turn is refused
            go()

    def _as_now(self, slot: int, tail: Tail) -> Steps:
        """What to read again; of another arithmetic neither the runs nor the reply are repeated."""
        found = tail.read()
        if self.arithmetics is None:
            return found
        others = ~self.arithmetics.same(tail.own_groups)
        self._marked.discard(slot)
        if others.any():
            self._marked.add(slot)
            found = found.anyhow(others)
        return found

    def _seed(self, session: StoredSession) -> Seed | None:
        row = session.row
        if session.seed is not None or not row.seed:
            return session.seed
        value = self._store.row(key(CHECKPOINT, row.number))
        if value is None:
            raise StoreError("its checkpoint is not in the store")
        with read_of("its checkpoint"):
            seed = Seed.unpack(unpack(value)[0])
        if (
            seed.branch not in (row.branch, row.seed_branch or row.branch)
            or not row.seed <= seed.position <= session.position
        ):
            raise StoreError("its checkpoint is of another position than the catalogue says")
        session.move_on(seed.position)
        return seed

    def _initial(self, slot: int, session: StoredSession) -> Seed | None:
        """What it was opened with, if that is no state of its model's."""
        if not session.row.has_initial:
            return None
        states = self._initials.of(slot)
        if states is None:
            raise StoreError("the state that it was opened with is not in the store")
        return initial_seed(states, branch=session.row.branch)

    def _load(self, seeds: Sequence[tuple[int, Seed]], whole: set[int]) -> None:
        self._put(load_of(seeds), whole)

    def _put(self, work: Work, whole: set[int]) -> None:
        """Queue it; the sessions in some slots are here once it is done."""
        work.reply_to = folded = _Folded(self, work, whole)
        self._folding.add(folded)
        try:
            self._queue(work)
        except Exception:
            self.done(folded)
            raise

    def may_try_again(self, slot: int) -> bool:
        """Whether a session whose state was lost in a failed run is to be brought back."""
        branch = self._table.branch.item(slot)
        of, tries = self._tries.get(slot, (branch, 0))
        tries = tries + 1 if of == branch else 1  # one that was reset begins anew
        self._tries[slot] = branch, tries
        return tries <= _MOST_TRIES

    def settled(self, work: Work, delivery: Delivery, whole: set[int]) -> None:
        """A piece of work has been done, or could not be."""
        slots = work.slots[delivery.rows].tolist()
        if delivery.error is not None:
            if isinstance(work, Load) and work.in_store:
                return  # they are there again since then, or on their way once more
            for slot in slots:
                self._stowed.drop(slot)
                self._failed(slot, str(delivery.error))
            return
        back = [slot for slot in slots if slot in whole]
        self.restored += len(back)
        self._is_back(np.array(back, np.int64))
        for slot in back:
            self._coming.pop(slot, None)
            self._denote(slot)
            self._tries.pop(slot, None)
            if slot in self._marked:
                self._marked.remove(slot)
                self._table.lose_reply(slot)

    def done(self, folded: "_Folded") -> None:
        """All of a piece of work is settled, or it was never queued."""
        self._folding.discard(folded)

    def _failed(self, slot: int, reason: str) -> None:
        """A session could not be brought back: once more, if it may be tried again."""
        table = self._table
        self._denote(slot)
        if table.closing[slot] or table.restoring[slot]:
            return
        if self.failed.get(table.number.item(slot)) == table.branch[slot]:
            table.lost[slot] = True
            return
        if self._again is None:
            self.set_aside(slot, reason)
            return
        table.lost[slot] = True
        self._again(np.array([slot]))
        if not table.restoring[slot]:
            self.set_aside(slot, reason)

    def set_aside(self, slot: int, reason: str) -> None:
        """A session cannot be brought back: nobody else is to suffer for it."""
        self._table.lost[slot] = True
        number = int(self._table.number[slot])
        branch = self._table.branch.item(slot)
        if self.failed.get(number) == branch:
            return
        self.failed[number] = branch  # on another one it begins anew
        _log.error("session could not be restored", session=number, reason=reason)


def _parts(slots: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(slots), _LOADED_AT_ONCE):
        yield slots[start : start + _LOADED_AT_ONCE]


class _Folded(InsideReceiver):
    """Hears what becomes of a piece of work that brings sessions back."""

    def __init__(self, restorer: Restorer, work: Work, whole: set[int]) -> None:
        self._whole = whole
        self._restorer = restorer
        self._work = work
        self._missing: Mask = np.ones(len(work.slots), np.bool_)

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._missing[delivery.rows] = False
        self._restorer.settled(self._work, delivery, self._whole)
        if not self._missing.any():
            self._restorer.done(self)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`: what came back before stays."""
        rows = delivery.rows
        self.deliver(delivery.but([rows[~self._missing[rows]]]))
