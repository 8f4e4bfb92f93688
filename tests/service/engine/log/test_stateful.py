"""Lives of sessions in any order, restarts among them, against a plain model."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from service import errors
from service.engine.calls.generate import generate
from service.engine.listing import Wanted
from service.engine.log.recovery import folding
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.service.engine.conftest import Clock
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.wires import Wire, ask
from tests.service.store.fake import FakeStore

T = TypeVar("T")
NAMES = "abcde"
EVERY = Outputs(raw=True, every_step=True)
LAST = Outputs(raw=True)
tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9)


@dataclass
class Plain:
    """What a session has read, and when.

    Attributes:
        used_s: when it was used last.
        known: the server knows that: it forgets how long a session was idle when it crashes.
        first: the earliest position that it can be put back to; ``None`` if it keeps no history.
    """

    branch: int
    timeout_s: float
    used_s: float
    known: bool = True
    tokens: list[int] = field(default_factory=list)
    last: int = 0
    every: bool = False
    first: int | None = None

    def anew(self, branch: int, now_s: float) -> "Plain":
        """It was reset."""
        first = None if self.first is None else 0
        return Plain(branch=branch, timeout_s=self.timeout_s, used_s=now_s, first=first)

    def read(self, own: list[int], *, every: bool, now_s: float) -> None:
        """It has read a request."""
        self.tokens += own
        self.last, self.every = len(own), every
        self.used_s, self.known = now_s, True


class Sessions(RuleBasedStateMachine):
    """Sessions, the processes that serve them one after the other, and the model of both.

    Attributes:
        device: what they run on.
        keeps: how many steps they can be put back by.
    """

    device = DecodingRunner
    keeps = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.store = FakeStore()
        self.plain: dict[str, Plain] = {}
        self.stale: dict[str, int] = {}
        self.serving: AbstractAsyncContextManager[Fakes] | None = None
        # What ends these processes is no session that is folded.
        self.ends = patch.object(folding, "_MOST_ENDS", 1000)
        self.ends.start()

    @initialize(inline_run_s=st.sampled_from([INLINE, WORKER]))
    def start(self, inline_run_s: float) -> None:
        self._start(inline_run_s)

    # -- lives ----------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), timeout_s=st.sampled_from([10.0, 1000.0]))
    def open(self, name: str, timeout_s: float) -> None:
        if name in self.plain:
            with pytest.raises(errors.SessionExistsError):
                self._call(self.house.open, name)
            return
        house = self.house
        asked = {"idle_timeout_s": timeout_s, "history_steps": self.keeps}
        self._call(partial(house.engine.open, house.served, name, **asked))
        info = self._do(self.house.engine.describe(name))
        assert info.position == 0
        self.plain[name] = Plain(
            branch=info.branch,
            timeout_s=timeout_s,
            used_s=self.clock.now_s,
            first=0 if self.keeps else None,
        )

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        name, plain = self._one(data)
        info = self._do(self.house.engine.reset(name, branch=plain.branch))
        assert info.position == 0
        assert info.branch != plain.branch
        self.stale[name] = plain.branch
        self.plain[name] = plain.anew(info.branch, self.clock.now_s)

    @rule(data=st.data())
    def reset_on_a_stream(self, data: st.DataObject) -> None:
        name, plain = self._one(data)

        async def reset() -> int:
            wire = await Wire(self._of(name)).attach(name)
            done = await wire.stream.attachments.reset(np.array([0]))
            wire.stream.end()
            assert not done.refusals
            branch: int = done.branches.item()
            return branch

        branch = self._do(reset())
        assert branch != plain.branch
        self.stale[name] = plain.branch
        self.plain[name] = plain.anew(branch, self.clock.now_s)

    @rule(page_size=st.integers(1, 3))
    def listing(self, page_size: int) -> None:
        """All of them are listed, as they stand; no cold one is brought back for that."""
        found: dict[str, tuple[int, int]] = {}
        token = ""
        while True:
            wanted = Wanted(page_size=page_size)
            page = self._do(self.house.engine.listing.page(wanted, token))
            found |= {info.id: (info.branch, info.position) for info in page.sessions}
            token = page.next
            if not token:
                break
        assert found == {
            name: (plain.branch, len(plain.tokens)) for name, plain in self.plain.items()
        }

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        name, plain = self._one(data)
        assert self._do(self.house.engine.close(name)) == len(plain.tokens)
        self.stale[name] = plain.branch
        del self.plain[name]

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0]))
    def expire(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self._call(self.house.engine.directory.expire)
        for name, plain in list(self.plain.items()):
            is_there = name in self.house.engine.directory.sessions
            idle_s = self.clock.now_s - plain.used_s
            if is_there:
                assert not plain.known or idle_s <= plain.timeout_s + 1.0
            else:
                assert idle_s > plain.timeout_s - 1.0, f"{name} expired"
                del self.plain[name]
                with pytest.raises(errors.SessionExpiredError):
                    self._do(self.house.engine.describe(name))
        assert self.house.engine.log is not None
        self._do(self.house.engine.log.flush())  # that they have ended is said before it is durable

    # -- steps ----------------------------------------------------------------------------

    @rule(data=st.data(), own=tokens, every=st.booleans())
    def step(self, data: st.DataObject, own: list[int], every: bool) -> None:
        name, plain = self._one(data)
        found = self._do(self._step(name, own, every, len(plain.tokens)))
        expected = run_alone(plain.tokens + own)
        assert found == (expected[-len(own) :] if every else expected[-1:])
        plain.read(own, every=every, now_s=self.clock.now_s)

    @rule(data=st.data(), own=tokens)
    def frame(self, data: st.DataObject, own: list[int]) -> None:
        """All sessions of a model read some of the same."""
        del data
        first = next(iter(self.plain), "")

        async def send() -> None:
            house = self._of(first)
            names = [name for name in self.plain if self._of(name) is house]
            for _ in range(200):  # those that are being restored are refused
                wire = await Wire(house).attach(*names)
                share = {channel: own[: 1 + channel % len(own)] for channel in range(len(names))}
                asked = {c: (some, len(self.plain[names[c]].tokens)) for c, some in share.items()}
                rows = wire.frame(asked)
                while any(not row.answers for row in rows):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                wire.stream.end()
                for channel, row in enumerate(rows):
                    plain = self.plain[names[channel]]
                    if row.replies:
                        expected = run_alone(plain.tokens + share[channel])[-1]
                        assert row.reply[:2] == (len(plain.tokens) + len(share[channel]), expected)
                        plain.read(share[channel], every=False, now_s=self.clock.now_s)
                    else:
                        assert isinstance(row.refusal, errors.StoreUnavailableError)
                return

        if self.plain:
            self._do(send())

    @rule(data=st.data(), prompt=tokens, steps=st.integers(1, 30))
    def generate(self, data: st.DataObject, prompt: list[int], steps: int) -> None:
        name, plain = self._one(data)

        async def draw() -> list[int]:
            found: list[int] = []
            async for piece in generate(
                self.house.engine,
                name,
                prompt=self.house.served.reader.tokens(np.array(prompt)),
                max_steps=steps,
                sampling=Sampling(seed=1),
                position=len(plain.tokens),
            ):
                found += piece.tokens
                assert piece.position == len(plain.tokens) + len(prompt) + len(found)
            return found

        drawn = self._do(self._again(draw))
        plain.read(prompt, every=False, now_s=self.clock.now_s)
        for token in drawn:
            assert token == run_alone(plain.tokens)[-1] % VOCABULARY
            plain.read([token], every=False, now_s=self.clock.now_s)
        assert len(drawn) == steps

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The last request comes again, and one in its place."""
        name, plain = self._one(data)
        if plain.last:
            at = len(plain.tokens) - plain.last
            own, expected = plain.tokens[at:], run_alone(plain.tokens)
            found = self._do(self._step(name, own, plain.every, at))
            assert found == (expected[-plain.last :] if plain.every else expected[-1:])
            other = [*own[:-1], (own[-1] + 1) % VOCABULARY]
            with pytest.raises(errors.StepConflictError):
                self._do(self._step(name, other, plain.every, at))

    @rule(data=st.data())
    def late(self, data: st.DataObject) -> None:
        """A step comes from before the session was reset or opened anew."""
        name, _ = self._one(data)
        if name in self.stale:
            late = partial(ask, self.house, name, [1], None, branch=self.stale[name])
            row, _ = self._call(late)
            assert isinstance(row.refusal, errors.StaleBranchError)

    # -- what happens to processes --------------------------------------------------------

    @rule(data=st.data())
    def failed_run(self, data: st.DataObject) -> None:
        """A run fails: whose it was is told so, and nothing is lost."""
        name, plain = self._one(data)
        (device,) = self._of(name).runners
        device.fail_next = True
        row, _ = self._call(ask, self.house, name, [1], len(plain.tokens))
        self._do(self.house.settle())
        self._do(self.house.engine.drain())
        self.house.engine.draining = False
        device.fail_next = False
        if row.replies:  # it was another run that failed, one that brought a session back
            plain.read([1], every=False, now_s=self.clock.now_s)
        else:
            assert isinstance(row.refusal, errors.StoreUnavailableError)
        plain.known = False  # it has read again

    @rule()
    def checkpoint(self) -> None:
        upkeep = self.house.engine._upkeep
        assert upkeep is not None
        self._do(upkeep.look_after())

    @rule(inline_run_s=st.sampled_from([INLINE, WORKER]))
    def restart(self, inline_run_s: float) -> None:
        self._stop()
        self._start(inline_run_s)

    @rule(seed=st.integers(0, 99), inline_run_s=st.sampled_from([INLINE, WORKER]), own=tokens)
    def crash(self, seed: int, inline_run_s: float, own: list[int]) -> None:
        """The process ends while something is asked."""
        name = next(iter(self.plain), None)
        if name is not None:
            row, _ = self._call(ask, self.house, name, own, None)
            self._do(asyncio.sleep(0))
            self._do(asyncio.sleep(0))
        left = self.store.crash(random.Random(seed))
        self._stop()
        self.store = left
        self._start(inline_run_s)
        for plain in self.plain.values():
            plain.known = False
        if name is not None:
            plain, at = self.plain[name], self._do(self.house.engine.describe(name)).position
            assert at in (len(plain.tokens), len(plain.tokens) + len(own))
            if row.replies or at > len(plain.tokens):
                assert at > len(plain.tokens), "it was acknowledged"
                plain.read(own, every=False, now_s=self.clock.now_s)
                plain.known = False

    @invariant()
    def all_stand_where_they_should(self) -> None:
        if self.serving is None:
            return
        sessions = self.house.engine.directory.sessions
        assert sorted(sessions) == sorted(self.plain)
        for name, plain in self.plain.items():
            info = self._do(self.house.engine.describe(name))
            assert (info.branch, info.position) == (plain.branch, len(plain.tokens))
            assert info.history_position == plain.first

    def teardown(self) -> None:
        try:
            if self.serving is not None:
                self._do(self.house.settle())
                for house in (self.house, *self.house.others):
                    assert not leftovers(house.served)
                self._stop()
        finally:
            self.runner.close()
            self.ends.stop()

    # -- inside ---------------------------------------------------------------------------

    def _do(self, what: Any) -> Any:
        return self.runner.run(_within(what))

    def _call(self, call: Callable[..., T], *given: Any) -> T:
        """Call something that wants to be on the event loop."""

        async def called() -> T:
            return call(*given)

        return self.runner.run(called())

    def _of(self, name: str) -> Fakes:
        """The house as the version of a session's model sees it."""
        served = self.house.find(name).served
        houses: list[Fakes] = [self.house, *self.house.others]
        return next(own for own in houses if own.served is served)

    def _one(self, data: st.DataObject) -> tuple[str, Plain]:
        if not self.plain:
            self.open("a", 1000.0)
        return self._drawn(data, sorted(self.plain.items(), key=lambda own: own[0]))

    def _drawn(self, data: st.DataObject, some: list[T]) -> T:
        return data.draw(st.sampled_from(some))

    async def _step(self, name: str, own: list[int], every: bool, position: int) -> list[float]:
        async def read() -> list[float]:
            result = await self.house.engine.step(
                name,
                self.house.served.reader.tokens(np.array(own)),
                outputs=EVERY if every else LAST,
                position=position,
            )
            assert result.answers.raw is not None
            found: list[float] = result.answers.raw[:, 0].tolist()
            return found

        found: list[float] = await self._again(read)
        return found

    async def _again(self, call: Any) -> Any:
        """Ask until the session is restored."""
        while True:
            try:
                return await call()
            except errors.StoreUnavailableError:
                await asyncio.sleep(0.001)

    def _start(self, inline_run_s: float) -> None:
        self.serving = fakes_on(
            self.device,
            store=self.store,
            clock=self.clock,
            inline_run_s=inline_run_s,
            checkpoint_steps=6,
            **self._limits(),
        )
        self.house = self._do(self.serving.__aenter__())

    def _limits(self) -> dict[str, Any]:
        """Settings of the server."""
        return {}

    def _stop(self) -> None:
        assert self.serving is not None
        self._do(self.serving.__aexit__(None, None, None))
        self.serving = None


async def _within(what: Any) -> Any:
    return await asyncio.wait_for(what, 10)


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # to shrink a life takes minutes
TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=8,
    stateful_step_count=30,
    deadline=None,
    phases=PHASES,
    suppress_health_check=SLOW,
)


class LongSessions(Sessions):
    """The same, longer."""


TestLongSessions = pytest.mark.timeout(600)(pytest.mark.long(LongSessions.TestCase))
TestLongSessions.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    phases=PHASES,
    suppress_health_check=SLOW,
)
