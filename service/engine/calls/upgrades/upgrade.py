"""A session that goes on with another version of its model, as if that had read all it has read.

The version reads the session's whole history in a slot that nobody finds, while the session steps
on. Only for the last of it does the session stand still; then it is in that slot. The log is told
so in one group: whenever the process ends, there is the one or the other.
"""

import asyncio

import numpy as np

from service.engine.calls.upgrades.rereading import Reread, rereading
from service.engine.directory.session import Opening, Session
from service.engine.engine import Engine
from service.engine.log import chronicle
from service.engine.log.chronicle import Chronicle
from service.engine.log.seeds import Seed, initial_seed
from service.engine.served.registry import ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.initials import Initial
from service.engine.shard.restoring.folds import load_of
from service.engine.work.columns import NOTHING, Floats, Inputs
from service.engine.work.request import Request
from service.engine.work.work import Chunk, Save, Work
from service.errors import (
    InternalError,
    OverloadedError,
    QuotaExceededError,
    StateMismatchError,
)

_MOST_LOOKS = 8  # while the session steps on; then it stands still, however much is to be read


async def upgrade(
    engine: Engine, session_id: str, version: int = 0, *, branch: int = 0
) -> SessionInfo:
    """Let a session of the caller go on with another version of its model, on a new branch.

    It stands where it stood, as a session of that version does that was fed the same step by step.
    What was taken for it before has run; what is taken while it is put over waits, and is refused
    as `StaleBranchError` then. Where it has that version already, it stays as it is.

    Args:
        engine: the engine.
        session_id: which.
        version: of its model; 0: the highest.
        branch: the branch that it must be on, or has just left so; 0 is unchecked.

    Raises:
        HistoryMissingError: what it has read is not kept from position 0 on.
        BadInputError: something that it has read has no place in that version.
        StateMismatchError: it was opened with a state whose shapes are not that version's.
        CellarError: it is on another branch, or its state is lost; there is no such version, or no
            room for it now. Whatever is raised, the session is as it was.
    """
    session = engine.session(session_id)
    source = session.served
    # Whoever heard no answer knows no other than the one before.
    present = session.shard.on_branch(session.slot, branch, or_left=True)
    target = engine.registry.find(source.name, version)
    target.require_streamable()
    if target is source:
        return await engine.describe(session_id, branch=present if branch else 0)
    reread = rereading(source, target)
    session.shard.chronicles.require(session.slot)
    initial = _initial(engine, session, target)
    try:
        opening = engine.directory.begin_upgrade(session, target)
    except BaseException:
        if initial is not None:
            initial.account.close()
        raise
    own = _Upgrade(engine, session, opening, present, reread)
    try:
        await own.begin(initial)
        await own.read_all()
    except BaseException:  # the caller may have gone away
        if not own.is_done:
            engine.directory.call_off(opening)
        raise
    info = engine.directory.info(opening.session)
    await engine.settled(opening.session)
    return info


def _initial(engine: Engine, session: Session, target: ServedModel) -> Initial | None:
    """What the session was opened with, for the other version to start from."""
    table, slot = session.shard.table, session.slot
    states = session.shard.initials.of(slot)
    if states is None:
        if table.seeded[slot]:
            raise table.why_lost(slot)
        return None
    old, new = session.served.manifest, target.manifest
    shapes = [[tuple(state.shape) for state in model.states] for model in (old, new)]
    if shapes[0] != shapes[1]:
        raise StateMismatchError(
            "model_version: the session was opened with a state of its own, of the shapes "
            f"{', '.join(map(str, shapes[0]))}, and those of {target.label} are "
            f"{', '.join(map(str, shapes[1]))}"
        )
    carried: list[Floats] = list(states[: len(old.states)])
    if new.prediction_is_resident:
        carried.append(np.zeros(new.prediction.width, np.float32))
    return Initial.of(carried, engine.memory)


class _Upgrade:
    """One session on its way into the slot of another version.

    Attributes:
        is_done: it is there.
    """

    def __init__(
        self, engine: Engine, session: Session, opening: Opening, branch: int, reread: Reread
    ) -> None:
        self.is_done = False
        self._engine = engine
        self._flow = engine.flows.current
        self._session = session
        self._branch = branch
        self._opening = opening
        self._reread = reread
        self._shard, self._slot = opening.session.shard, opening.session.slot
        self._own_branch = np.array([self._shard.on_branch(self._slot)], np.uint64)
        self._history: Chronicle | None = None
        self._position = 0  # up to where it has been read

    async def begin(self, initial: Initial | None) -> None:
        """Let the slot be where it starts from."""
        shard, slot = self._shard, self._slot
        if initial is not None:
            shard.initials.keep(slot, initial)
            load = load_of([(slot, initial_seed(initial.states, branch=0))])
            await self._perform(load)
        self._history = shard.chronicles.begun(slot, self._opening.keeps)

    async def read_all(self) -> None:
        """Read all that the session has read, and put it over."""
        looks = 0
        while not self.is_done:
            rest, go_on = await self._session.shard.halt(
                self._session.slot, self._rest, branch=self._branch
            )
            looks += 1
            try:
                if len(rest) > chronicle.BASE_STEPS and looks < _MOST_LOOKS:
                    go_on()
                    await self._read(rest)
                elif (wait_s := self._pay(len(rest))) is not None:
                    go_on()
                    await asyncio.sleep(wait_s)
                else:
                    await self._read(rest, is_paid=True)
                    self._put_over()
            finally:
                go_on()

    def _rest(self) -> Inputs:
        """What the session has read, and the other version has not."""
        found = self._session.shard.chronicles.whole(self._session.slot)
        return found.inputs(self._position)

    async def _read(self, rest: Inputs, *, is_paid: bool = False) -> None:
        """Read on, some at a time: nobody else waits for long."""
        assert self._history is not None, "it has begun"
        inputs = self._reread(rest, self._position)
        done = 0
        while done < len(inputs):
            room = chronicle.BASE_STEPS - self._history.parts[-1].steps
            # The last one by itself, as if it had come so: it may be sent again.
            count = min(room, max(len(inputs) - done - 1, 1))
            wait_s = None if is_paid else self._pay(count)
            if wait_s is None:
                await self._read_some(inputs[done : done + count])
                done += count
            else:
                await asyncio.sleep(wait_s)

    async def _read_some(self, inputs: Inputs) -> None:
        history, shard, count = self._history, self._shard, len(inputs)
        assert history is not None, "it has begun"
        request = Request(
            slots=np.array([self._slot]), inputs=inputs, steps=np.array([count]), outputs=NOTHING
        )
        chunk = Chunk(
            slots=request.slots,
            expected=np.array([self._position]),
            commit=True,
            is_fold=True,
            row_steps=count,
            inputs=inputs,
            contents=request.digest(),
            flow=self._flow,
            ran=[],
        )
        shard.table.begins_at(self._slot, self._position + count)
        await self._perform(chunk)
        history.read(self._position, inputs, chunk.ran or ())
        self._position += count
        if history.wants_base:
            save = Save(slots=request.slots)
            await self._perform(save)
            history.add(
                Seed(
                    branch=int(save.saved_branches[0]),
                    position=int(save.positions[0]),
                    last_steps=int(save.last_steps[0]),
                    content=int(save.contents[0]),
                    states=[rows[0] for rows in save.states],
                )
            )

    def _pay(self, steps: int) -> float | None:
        """Take steps of the caller's, or say after how many seconds there may be some.

        Raises:
            OverloadedError, QuotaExceededError: there are none, and nothing was read yet.
        """
        self._engine.check_ready()
        if steps:
            try:
                self._shard.chronicles.memory.check(self._shard.slots.owners.item(self._slot))
                self._shard.check_room(steps, self._flow)
                self._flow.charge(steps, pending=0)
            except (OverloadedError, QuotaExceededError) as error:
                if not self._position:
                    raise
                return error.retry_after_s or 0.0
        return None

    async def _perform(self, work: Work) -> None:
        work.branches = self._own_branch
        (delivery,) = await self._shard.outcomes(work)
        if self._shard.table.lost[self._slot] and not isinstance(delivery.error, OverloadedError):
            raise InternalError(
                "the other version could not read what the session has read, which stays as it "
                "is; the log tells why"
            )
        if delivery.error is not None:
            raise delivery.error

    def _put_over(self) -> None:
        """The session, which stands still, is in the other slot from here on."""
        assert self._history is not None, "it has begun"
        shard, slot = self._session.shard, self._session.slot
        shard.on_branch(slot, self._branch)
        if shard.table.lost[slot]:
            raise shard.table.why_lost(slot)
        if shard.table.position[slot] != self._position:
            return  # a fault let it go on: once more
        self._engine.directory.upgrade(self._session, self._opening, self._history)
        self.is_done = True
