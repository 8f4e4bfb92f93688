"""The states that sessions were opened with in place of the model's own.

A session that has one reads its own row at position 0, and not the initial row of the arena. A
reset puts its state there again, so it is kept as long as the session is open. Knows nothing of
models or stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Floats
from service.engine.work.memory import Account, BufferMemory, Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """A state to start from.

    Attributes:
        states: of each tensor of the arena, its row.
        account: the memory that it takes.
    """

    states: Sequence[Floats]
    account: Account

    @classmethod
    def of(cls, states: Sequence[Floats], memory: BufferMemory) -> "Initial":
        """A state that the caller has sent.

        Raises:
            CellarError: there is no room to keep it.
        """
        account = memory.account()
        account.take(Held.INITIAL, sum([row.nbytes for row in states]))
        return cls(states=states, account=account)


class Initials:
    """Those of one shard, by slot.

    Args:
        table: its column ``seeded`` says which sessions have one.
    """

    def __init__(self, table: SessionTable, memory: BufferMemory) -> None:
        self._table = table
        self._memory = memory
        self._kept: dict[int, tuple[Sequence[Floats], Account | None]] = {}

    def keep(self, slot: int, initial: Initial) -> None:
        """A session was opened in a slot with this state."""
        self._table.seeded[slot] = True
        self._kept[slot] = initial.states, initial.account

    def restore(self, slot: int, states: Sequence[Floats] | None) -> None:
        """A session of the store has this one; ``None``: it had one, and that is lost."""
        self._table.seeded[slot] = True
        if states is not None:  # whoever it is, there was room for it once
            self._memory.count(Held.INITIAL, sum([row.nbytes for row in states]))
            self._kept[slot] = states, None

    def of(self, slot: int) -> Sequence[Floats] | None:
        """The state that the session of a slot has at position 0, a row of each tensor.

        ``None``: the model's own, unless its column ``seeded`` says that it is lost.
        """
        found = self._kept.get(slot)
        return None if found is None else found[0]

    def forget(self, slot: int) -> None:
        """The session of a slot has ended."""
        states, account = self._kept.pop(slot, ((), None))
        if account is not None:
            account.close()
        else:
            self._memory.count(Held.INITIAL, -sum([row.nbytes for row in states]))
