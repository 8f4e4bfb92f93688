"""What is done once a seed is in its slot: a session stands there, or is lost."""

from service.engine.execution.executor import Executor
from service.engine.sessions.table import SessionTable
from service.engine.work.columns import Ints
from service.engine.work.work import Load


class Loads:
    """The loads of one shard."""

    def __init__(self, table: SessionTable, executor: Executor) -> None:
        self._table = table
        self._executor = executor

    def settle(self, load: Load, indices: Ints, *, lost: bool) -> Ints:
        """Some rows of it are in their slots, or are not: their sessions are lost then.

        Returns those of them whose sessions stand there now.
        """
        if load.branches is not None:  # those that were reset meanwhile stay where they are
            strays = self._table.strays(load.slots[indices], load.branches[indices])
            indices = indices[~strays]
        slots = load.slots[indices]
        if lost and load.stays:  # nothing is: whatever is queued behind it is refused
            for slot in slots[self._table.host_row[slots] >= 0].tolist():
                self._table.cool(slot)
            load.done[indices] = True
            return indices
        self._table.load(
            slots,
            positions=load.positions[indices],
            last_steps=load.last_steps[indices],
            contents=load.contents[indices],
            lost=lost,
        )
        for slot in slots.tolist():
            self._executor.forget(slot)
            if not lost and slot in load.histories:
                self._executor.keep(slot, load.histories[slot])
        if load.tells is not None and len(slots):
            load.tells()
        load.done[indices] = True
        return indices
