"""How much memory callers have the server hold, and who is refused when it is too much.

Counted in bytes, and asked before work is taken in. Nobody may hold more than a half: no principal
on all its connections, each of which may hold a half of that; and where nobody is asked who he is,
no connection. When all of it is taken, replies that are kept for repetitions go first, and then the
stream of whoever holds most; whoever holds little finds room. What is held for as long as a session
may take no more than a half of all, and leaves its caller a quarter of his share for what passes.
Knows nothing of what is held.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from weakref import WeakMethod

from service.auth.principal import calling
from service.engine.quotas.allowance import Allowance, Allowances
from service.engine.work.flow import caller
from service.errors import BadInputError, CellarError, OverloadedError

STEP_BYTES = 256  # of a step that waits, or of its reply, beside its numbers

_SHARES = 2  # of the memory, one of which a caller may hold

Key = tuple[str, Allowance | None]
"""Who calls: a connection, and the principal whose calls on it they are."""


class Held(Enum):
    """What is held."""

    STREAM = "stream"  # steps of streams that are queued, and replies that are not written
    CHANNELS = "channels"  # the channel tables of streams
    REQUEST = "request"  # requests of several steps, until they are answered
    GENERATION = "generation"  # generated steps that nobody has read
    HISTORY = "history"  # replies of several predictions, which may be asked for again
    INITIAL = "initial"  # states that sessions were opened with, for resets


_LASTING = (Held.INITIAL,)


class BufferMemory:
    """What all callers have the server hold.

    Attributes:
        used: bytes in all.
        by_kind: the same, by kind.

    Args:
        limit: bytes in all.
        allowances: the principals'.
    """

    def __init__(self, limit: int, allowances: Allowances | None = None) -> None:
        self.limit = limit
        self._allowances = allowances or Allowances()
        self.used = 0
        self.by_kind = dict.fromkeys(Held, 0)
        self._by_caller: dict[Key, int] = {}
        self._accounts: set[Account] = set()  # that can be cut
        self._reclaims: list[WeakMethod[Callable[[], bool]]] = []

    def add_reclaim(self, reclaim: Callable[[], bool]) -> None:
        """Call this method where room is needed: it gives something up, or says it has nothing.

        It goes with what it is a method of.
        """
        self._reclaims.append(WeakMethod(reclaim))

    def account(
        self,
        cut: Callable[[CellarError], None] | None = None,
        *,
        who: Key | None = None,
    ) -> "Account":
        """An account of the caller; ``cut`` ends what it is for, where others need the room.

        ``who`` says the caller where it is opened in a shard's turn, which is nobody's.
        """
        account = Account(self, who or self.caller, cut)
        if cut is not None:
            self._accounts.add(account)
        return account

    @property
    def caller(self) -> Key:
        """Who calls."""
        principal = calling.get()
        own = self._allowances.of(principal) if principal.name else None
        return caller.get()() or "-", own

    @contextmanager
    def holding(self, kind: Held, size: int) -> Iterator[None]:
        """Hold so many bytes for the caller.

        Raises:
            OverloadedError: there is no room for them now.
            BadInputError: there never is.
        """
        account = self.account()
        account.take(kind, size)
        try:
            yield
        finally:
            account.close()

    def count(self, kind: Held, size: int, who: Key | None = None) -> None:
        """Count bytes as held, or given back if they are below 0, without asking."""
        self.used += size
        self.by_kind[kind] += size
        if who is None:
            return
        held = self._by_caller.get(who, 0) + size
        if held:
            self._by_caller[who] = held
        else:
            self._by_caller.pop(who, None)
        if who[1] is not None:
            who[1].held_bytes += size

    def make_room(self, who: Key, size: int, *, lasts: bool = False) -> None:
        """See that there is room for so many bytes more; ``lasts``: they are not soon given back.

        Raises:
            OverloadedError: there is none that this caller should have now.
            QuotaExceededError: the principal holds as much as it may.
            BadInputError: there is none that he should ever have.
        """
        held, share, part = self._by_caller.get(who, 0), self.limit // _SHARES, "half"
        allowance = who[1]
        if allowance is not None:
            allowance.check_bytes(size)
            share, part = share // _SHARES, "a quarter"
        if lasts:
            share, part = 3 * share // 4, f"three quarters of {part}"
        if size > share:
            raise BadInputError(
                "message",
                f"it would have the server hold {size:,} bytes at once, a connection may have it "
                f"hold {share:,} ({part} of --buffer-memory): send it in parts, ask for less",
            )
        if held + size > share:
            raise OverloadedError(
                f"this connection has the server hold {held:,} bytes, and {size:,} more would be "
                f"over its share of {share:,}: read replies, send less at once"
            )
        if allowance is not None:
            held = allowance.held_bytes
            if held + size > share * _SHARES:
                raise OverloadedError(
                    f"you have the server hold {held:,} bytes on all your connections, and "
                    f"{size:,} more would be over your share of {share * _SHARES:,}: read replies, "
                    "send less at once"
                )
        while self.used + size > self.limit:
            if not (self.reclaim() or self._cut_the_largest(held + size)):
                raise OverloadedError(
                    f"callers have the server hold {self.used:,} bytes, the limit is "
                    f"{self.limit:,}: try again shortly"
                )

    def check_lasting(self, size: int) -> None:
        """See that what sessions hold may be so many bytes more.

        Raises:
            OverloadedError: it may not: else nothing would be left for what they do.
        """
        held, most = sum([self.by_kind[kind] for kind in _LASTING]), self.limit // 2
        if held + size > most:
            raise OverloadedError(
                f"the initial states of sessions take {held:,} bytes, and {size:,} more would be "
                f"over a half of --buffer-memory, {most:,}: close some of these sessions"
            )

    def forget(self, account: "Account") -> None:
        """It is closed."""
        self._accounts.discard(account)

    def reclaim(self, *, but: Callable[[], bool] | None = None) -> bool:
        """Have something given up, by anybody ``but`` one; whether there was anything."""
        found = [reclaim() for reclaim in self._reclaims]
        self._reclaims = [
            own for own, is_left in zip(self._reclaims, found, strict=True) if is_left
        ]
        return any(reclaim() for reclaim in found if reclaim is not None and reclaim != but)

    def _cut_the_largest(self, more_than: int) -> bool:
        """End the largest stream of whoever holds most, among those who hold more than that.

        Who holds it in requests alone has no stream that could end.
        """
        held = self._held_with
        streams = [one for one in self._accounts if one.held and held(one.who)[0] > more_than]
        if not streams:
            return False
        max(streams, key=lambda one: (*held(one.who), one.held)).cut_off()
        return True

    def _held_with(self, who: Key) -> tuple[int, int]:
        """What a caller holds on all its connections, and on this one."""
        own = self._by_caller[who]
        return own if who[1] is None else who[1].held_bytes, own


class Account:
    """What one call holds."""

    def __init__(
        self, memory: BufferMemory, who: Key, cut: Callable[[CellarError], None] | None
    ) -> None:
        self.who = who
        self.held = 0
        self._memory = memory
        self._cut = cut
        self._by_kind: dict[Held, int] = {}
        self._is_closed = False

    def take(self, kind: Held, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            OverloadedError: there is no room for them now.
            BadInputError: there never is.
        """
        if not self._is_closed:
            if kind in _LASTING:
                self._memory.check_lasting(size)
            self._memory.make_room(self.who, size, lasts=kind in _LASTING)
            self._count(kind, size)

    def give(self, kind: Held, size: int) -> None:
        """Hold so many bytes less."""
        if not self._is_closed:
            self._count(kind, -size)

    def close(self) -> None:
        """Give back all of it; nothing is counted from here on."""
        for kind, size in self._by_kind.items():
            self._memory.count(kind, -size, self.who)
        self._by_kind, self.held, self._is_closed = {}, 0, True
        self._memory.forget(self)

    def cut_off(self) -> None:
        """Others need the room: it counts as given back, and is in a moment."""
        assert self._cut is not None, "it can be cut"
        held = self.held
        self.close()
        self._cut(
            OverloadedError(
                f"the stream had the server hold {held:,} bytes, more than any other, when there "
                "was no room left: read replies as they come, and attach again"
            )
        )

    def _count(self, kind: Held, size: int) -> None:
        self._memory.count(kind, size, self.who)
        self.held += size
        self._by_kind[kind] = self._by_kind.get(kind, 0) + size
