"""Everything at once, by dice: nothing is lost, doubled, swapped or left behind."""

import asyncio
import itertools
import random
import traceback
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.calls.predict import predict
from service.engine.directory.session import Session
from service.engine.log.keys import CHECKPOINT, key
from service.engine.log.seeds import Seed
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.shard.policy import Action, BatchPolicy, Decision
from service.engine.stepping import StepResult
from service.engine.work.columns import SAMPLE, Ints, Outputs
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Fork, Load, Save
from service.store.records import unpack
from tests.service.engine.fakes import (
    VOCABULARY,
    CutsRunner,
    DecodingRunner,
    ShapesRunner,
    advance,
    fake_manifest,
    run_alone,
    tokens_of,
)
from tests.service.engine.houses import (
    INLINE,
    PLAYS,
    WORKER,
    Fakes,
    fakes_on,
    leftovers,
    set_worth_a_batch,
)
from tests.service.engine.wires import RAW, Row, Wire
from tests.service.store.fake import FakeStore

ASIDE = "session could not be restored"
BOTH = 2e-4  # of inline_run_s: small runs on the event loop, others on the worker
NAMES = [f"s{number}" for number in range(12)]
OUTPUTS = [
    RAW,
    RAW,
    Outputs(raw=True, argmax=True),
    Outputs(raw=True, every_step=True),
    Outputs(raw=True, argmax=True, sample=True),
]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What may happen in a play.

    Attributes:
        faults: how often a run, or the heads, fail.
        unreadable: how often a run fails that has written nothing.
        closes: sessions are closed and reset.
        dice: batches are not chosen by the policy, but by dice.
        durable: there is a store, and checkpoints are written now and then; in the end it crashes.
        device: what the sessions are on.
        rows: of the arena for sessions, fewer than there are; 0: enough.
        host_rows: of host memory.
    """

    faults: float = 0.0
    unreadable: float = 0.0
    closes: bool = False
    dice: bool = False
    durable: bool = False
    device: type[DecodingRunner] = DecodingRunner
    rows: int = 0
    host_rows: int = 0

    @property
    def tiers(self) -> dict[str, Any]:
        """The settings for that."""
        if not self.rows:
            return {}
        return {
            "max_sessions": self.rows,
            "host_memory": self.host_rows * fake_manifest().session_bytes,
            "max_open_sessions": 64,
        }


DURABLE = Kind(faults=0.01, unreadable=0.01, closes=True, dice=True, durable=True)
KINDS = {
    "calm": Kind(),
    "closes": Kind(closes=True),
    "faults": Kind(faults=0.02),
    "unreadable": Kind(unreadable=0.2),
    "all": Kind(faults=0.02, unreadable=0.02, closes=True),
    "any policy": Kind(faults=0.01, unreadable=0.05, closes=True, dice=True),
    "durable": DURABLE,
    "buckets": replace(DURABLE, device=ShapesRunner),
    "host": Kind(unreadable=0.02, closes=True, dice=True, rows=3, host_rows=12),
    "host and store": replace(DURABLE, rows=3, host_rows=4),
    "store alone": replace(DURABLE, rows=4),
}
MORE_KINDS = {
    **KINDS,
    "cuts": replace(DURABLE, device=CutsRunner),
    "one row": replace(DURABLE, rows=1, host_rows=2),
    "tiers and buckets": replace(DURABLE, device=ShapesRunner, rows=3, host_rows=4),
}


class Paths(FeedbackCall):
    """What copies of a session read, (paths, steps)."""

    def __init__(self, paths: int) -> None:
        self.read: list[list[int]] = [[] for _ in range(paths)]
        self.done = asyncio.Event()
        self._going_on = paths

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        for row, own in zip(rows.tolist(), steps.tolist(), strict=True):
            self.read[row] += own

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        self._going_on -= len(rows)
        if not self._going_on or self.error is not None:  # behind a fault it may be told twice
            self.done.set()


@dataclass(kw_only=True)
class Play:
    """Clients of all kinds on the same sessions, who check what they are told."""

    house: Fakes
    noise: random.Random
    problems: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    reset: set[Session] = field(default_factory=set)  # their positions began anew
    loaded: set[int] = field(default_factory=set)  # slots; lost where that is called off
    rows: list[Row] = field(default_factory=list)  # of frames
    told: list[tuple[Session, int, int]] = field(default_factory=list)  # position, state
    checks: int = 0

    @property
    def device(self) -> DecodingRunner:
        (device,) = self.house.runners
        assert isinstance(device, DecodingRunner)
        return device

    async def run(self, *, closes: bool, calls: int) -> None:
        """Begin so many calls, some at once, and wait for all of them."""
        noise = self.noise
        for name in NAMES:
            self.house.open(name)
        for _ in range(calls):
            if closes and noise.random() < 0.05:
                self._close_or_reset(noise.choice(NAMES))
                continue
            call = self._call()
            if noise.random() < 0.25:
                call = self._cancelled(call)
            self.tasks.append(asyncio.create_task(call))
            for _ in range(noise.choice([0, 0, 1, 2, 5])):
                await asyncio.sleep(0)
            if noise.random() < 0.1:
                await asyncio.sleep(0.003)
        _, hung = await asyncio.wait(self.tasks, timeout=40)
        self.problems += [f"hung: {task.get_coro()} {task.get_stack()[-1:]}" for task in hung]
        for task in hung:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self.problems += traceback.format_exception(result)[-2:]

    async def check_end(self) -> None:
        """All was answered: nothing is left, and each session is where its steps have led it."""
        try:
            async with asyncio.timeout(5):
                await self.house.settle()
                # What the log brings back begins when a group is durable, and so after that.
                while self.house.engine.log is not None and any(self._leftovers().values()):
                    await asyncio.sleep(0.01)
                    await self.house.settle()
        except TimeoutError:
            self.problems.append("it is never drained")
        for row in self.rows:  # those of a stream that was given up need not be answered
            self._check(row.answers <= 1, f"a row was answered {row.answers} times")
        house, table = self.house, self.house.served.shards[0].table
        self.problems += [f"{name}: {n}" for name, n in self._leftovers().items()]
        if self.device.overlaps:
            self.problems.append(f"{self.device.overlaps} runs began while another one ran")
        sessions = house.engine.directory.sessions
        if house.served.usage.sessions != len(sessions):
            self.problems.append("a closed session holds a slot")
        for session in sessions.values():
            position = int(table.position[session.slot])
            if not position or table.lost[session.slot]:
                continue
            state, read = self._state(session)
            if len(read) != position:
                self.problems.append(f"{session.id} is at {position}, and has read {len(read)}")
            elif run_alone(read)[-1] != state:
                self.problems.append(f"{session.id} has another's state")

    def _state(self, session: Session) -> tuple[int, list[int]]:
        """A session's state, wherever that is, and what has led to it."""
        table = session.shard.table
        row, is_kept = int(table.row[session.slot]), table.host_row[session.slot] >= 0
        if row >= 0 and not is_kept:  # else it is not in the row yet
            return int(self.device.state[row]), self.device.tokens[row]
        if is_kept:
            states = session.shard.tiers.states(np.array([session.slot]))
        else:
            log = self.house.engine.log
            assert log is not None
            value = log.store.row(key(CHECKPOINT, int(table.number[session.slot])))
            assert value is not None
            states = [row[None] for row in Seed.unpack(unpack(value)[0]).states]
        return int(states[0][0, 0]), tokens_of(states[1][0])

    def _leftovers(self) -> dict[str, int]:
        return leftovers(self.house.served)

    def check_told(self) -> None:
        """What was told of sessions still holds, whatever has become of them since."""
        for session, position, state in self.told:
            if self._can_check(session):
                read = self._state(session)[1][:position]
                self._check(run_alone(read)[-1:] == [state], f"{session.id} has another past")

    # -- calls ----------------------------------------------------------------------------

    def _call(self) -> Coroutine[Any, Any, None]:
        what, name = self.noise.random(), self.noise.choice(NAMES)
        if what < 0.4:
            return self._step(name)
        if what < 0.55:
            return self._frames(self.noise.sample(NAMES, self.noise.randrange(1, 9)))
        if what < 0.8:
            return self._generate(name)
        if what < 0.9:
            return self._fork(name)
        if what < 0.96 and self.house.engine.log is None:  # which would not hear of it
            return self._move(name)
        return self._predict()

    async def _cancelled(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        for _ in range(self.noise.choice([0, 1, 2, 3, 5, 8, 13, 30])):
            await asyncio.sleep(0)
        if self.noise.random() < 0.5:
            await asyncio.sleep(self.noise.random() * 0.005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    def _close_or_reset(self, name: str) -> None:
        house = self.house
        session = house.engine.directory.sessions.get(name)
        with suppress(errors.CellarError):  # there may be no slot for a new one yet
            if session is None:
                house.open(name)
            elif self.noise.random() < 0.4:
                self.reset.add(session)
                self.tasks.append(asyncio.create_task(self._reset(name)))
            else:
                house.engine.directory.close(name)
                if self.noise.random() < 0.9:
                    house.open(name)

    async def _reset(self, name: str) -> None:
        with suppress(errors.CellarError):
            await self.house.engine.reset(name)

    async def _step(self, name: str) -> None:
        noise, engine = self.noise, self.house.engine
        session = engine.directory.sessions.get(name)
        if session is None:
            return
        tokens = self._tokens(noise.choice([1, 1, 1, 1, 2, 3, 5, 11, 30]))
        position: int | None = None
        if noise.random() < 0.5:  # mostly where the session stands, or will soon
            position = max(0, self.house.position(name) + noise.choice([0, 0, 0, 0, -1, 1, 2]))
        commit, outputs = noise.random() > 0.15, noise.choice(OUTPUTS)
        try:
            result = await engine.step(
                session,
                self.house.served.reader.tokens(np.array(tokens)),
                outputs=outputs,
                sampling=Sampling(seed=noise.randrange(9)) if outputs.sample else None,
                position=position,
                commit=commit,
            )
        except errors.StateLostError:
            if engine.directory.sessions.get(name) is session:  # begin anew
                engine.directory.close(name)
                with suppress(errors.CellarError):
                    self.house.open(name)
            return
        except errors.CellarError:
            return
        raw = result.answers.raw
        assert raw is not None
        self._check(len(raw) == (len(tokens) if outputs.every_step else 1), "not all predictions")
        if not commit:
            return
        if position is not None:
            self._check(result.position == position + len(tokens), "not where it was to stand")
        self._check_read(session, result.position, tokens, int(raw[-1, 0]))

    async def _frames(self, names: list[str]) -> None:
        noise, wire = self.noise, Wire(self.house)
        attach = wire.stream.attachments.attach
        rows: list[Row] = []
        try:
            attached = await attach(names, np.arange(len(names)), open_sessions=False)
            channels = attached.channels.tolist()
            for _ in range(noise.randrange(1, 8) if channels else 0):
                if noise.random() < 0.5:
                    channel = noise.choice(channels)
                    rows.append(wire.single(channel, noise.randrange(VOCABULARY)))
                else:
                    chosen = noise.sample(channels, noise.randint(1, len(channels)))
                    most = 8 if noise.random() < 0.3 else 1
                    asked = {c: (self._tokens(noise.randint(1, most)), -1) for c in chosen}
                    rows += wire.frame(asked)
                for _ in range(noise.randrange(3)):
                    await asyncio.sleep(0)
            while any(not row.answers for row in rows) and not wire.is_broken:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        finally:
            wire.stream.end()
            self.rows += rows

    async def _generate(self, name: str) -> None:
        noise, house = self.noise, self.house
        session = house.engine.directory.sessions.get(name)
        prompt = self._tokens(noise.choice([0, 1, 1, 4, 9]))
        letters = house.served.reader.symbols
        stop = tuple(noise.choice(letters) for _ in range(noise.choice([0, 0, 2])))
        limit, leaves_after = noise.choice([1, 2, 5, 20, 100, 600]), noise.choice([0, 0, 1, 2, 5])
        pieces: list[Piece] = []
        call = generate(
            house.engine,
            name,
            prompt=house.served.reader.tokens(np.array(prompt)) if prompt else None,
            max_steps=limit,
            sampling=Sampling(seed=1),
            stop=stop,
        )
        try:
            async for piece in call:
                pieces.append(piece)
                if session is not None:
                    self._check_read(session, piece.position, list(piece.tokens))
                if noise.random() < 0.2:
                    await asyncio.sleep(0.002)
                if len(pieces) == leaves_after:
                    return
        except errors.CellarError:
            return
        finally:
            await call.aclose()
            for one, other in itertools.pairwise(pieces):
                self._check(other.position == one.position + len(other.tokens), "a gap")
        steps, reason = sum(len(piece.tokens) for piece in pieces), pieces[-1].finish_reason
        whole = FinishReason.LENGTH if steps == limit else FinishReason.STOP
        stops = bool(stop) and pieces[-1].text[-1:] in stop
        self._check(
            reason is whole or (stops and reason is FinishReason.STOP),
            f"{steps} of {limit} steps, and {reason}",
        )
        self._check(steps == limit or stops, f"{steps} of {limit} steps")

    async def _move(self, name: str) -> None:
        """A session's rows are saved among its steps, and loaded for another one, which goes on."""
        engine, other = self.house.engine, f"{name} moved {len(self.tasks)}"
        session = engine.directory.sessions.get(name)
        if session is None:
            return
        shard, tokens = session.shard, self._tokens(self.noise.choice([1, 1, 3, 11]))
        save = Save(slots=np.array([session.slot]))
        try:
            await shard.perform(save)
            self.house.open(other)
            moved = engine.directory.sessions[other]
            (position,) = save.positions.tolist()
            if not position:
                return
            slots = np.array([moved.slot])
            self.loaded.add(moved.slot)
            load = Load(
                slots=slots,
                states=save.states,
                positions=save.positions,
                last_steps=save.last_steps,
                contents=save.contents,
            )

            async def put() -> None:
                shard.table.accepted[slots] = position  # counted when it is queued, not before
                await shard.perform(load)

            async def go_on() -> StepResult:
                steps = self.house.served.reader.tokens(np.array(tokens))
                return await engine.step(moved, steps, outputs=RAW, position=position)

            loaded, found = await asyncio.gather(put(), go_on(), return_exceptions=True)
            for one in (loaded, found):
                if isinstance(one, BaseException):
                    raise one
            assert isinstance(found, StepResult)
            raw = found.answers.raw
            assert raw is not None
            self._check(found.position == position + len(tokens), "not where it was loaded")
            self._check_read(moved, found.position, tokens, int(raw[-1, 0]))
        except errors.CellarError:
            return
        finally:
            with suppress(errors.CellarError):
                engine.directory.close(other)

    async def _fork(self, name: str) -> None:
        """What a forecast does: the model draws tokens, and cannot be asked for one."""
        session = self.house.engine.directory.sessions.get(name)
        if session is None:
            return
        noise, shard = self.noise, session.shard
        paths, steps = noise.randrange(2, 12), noise.choice([1, 2, 5, 40, 300])
        call, rows = Paths(paths), np.empty(0, np.int64)
        try:
            position = shard.require_started(session.slot, "session_id")
            branch = shard.on_branch(session.slot)
            fork = Fork(
                slots=np.array([session.slot]),
                expected=np.array([position]),
                branches=np.array([branch], np.uint64),
                row_cost=paths,
                outputs=SAMPLE,
                draws=Draws.repeated(Sampling(), paths),
            )
            try:
                (forked,) = await shard.perform(fork)
                assert forked.answers is not None
                assert fork.draws is not None
                rows = shard.feedback.start(
                    call,
                    slots=fork.spares,
                    position=position,
                    first=forked.answers.columns[shard.feedback.drawn],
                    draws=fork.draws,
                    steps=steps,
                )
                await call.done.wait()
            finally:
                shard.feedback.cancel(call, rows)
                shard.slots.return_spares(fork)
        except errors.CellarError:
            return
        if call.error is not None:
            return
        if isinstance(self.device, ShapesRunner):  # each path is in runs of its own sizes
            return
        self._check(call.read == call.read[:1] * paths, "paths of one session differ")
        if self._can_check(session) and shard.table.branch[session.slot] == branch:
            state, expected = run_alone(self._state(session)[1][:position])[-1], []
            for _ in range(steps):
                expected.append(state % VOCABULARY)
                state = advance(state, expected[-1])
            self._check(call.read[0] == expected, f"a path of {session.id} is another's")

    async def _predict(self) -> None:
        noise, house = self.noise, self.house
        sequences = [
            self._tokens(noise.choice([1, 1, 3, 9, 20])) for _ in range(noise.randrange(1, 14))
        ]
        try:
            result = await predict(
                house.engine,
                house.served,
                house.served.reader.tokens(np.concatenate(sequences)),
                np.array([len(sequence) for sequence in sequences]),
                outputs=RAW,
            )
        except errors.CellarError:
            return
        raw = result.answers.raw
        assert raw is not None
        if isinstance(self.device, ShapesRunner):
            return
        expected = [run_alone(sequence)[-1] for sequence in sequences]
        self._check(raw[:, 0].astype(int).tolist() == expected, "predictions of other sequences")

    # -- checks ---------------------------------------------------------------------------

    def _tokens(self, count: int) -> list[int]:
        return [self.noise.randrange(VOCABULARY) for _ in range(count)]

    def _check(self, holds: bool, problem: str) -> None:
        self.checks += 1
        if not holds:
            self.problems.append(problem)

    def _can_check(self, session: Session) -> bool:
        """Whether the device still has all that the session has read."""
        is_open = self.house.engine.directory.sessions.get(session.id) is session
        if not is_open or session in self.reset or session.shard.table.lost[session.slot]:
            return False
        shard, slot = session.shard, session.slot  # one in host memory is looked for there
        return shard.table.host_row[slot] >= 0 or not shard.tiers._asked[slot]

    def _check_read(
        self, session: Session, position: int, tokens: list[int], state: int | None = None
    ) -> None:
        """What a reply says, the device has read."""
        if not self._can_check(session):
            return
        read = self._state(session)[1][:position]
        self._check(len(read) == position, f"{session.id} at {position} has read {len(read)}")
        own = [token % 100 for token in read[position - len(tokens) :]]
        self._check(own == tokens, f"{session.id} has read other tokens")
        if state is not None:
            self.told.append((session, position, state))
            self._check(run_alone(read)[-1:] == [state], f"{session.id} was told another's state")


@contextmanager
def any_policy(dice: random.Random) -> Iterator[None]:
    """Whatever the policy decides must be safe: here it decides by dice."""

    def decide(
        self: BatchPolicy, *, feedback_rows: int, runs: int, at_once: bool = False, **others: Any
    ) -> Decision:
        if runs == 2 or (runs and dice.random() < 0.2):
            return Decision(Action.NOTHING)
        if not (runs or at_once) and dice.random() < 0.2:
            return Decision(Action.WAIT)
        action = Action.OVERLAP if runs else Action.RUN
        if feedback_rows and dice.random() < 0.7:
            rows = dice.choice([1, 2, feedback_rows])
            steps = dice.choice([1, 2, 3, 16, 16])
            return Decision(action, steps if self._can_decode else 1, rows)
        return Decision(action)

    def runs_here(self: BatchPolicy, *batch: Any) -> bool:
        return dice.random() < 0.4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchPolicy, "decide", decide)
        patch.setattr(BatchPolicy, "runs_here", runs_here)
        yield


@asynccontextmanager
async def stage(seed: int, inline_run_s: float, kind: Kind) -> AsyncIterator[Play]:
    """A house whose device, and whose policy if wanted, are moved by dice."""
    dice = random.Random(seed)

    def device(slots: int) -> DecodingRunner:
        runner = kind.device(slots)
        runner.dice = random.Random(seed + 1)
        return runner

    with any_policy(random.Random(seed + 2)) if kind.dice else nullcontext():
        store = FakeStore() if kind.durable else None
        async with fakes_on(
            device, store=store, inline_run_s=inline_run_s, checkpoint_steps=20, **kind.tiers
        ) as house:
            if kind.dice:
                set_worth_a_batch(house.served, dice.choice([1, 2, 8]))
            play = Play(house=house, noise=dice)
            play.device.fault_rate = play.device.head_rate = kind.faults
            play.device.unreadable_rate = kind.unreadable
            play.device.longest_s = dice.choice([0.0, 0.001, 0.004])
            yield play


async def look_after(play: Play) -> None:
    """Write checkpoints, and let the journal go, much more often than is needed."""
    upkeep = play.house.engine._upkeep
    assert upkeep is not None
    while True:
        await asyncio.sleep(0.005)
        await upkeep.look_after()


async def same_after_a_crash(play: Play, kind: Kind, lost: set[int]) -> list[str]:
    """What is different once the process has ended at once, and the store is all there is.

    But for sessions that were set aside, by their slots.
    """
    engine, problems = play.house.engine, list[str]()
    assert engine.log is not None
    assert engine._upkeep is not None
    await engine._upkeep.stop()
    await engine.log.flush()
    sessions = engine.directory.sessions.values()
    before = {
        own.id: play._state(own)[1]
        for own in sessions
        if own.slot not in lost and play.house.position(own.id)
    }
    store = engine.log.store.store
    assert isinstance(store, FakeStore)
    async with fakes_on(kind.device, store=store.crash()) as house:
        (shard,), (device,) = house.served.shards, house.runners
        while shard.store.cold or shard.store.is_thawing:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await house.settle()
        assert isinstance(device, DecodingRunner)
        for name, tokens in before.items():
            row = house.row(name)
            if device.tokens[row] != tokens or device.state[row] != run_alone(tokens)[-1]:
                problems.append(f"{name} is another after a crash")
    return problems


async def check(seed: int, inline_run_s: float, kind: Kind, *, calls: int) -> None:
    with capture_logs() as logs:
        async with stage(seed, inline_run_s, kind) as play:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: play.problems.append(str(context))
            )
            upkeep = asyncio.create_task(look_after(play)) if kind.durable else None
            await play.run(closes=kind.closes, calls=calls)
            if upkeep is not None:
                upkeep.cancel()
                await asyncio.wait((upkeep,))
                assert upkeep.cancelled(), upkeep.exception()
            await play.check_end()
            table = play.house.served.shards[0].table
            sessions = play.house.engine.directory.sessions.values()
            # One that was closed on its way back is marked as well: its slot is in doubt, and free.
            lost = {session.slot for session in sessions if table.lost[session.slot]}
            if not kind.faults and not play.loaded.issuperset(lost):
                play.problems.append("a session was lost whose state was not touched")
            play.check_told()
            if kind.durable:
                # A fold that the device has failed five times in a row sets its session aside.
                aside = {log["session"] for log in logs if log["event"] == ASIDE}
                if not aside.issuperset(table.number[list(lost)].tolist()):
                    play.problems.append("a session was lost")
                play.problems += await same_after_a_crash(play, kind, lost)
    # Of what the server logs, only the device's faults may be among it, where it has some.
    for log in logs:
        if log["log_level"] == "info" or log.get("reason") == "the process has crashed":
            continue
        if kind.faults and log["event"] == ASIDE:
            continue
        if not (kind.faults and isinstance(log.get("exc_info"), RuntimeError)):
            play.problems.append(str(log))
    assert not play.problems, "\n".join(play.problems[:20])
    assert play.checks > calls // 2, "hardly anything was answered"


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER, BOTH])
@pytest.mark.parametrize("kind", KINDS)
async def test_everything_at_once(kind: str, inline_run_s: float) -> None:
    await check(0, inline_run_s, KINDS[kind], calls=100)


@pytest.mark.long
@pytest.mark.timeout(180 * PLAYS)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER, BOTH])
@pytest.mark.parametrize("kind", MORE_KINDS)
async def test_everything_at_once_from_many_seeds(kind: str, inline_run_s: float) -> None:
    # A play with a store ends with a crash, and a new start.
    seeds = (10 if MORE_KINDS[kind].durable else 30) * PLAYS
    for seed in range(1, seeds + 1):
        await check(seed, inline_run_s, MORE_KINDS[kind], calls=150)
