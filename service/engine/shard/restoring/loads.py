"""What is done once a seed is in its slot: a session stands there, or is lost."""

from collections.abc import Callable

from service.engine.execution.executor import Executor
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Ints
from service.engine.work.work import Load


class Loads:
    """The loads of one shard.

    Args:
        forget_in_host: is told of slots whose states in host memory are of no use any more.
        out_of_host: is told of slots whose states could not come from host memory.
        out_of_store: the same of the store.
    """

    def __init__(
        self,
        table: SessionTable,
        executor: Executor,
        *,
        forget_in_host: Callable[[Ints], None],
        out_of_host: Callable[[Ints], None],
        out_of_store: Callable[[Ints], None],
    ) -> None:
        self._table = table
        self._executor = executor
        self._forget_in_host = forget_in_host
        self._out_of_host = out_of_host
        self._out_of_store = out_of_store

    def settle(self, load: Load, indices: Ints, *, lost: bool) -> Ints:
        """Some rows of it are in their slots, or are not: their sessions are lost then.

        Returns those of them whose sessions stand there now.
        """
        if load.branches is not None:  # those that were reset meanwhile stay where they are
            strays = self._table.strays(load.slots[indices], load.branches[indices])
            if load.in_host and lost:
                self._forget_in_host(load.slots[indices[strays]])
            indices = indices[~strays]
        slots = load.slots[indices]
        if lost and load.stays:  # nothing is
            load.done[indices] = True
            # At once, before anybody asks for them again; and not where a session has ended.
            there = slots[~self._table.closing[slots]]
            (self._out_of_host if load.in_host else self._out_of_store)(there)
            return indices
        self._table.load(
            slots,
            positions=load.positions[indices],
            last_steps=load.last_steps[indices],
            contents=load.contents[indices],
            lost=lost,
        )
        if not load.in_host and (self._executor.histories or load.histories):
            for slot in slots.tolist():
                self._executor.forget(slot)
                if not lost and slot in load.histories:
                    self._executor.keep(slot, load.histories[slot])
        if load.tells is not None and len(slots):
            load.tells()
        load.done[indices] = True
        return indices
