"""Clients of all kinds, each of which writes to sessions of its own."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.crash.answers import Answers
from benchmarks.crash.past import (
    UNKNOWN,
    Close,
    Draws,
    Open,
    Past,
    Reset,
    Steps,
)
from benchmarks.crash.wire import Wire
from service.engine.calls.generate import generate
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.stepping import StepCall, StepResult
from service.engine.work.columns import SAMPLE, Ints
from service.engine.work.sampling import Draws as Drawn
from service.engine.work.sampling import Sampling
from service.engine.work.work import Fork
from service.errors import CellarError
from tests.service.engine.fakes import VOCABULARY

LONGEST = 60  # steps of a session; then it is reset or closed


class Clients(Answers):
    """The clients of one process."""

    async def write(self, pasts: Sequence[Past], calls: int) -> None:
        """Ask so many things of some sessions; nobody else writes to them."""
        for past in pasts:
            await self._meet(past)
        for _ in range(calls):
            past = self.dice.choice(pasts)
            if past.in_doubt:
                await self._meet(past)
            await self._something(past, pasts)
            for _ in range(self.dice.choice([0, 0, 0, 1, 3])):
                await asyncio.sleep(0)

    async def read(self, pasts: Sequence[Past]) -> None:
        """Ask where any session stands, again and again."""
        while True:
            past = self.dice.choice(pasts)
            await asyncio.sleep(0)
            asked = past.now
            if not asked.is_open or past.in_doubt:
                continue
            try:
                info = await self.engine.describe(past.name)
            except CellarError:
                continue
            self.counts["reads"] += 1
            with self._noting():
                past.check_told(asked, branch=info.branch, position=info.position)

    # -- what is asked ---------------------------------------------------------------------

    async def _something(self, past: Past, pasts: Sequence[Past]) -> None:
        if not past.now.is_open:
            await self._open(past)
            return
        what = self.dice.random()
        if past.position > LONGEST or what < 0.06:
            await (self._close(past) if self.dice.random() < 0.4 else self._reset(past))
        elif what < 0.34:
            await self._steps(past)
        elif what < 0.6:
            await self._frames([own for own in pasts if own.now.is_open and not own.in_doubt])
        elif what < 0.74:
            await self._generate(past)
        elif what < 0.84:
            await self._again(past)
        elif what < 0.9:
            await self._stale(past)
        elif what < 0.95:
            await self._forecast(past)
        else:
            await self._peek(past)

    async def _open(self, past: Past) -> None:
        op = Open()
        past.send(op)
        try:
            self.house.open(past.name)
        except CellarError as error:
            self._refused(past, op, error)
            return
        info = await self.engine.describe(past.name)
        self._happened(past, op, branch=info.branch)

    async def _reset(self, past: Past) -> None:
        op = Reset()
        past.send(op)
        claimed = self.dice.choice([0, past.now.branch])
        try:
            info = await self.engine.reset(past.name, branch=claimed)
        except CellarError as error:
            self._refused(past, op, error)
            return
        self._check(info.position == 0, "different", f"{past.name}: reset, at {info.position}")
        self._happened(past, op, branch=info.branch)

    async def _close(self, past: Past) -> None:
        op, stands = Close(), len(past.now.tokens)
        past.send(op)
        try:
            position = await self.engine.close(past.name)
        except CellarError as error:
            self._refused(past, op, error)
            return
        self._check(
            position == stands, "different", f"{past.name}: closed at {position}, not {stands}"
        )
        self._happened(past, op)

    async def _steps(self, past: Past) -> None:
        """Requests of their own, some behind each other."""
        calls: list[StepCall] = []
        for _ in range(self.dice.choice([1, 1, 2, 3])):
            tokens = self._tokens(self.dice.choice([1, 1, 2, 3, 9]))
            op = Steps(tokens=tokens, every=len(tokens) > 1 and self.dice.random() < 0.5)
            position = self.dice.choice([None, past.position])
            past.send(op)
            try:
                call = self._step(
                    past, op, position=position, branch=self.dice.choice([0, past.now.branch])
                )
            except CellarError as error:
                self._refused(past, op, error)
                continue
            call.done.add_done_callback(partial(self._done, past, op))
            calls.append(call)
        await asyncio.gather(*[call.done for call in calls], return_exceptions=True)

    async def _frames(self, pasts: Sequence[Past]) -> None:
        if not pasts:
            return
        pasts = self.dice.sample(pasts, self.dice.randint(1, len(pasts)))
        wire = Wire(self.house, pasts, answered=self._answered, refused=self._refused)
        try:
            with suppress(CellarError):
                attached = await wire.attach()
                for past, (position, branch) in zip(pasts, attached, strict=True):
                    self._told(past, position, branch)
                for _ in range(self.dice.randint(1, 4)):
                    chosen = self.dice.sample(range(len(pasts)), self.dice.randint(1, len(pasts)))
                    most = self.dice.choice([1, 1, 6])
                    asked = {
                        channel: Steps(tokens=self._tokens(self.dice.randint(1, most)))
                        for channel in chosen
                    }
                    wire.frame(asked, positions=self.dice.random() < 0.5)
                    await asyncio.sleep(0)
                await wire.all_answered()
        finally:
            wire.stream.end()
        for past in pasts:
            if past.sent:
                await self._meet(past)

    async def _generate(self, past: Past) -> None:
        dice = self.dice
        prompt = self._tokens(dice.choice([0, 1, 1, 4]) if past.now.tokens else 1)
        op = Draws(prompt=prompt, most=dice.choice([1, 2, 5, 30]))
        leaves_after = dice.choice([0, 0, 1, 2])
        past.send(op)
        ways = list(op.ways(past.now))
        first = len(past.now.tokens) + len(prompt)
        call = generate(
            self.engine,
            past.name,
            prompt=self.house.served.reader.tokens(np.array(prompt)) if prompt else None,
            max_steps=op.most,
            sampling=Sampling(seed=1),
        )
        drawn: tuple[int, ...] = ()
        expected = ways[-1].tokens[first:]
        pieces = written = 0
        try:
            async for piece in call:
                pieces += 1
                drawn += piece.tokens
                at = first + len(drawn)
                self._check(
                    piece.position == at and drawn == expected[: len(drawn)],
                    "different",
                    f"{past.name}: drew {drawn} up to {piece.position}, not {expected} to {at}",
                )
                written = piece.position
                past.told = past.now.branch, written
                self.counts["acknowledged"] += len(piece.tokens)
                if pieces == leaves_after:
                    break
            else:
                self._happened(past, op)
                return
        except CellarError as error:
            self.counts[f"refused {error.reason}"] += 1
        finally:
            await call.aclose()
        await self._meet(past, settle=True)
        at = len(past.now.tokens)
        self._check(at >= written, "lost", f"{past.name}: at {at}, {written} was written")
        self._check(
            self.has_faults
            or not leaves_after
            or pieces != leaves_after
            or at == (written or first),
            "doubled",
            f"{past.name}: at {at}, {written} was written",
        )

    async def _again(self, past: Past) -> None:
        """The last request is sent again, or another one in its place."""
        state = past.now
        if not state.last:
            return
        position = len(state.tokens) - state.last
        tokens = state.tokens[position:]
        is_other = self.dice.random() < 0.2
        if is_other:
            tokens = (*tokens[:-1], (tokens[-1] + 1) % VOCABULARY)
        op = Steps(tokens=tokens, every=state.every)
        result = await self._ask(
            past, op, position=position, branch=state.branch, is_known=not is_other
        )
        if is_other:
            self._check(result is None, "doubled", f"{past.name}: a conflict was applied")
        elif isinstance(result, StepResult):
            self.counts["replays"] += 1
            found = self._values(result)
            self._check(
                result.replayed and found == state.last_values(),
                "different",
                f"{past.name}: the last reply was {state.last_values()}, and is {found} again",
            )
            self._check_device(past)

    async def _stale(self, past: Past) -> None:
        """A step comes late, from before the session was reset or opened anew."""
        if past.stale == UNKNOWN:
            return
        op = Steps(tokens=self._tokens(1))
        position = self.dice.choice([None, past.position])
        result = await self._ask(past, op, position=position, branch=past.stale)
        self.counts["stale"] += 1
        self._check(result is None, "doubled", f"{past.name}: a step of another branch was applied")

    async def _peek(self, past: Past) -> None:
        """What would be answered."""
        tokens = self._tokens(self.dice.choice([1, 3]))
        op = Steps(tokens=tokens, every=len(tokens) > 1)
        result = await self._ask(past, op, position=past.position, commit=False)
        if result is not None:
            found, expected = self._values(result), past.now.values(tokens, every=op.every)
            self._check(found == expected, "different", f"{past.name}: {found} is not {expected}")

    async def _forecast(self, past: Past) -> None:
        """Copies of a session draw on, and the session stays."""
        if not past.now.tokens:
            return
        paths, steps = self.dice.randint(2, 5), self.dice.choice([1, 5])
        shard, slot = self.house.find(past.name).shard, self.house.find(past.name).slot
        expected = _drawn(past, steps)
        call, rows = _Paths(paths), np.empty(0, np.int64)
        fork = Fork(
            slots=np.array([slot]),
            expected=np.array([past.position]),
            row_cost=paths,
            outputs=SAMPLE,
            draws=Drawn.repeated(Sampling(), paths),
        )
        try:
            (forked,) = await shard.perform(fork)
            assert forked.answers is not None
            assert fork.draws is not None
            rows = shard.feedback.start(
                call,
                slots=fork.spares,
                position=past.position,
                first=forked.answers.columns[shard.feedback.drawn],
                draws=fork.draws,
                steps=steps,
            )
            await call.done.wait()
        except CellarError as error:
            self.counts[f"refused {error.reason}"] += 1
            return
        finally:
            shard.feedback.cancel(call, rows)
            shard.slots.return_spares(fork)
        if call.error is None:
            self.counts["forecasts"] += 1
            self._check(
                call.read == [expected] * paths, "different", f"{past.name}: paths {call.read}"
            )

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.dice.randrange(VOCABULARY) for _ in range(count))


class _Paths(FeedbackCall):
    """What copies of a session read, (paths, steps)."""

    def __init__(self, paths: int) -> None:
        self.read: list[list[int]] = [[] for _ in range(paths)]
        self.done = asyncio.Event()
        self._going_on = paths

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        """See `FeedbackCall.put`."""
        del position, reason
        for row, own in zip(rows.tolist(), steps.tolist(), strict=True):
            self.read[row] += own

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        """See `FeedbackCall.end`."""
        del draws
        self._going_on -= len(rows)
        if not self._going_on or self.error is not None:
            self.done.set()


def _drawn(past: Past, steps: int) -> list[int]:
    *_, last = Draws(prompt=(), most=steps).ways(past.now)
    return list(last.tokens[len(past.now.tokens) :])
