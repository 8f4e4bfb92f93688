"""Sessions that are copied, put back and evicted besides, in any order with all else."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from service import errors
from service.engine.calls.copies import fork as forking
from service.engine.calls.generate import generate
from service.engine.calls.snapshots import exporting
from service.engine.calls.upgrades import upgrade as upgrades
from service.engine.log.chronicle import ALL
from service.engine.work.columns import Floats, Ints
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, fake_manifest, run_alone
from tests.service.engine.houses import INLINE, WORKER
from tests.service.engine.log.test_stateful import NAMES, Plain, Sessions

T = TypeVar("T")
STATE_BYTES = fake_manifest().session_bytes
COPIES = "vwxyz"


class PaddedRunner(DecodingRunner):
    """One whose predictions are as wide as its model says, and so is what is kept beside a state.

    So a snapshot of it can be read.
    """

    def step(self, **columns: Any) -> Floats:
        """See `FakeRunner.step`."""
        return _padded(super().step(**columns))

    def recall(self, slots: Ints) -> Floats:
        """See `FakeRunner.recall`."""
        return _padded(super().recall(slots))

    def read(self, slots: Ints) -> list[Floats]:
        """See `DecodingRunner.read`."""
        state, number = super().read(slots)
        return [state, _padded(number)]

    def write(self, slots: Ints, rows: Any) -> None:
        """See `DecodingRunner.write`."""
        super().write(slots, [rows[0], rows[1][:, :1]])


def _padded(found: Floats) -> Floats:
    padded: Floats = np.zeros((*found.shape[:-1], VOCABULARY), np.float32)
    padded[..., :1] = found
    return padded


@dataclass(frozen=True)
class Taken:
    """A snapshot, and what its session was then."""

    data: bytes
    plain: Plain


class Lives(Sessions):
    """Sessions on so few rows that they come and go.

    Attributes:
        rows: of the arena.
        host_rows: how many states host memory holds.
    """

    device = PaddedRunner
    keeps = ALL
    rows = 3
    host_rows = 3

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Taken] = []

    # -- copies ---------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(COPIES), back=st.integers(0, 99))
    def fork(self, data: st.DataObject, name: str, back: int) -> None:
        """A new session stands where one stands, or stood."""
        source, plain = self._one(data)
        if name == source:
            return
        self._make_way(name)
        at = None if back % 2 or plain.first is None else self._earlier(plain, back)
        info = self._do(
            self._again(
                lambda: forking.fork(
                    self.house.engine, source, name, position=at, branch=plain.branch
                )
            )
        )
        self._begun(info, plain, len(plain.tokens) if at is None else at, is_whole=at is None)

    @rule(data=st.data(), back=st.integers(0, 99))
    def rewind(self, data: st.DataObject, back: int) -> None:
        name, plain = self._one(data)
        if plain.first is None:
            return
        to = self._earlier(plain, back)
        engine = self.house.engine
        info = self._do(self._again(lambda: engine.rewind(name, to, branch=plain.branch)))
        assert info.position == to
        assert info.branch != plain.branch
        self.stale[name] = plain.branch
        self.plain[name] = replace(
            plain, branch=info.branch, tokens=plain.tokens[:to], last=0, used_s=self.clock.now_s
        )

    @rule(data=st.data())
    def upgrade(self, data: st.DataObject) -> None:
        """It goes on with the other version of its model, if its whole history is kept."""
        name, plain = self._one(data)
        engine = self.house.engine
        version = 3 - self.house.find(name).served.version

        async def upgraded() -> Any:
            return await self._again(
                lambda: upgrades.upgrade(engine, name, version, branch=plain.branch)
            )

        if plain.first != 0:
            with pytest.raises(errors.HistoryMissingError):
                self._do(upgraded())
            return
        info = self._do(upgraded())
        assert (info.version, info.position) == (version, len(plain.tokens))
        assert info.branch != plain.branch
        self.stale[name] = plain.branch
        last = min(len(plain.tokens), 1)  # as if the last one had come by itself
        self.plain[name] = replace(
            plain, branch=info.branch, last=last, every=False, used_s=self.clock.now_s
        )

    @rule(data=st.data())
    def export(self, data: st.DataObject) -> None:
        name, plain = self._one(data)
        taken = self._do(self._again(lambda: exporting.export(self.house.engine, name)))
        assert (taken.info.position, taken.info.branch) == (len(plain.tokens), plain.branch)
        self.taken.append(Taken(taken.data, replace(plain, tokens=list(plain.tokens))))

    @rule(which=st.integers(0, 99), name=st.sampled_from(COPIES))
    def take_in(self, which: int, name: str) -> None:
        """A snapshot becomes a session, maybe in another process than it was taken in."""
        if not self.taken:
            return
        taken = self.taken[which % len(self.taken)]
        self._make_way(name)
        info = self._do(
            self._again(lambda: exporting.import_session(self.house.engine, taken.data, name))
        )
        plain = replace(taken.plain, first=None)
        self._begun(info, plain, len(plain.tokens), is_whole=True)

    @rule(
        data=st.data(),
        prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=5),
        wanted=st.integers(0, 4),
        token=st.integers(0, VOCABULARY - 1),
        back=st.integers(0, 99),
    )
    def leave(
        self, data: st.DataObject, prompt: list[int], wanted: int, token: int, back: int
    ) -> None:
        """A generation is left in the middle, when it may be over, and its session out.

        The session stands where the last piece led, on another branch where it was further. Then
        its client takes some of that back, as if it had not come.
        """
        name, plain = self._one(data)
        if not (plain.tokens or prompt):
            return
        others = [other for other in self.plain if other != name]

        async def some_pieces() -> tuple[list[int], Any]:
            found: list[int] = []
            pieces = generate(
                self.house.engine,
                name,
                prompt=self.house.served.reader.tokens(np.array(prompt, np.int64)),
                max_steps=20,
                sampling=Sampling(seed=1),
                position=len(plain.tokens),
                branch=plain.branch,
            )
            try:
                with suppress(StopAsyncIteration):  # it may be over before
                    for _ in range(1 + wanted):  # the first is what shows that it has begun
                        found += (await anext(pieces)).tokens
                for _ in range(back % 50):
                    await asyncio.sleep(0)
                for other in others:
                    await self._step(other, [token], False, len(self.plain[other].tokens))
                return found, await self.house.engine.describe(
                    name, settle=True, branch=plain.branch
                )
            finally:
                await pieces.aclose()

        drawn, info = self._do(self._again(some_pieces))
        for other in others:
            self.plain[other].read([token], every=False, now_s=self.clock.now_s)
        before = len(plain.tokens) + len(prompt)
        assert info.position == before + len(drawn)
        if info.branch != plain.branch:
            self.stale[name] = plain.branch
            plain.branch = info.branch
        plain.tokens += [*prompt, *drawn]
        plain.last, plain.every, plain.used_s, plain.known = 0, False, self.clock.now_s, True
        for at, token in enumerate(drawn, before):
            assert token == run_alone(plain.tokens[:at])[-1] % VOCABULARY
        if back % 3:
            return
        to = before + back % (len(drawn) + 1)
        engine = self.house.engine
        info = self._do(
            self._again(lambda: engine.rewind(name, to, branch=plain.branch, generated=True))
        )
        assert info.position == to
        self.stale[name] = plain.branch
        plain.branch, plain.tokens = info.branch, plain.tokens[:to]

    # -- tiers ----------------------------------------------------------------------------

    @rule(token=st.integers(0, VOCABULARY - 1))
    def scan(self, token: int) -> None:
        """Each session reads a step, one after the other: each drives others out."""
        for name, plain in self.plain.items():
            found = self._do(self._step(name, [token], every=False, position=len(plain.tokens)))
            assert found == run_alone([*plain.tokens, token])[-1:]
            plain.read([token], every=False, now_s=self.clock.now_s)

    @rule()
    def evict(self) -> None:
        """All that may leave are left to the store: not those that have read nothing, say."""
        upkeep = self.house.engine._upkeep
        assert upkeep is not None
        self._do(self.house.settle())
        for house in (self.house, *self.house.others):
            (shard,) = house.served.shards
            sessions = [self.house.find(name) for name in self.plain]
            own = [session.slot for session in sessions if session.shard is shard]
            slots = np.array(own, np.int64)
            if len(slots) and not shard.table.restoring[slots].any():
                self._do(upkeep.checkpoints.stow(shard, slots))

    # -- inside ---------------------------------------------------------------------------

    def _earlier(self, plain: Plain, back: int) -> int:
        """A position that it can be put back to.

        Not drawn from these: where a session stands after a crash is not in our hands, and what
        hypothesis draws has to be.
        """
        assert plain.first is not None
        return len(plain.tokens) - back % (len(plain.tokens) - plain.first + 1)

    def _make_way(self, name: str) -> None:
        if name in self.plain:
            self.stale[name] = self.plain[name].branch
            self._do(self.house.engine.close(name))
            del self.plain[name]

    def _begun(self, info: Any, source: Plain, at: int, *, is_whole: bool) -> None:
        """There is a new session, which stands where another one stood."""
        assert info.position == at
        assert info.branch not in (source.branch, self.stale.get(info.id))
        # A session that begins at 0 is as one that was opened.
        first = None if source.first is None else at
        self.plain[info.id] = Plain(
            branch=info.branch,
            timeout_s=source.timeout_s,
            used_s=self.clock.now_s,
            tokens=source.tokens[:at],
            last=source.last if is_whole else 0,
            every=source.every,
            first=first,
        )

    def _limits(self) -> dict[str, Any]:
        return {
            "max_sessions": self.rows,
            "host_memory": self.host_rows * STATE_BYTES,
            "max_open_sessions": 40,
            "versions": 2,
        }


class DicedLives(Lives):
    """The same by dice alone, where no life need be made shorter.

    Args:
        dice: what decides.
    """

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice

    def play(self, moments: int) -> None:
        """Live through so many.

        Raises:
            AssertionError, CellarError: something is not as it should be.
        """
        dice, none = self.dice, cast("st.DataObject", None)

        def some() -> list[int]:
            return [dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 9))]

        acts: list[Callable[[], None]] = [
            lambda: self.open(dice.choice(NAMES), 1000.0),
            lambda: self.step(none, some(), dice.random() < 0.5),
            lambda: self.frame(none, some()),
            lambda: self.generate(none, some(), dice.randint(1, 30)),
            lambda: self.leave(
                none, some(), dice.randrange(5), dice.randrange(VOCABULARY), dice.randrange(100)
            ),
            lambda: self.repeat(none),
            lambda: self.reset(none),
            lambda: self.reset_on_a_stream(none),
            lambda: self.late(none),
            lambda: self.close(none),
            lambda: self.fork(none, dice.choice(COPIES), dice.randrange(100)),
            lambda: self.rewind(none, dice.randrange(100)),
            lambda: self.upgrade(none),
            lambda: self.export(none),
            lambda: self.take_in(dice.randrange(100), dice.choice(COPIES)),
            lambda: self.scan(dice.randrange(VOCABULARY)),
            self.evict,
            self.checkpoint,
            lambda: self.failed_run(none),
            lambda: self.restart(dice.choice([INLINE, WORKER])),
            lambda: self.crash(dice.randrange(100), dice.choice([INLINE, WORKER]), some()),
        ]
        try:
            self.start(dice.choice([INLINE, WORKER]))
            for name in NAMES:
                self.open(name, 1000.0)
            for _ in range(moments):
                dice.choice(acts)()
                self.all_stand_where_they_should()
        finally:
            self.teardown()

    def _drawn(self, data: st.DataObject, some: list[T]) -> T:
        return self.dice.choice(some)
