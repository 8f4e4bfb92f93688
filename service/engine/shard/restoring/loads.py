"""What is done once a seed is in its slot: a session stands there, or is lost."""

from service.engine.execution.executor import Executor
from service.engine.log.seeds import Seed
from service.engine.log.shard_log import ShardLog
from service.engine.sessions.table import SessionTable
from service.engine.work.columns import Ints
from service.engine.work.work import Load


class Loads:
    """The loads of one shard."""

    def __init__(self, table: SessionTable, executor: Executor, log: ShardLog | None) -> None:
        self._table = table
        self._executor = executor
        self._log = log

    def settle(self, load: Load, indices: Ints, *, lost: bool) -> Ints:
        """Some rows of it are in their slots, or are not: their sessions are lost then.

        Returns those of them whose sessions stand there now.
        """
        if load.branches is not None:  # those that were reset meanwhile stay where they are
            strays = self._table.strays(load.slots[indices], load.branches[indices])
            indices = indices[~strays]
        slots = load.slots[indices]
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
        if load.drawn is not None and self._log is not None and len(slots):
            assert load.runs is not None, "they come together"
            self._log.moved(int(slots[0]), _seed_of(load), load.drawn, load.runs)
        load.done[indices] = True
        return indices


def _seed_of(load: Load) -> Seed:
    """The one seed that it puts into its slot."""
    assert load.branches is not None, "the session goes back to it, on a branch"
    return Seed(
        branch=int(load.branches[0]),
        position=int(load.positions[0]),
        last_steps=int(load.last_steps[0]),
        content=int(load.contents[0]),
        states=[rows[0] for rows in load.states],
        history=load.histories.get(int(load.slots[0])),
    )
