"""Callers who use the client library, as an application does: it repeats what had no answer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, TypeVar

import numpy as np

import cellar
from benchmarks.chaos.callers.calls import StuckError, Subject, World, is_gone, is_stale, passes
from benchmarks.chaos.callers.lives import some_steps
from benchmarks.chaos.oracle.history import (
    DIGEST,
    DRAWN,
    INFERRED,
    REPLAYED,
    UNKNOWN,
    Ask,
    Floats,
    digest,
)
from cellar.errors import CellarError, SessionExistsError

_PAUSE_S = 0.03
_PATIENCE_S = 60.0
_RETRY = cellar.RetryPolicy(attempts=8, first_delay_s=0.05, longest_delay_s=0.5)
_TIMEOUT_S = 5.0
T = TypeVar("T")


class AstrayError(Exception):
    """The session is of no use any more; what is wrong has been noted."""


class _Caller:
    """What both of them do."""

    def __init__(self, world: World, subject: Subject) -> None:
        self._world, self._history, self._subject = world, world.history, subject

    async def run(self) -> None:
        """Go on until it is time to stop."""
        while not self._world.stopping.is_set():
            async with cellar.aio.connect(
                self._world.address, retry=_RETRY, timeout_s=_TIMEOUT_S
            ) as client:
                for _ in range(self._world.chance.randint(1, 5)):
                    if not self._world.stopping.is_set():
                        await self._live_once(client)

    async def _live_once(self, client: cellar.aio.Client) -> None:
        try:
            await self._live(client)
        except AstrayError:
            pass
        except CellarError as error:
            self._history.note("different", f"the library was refused: {error}")

    async def _live(self, client: cellar.aio.Client) -> None:
        """One session, or some, from the first word to the last."""
        raise NotImplementedError

    async def _repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        """The same request until it is answered.

        Raises:
            CellarError: it was refused.
            StuckError: nobody answers.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE_S
        while True:
            try:
                return await request()
            except CellarError as error:
                self._history.refusals[error.reason or error.code] += 1
                if not passes(error):
                    raise
                if loop.time() > end:
                    raise StuckError(f"the library was not answered: {error}") from error
                self._history.faults["retry"] += 1
                await asyncio.sleep(0.1)

    def _leave(self, era: int) -> None:
        self._history.end(era)
        self._history.current.pop(self._history.eras[era].session, None)

    def _inputs(self, steps: Floats) -> list[int] | list[float]:
        """As an application gives them."""
        return [int(step) for step in steps] if self._subject.tokens else steps.tolist()


class LibraryCaller(_Caller):
    """One session after another, with steps, chunks, generations, forecasts, resets."""

    _HISTORY: int | Literal["all"] | None = None

    async def _live(self, client: cellar.aio.Client) -> None:
        chance = self._world.chance
        session = await self._repeat(self._opening(client))
        era = self._history.begin(session.id, self._subject.name, branch=_branch(session))
        if session.position:
            self._history.note("doubled", f"{session.id} was opened, and is at {session.position}")
            raise AstrayError
        for _ in range(chance.randint(20, 200)):
            if self._world.stopping.is_set():
                return
            dice = chance.random()
            try:
                if dice < 0.75:
                    count = 1 if dice < 0.5 else chance.randint(2, 30)
                    await self._step(session, era, count, every_step=dice > 0.6)
                elif dice < 0.85:
                    await self._refresh(session, era)
                elif dice < 0.95:
                    await self._generate(session, era)
                elif dice < 0.97:
                    era = await self._reset(session, era)
                else:
                    era = await self._other(client, session, era)
            except CellarError as error:
                await self._astray(session, era, error)
            await asyncio.sleep(_PAUSE_S * chance.random())
        await self._repeat(session.close)
        self._leave(era)

    def _opening(self, client: cellar.aio.Client) -> Callable[[], Awaitable[cellar.aio.Session]]:
        async def opening() -> cellar.aio.Session:
            return await client.session(
                self._subject.name,
                id=self._world.new_id("library"),
                history_steps=self._HISTORY,
            )

        return opening

    async def _step(
        self, session: cellar.aio.Session, era: int, count: int, *, every_step: bool
    ) -> None:
        steps, start = some_steps(self._world, self._subject, count), session.position
        sent = self._history.send(era, start + count)
        inputs = self._inputs(steps)
        if every_step:
            found = await self._repeat(lambda: session.steps(inputs, raw=True))
            raw, replayed = found.raw, bool(found.replayed[0])
        else:
            last = await self._repeat(lambda: session.step(inputs, raw=True))
            raw, replayed = last.raw, last.replayed
        assert raw is not None, "it was asked for"
        flags = np.full(count, REPLAYED if replayed else 0, np.uint8)
        flags[0 if every_step else -1 :] |= DIGEST
        digests = np.zeros(count, np.uint64)
        digests[0 if every_step else -1 :] = digest(np.atleast_2d(raw))
        if session.position != start + count:
            self._history.note("different", f"{session.id} is at {session.position} after a step")
            raise AstrayError
        self._history.tell_steps(
            era, start + np.arange(count), steps, flags=flags, digests=digests, sent=sent
        )

    async def _refresh(self, session: cellar.aio.Session, era: int) -> None:
        ask = self._history.ask(era)
        await self._repeat(session.refresh)
        self._check(session, era, ask)

    def _check(self, session: cellar.aio.Session, era: int, ask: Ask) -> None:
        if not self._history.tell(ask, session.position):
            self._leave(era)
            raise AstrayError

    async def _generate(self, session: cellar.aio.Session, era: int) -> None:
        """A prompt and what follows it, left in the middle now and then."""
        chance, start = self._world.chance, session.position
        prompt = some_steps(self._world, self._subject, chance.randint(1, 4))
        seed, most = chance.getrandbits(32), chance.randint(1, 40)
        left = chance.randint(1, 8) if chance.random() < 0.3 else most + 1
        sent = self._history.send(era, start + len(prompt) + most)
        generation = session.generate(self._inputs(prompt), max_steps=most, seed=seed)
        at = start

        def tell(inputs: Floats, flags: int) -> None:
            nonlocal at
            positions = at + np.arange(len(inputs))
            self._history.tell_steps(era, positions, inputs, flags=flags, sent=sent, seed=seed)
            at += len(inputs)

        try:
            async for piece in generation:
                if at == start:
                    tell(prompt, 0)
                drawn = piece.tokens if self._subject.tokens else piece.values
                tell(np.array(drawn, np.float32), DRAWN)
                left -= 1
                if not left:
                    break
        except CellarError:
            self._history.faults["broken generation"] += 1
        with suppress(CellarError):
            await generation.close()
        ask = self._history.ask(era)
        await self._repeat(session.refresh)
        self._check(session, era, ask)
        if session.position >= at:
            # What it had read beyond what was written is taken back, on another branch.
            self._history.eras[era].branch = _branch(session)
        if session.position == start:  # the request may still be on its way
            self._leave(era)
            raise AstrayError
        if at == start:
            tell(prompt, INFERRED)
        if session.position > at:
            tell(np.zeros(session.position - at, np.float32), DRAWN | UNKNOWN | INFERRED)

    async def _other(self, client: cellar.aio.Client, session: cellar.aio.Session, era: int) -> int:
        """Whatever else there is to do with it; returns the era that it is in then."""
        del client, session
        return era

    async def _reset(self, session: cellar.aio.Session, era: int) -> int:
        retries = self._history.faults["retry"]
        await self._repeat(session.reset)
        self._history.end(era)
        self._history.faults["reset"] += 1
        if self._history.faults["retry"] > retries:  # another one may still be on its way
            self._leave(era)
            raise AstrayError
        return self._history.begin(session.id, self._subject.name, branch=_branch(session))

    async def _astray(self, session: cellar.aio.Session, era: int, error: CellarError) -> None:
        """A request was refused: that must not happen, unless a tail may be lost."""
        if is_gone(error) or is_stale(error):  # a tail is played again by the library
            self._history.note("lost", f"{session.id} is gone: {error}")
        else:
            ask = self._history.ask(era)
            await self._repeat(session.refresh)
            if self._history.tell(ask, session.position):
                self._history.note("different", f"{session.id} was refused: {error}")
        self._leave(era)
        raise AstrayError


class CopyingCaller(LibraryCaller):
    """The same, whose sessions are also rewound, forked, exported and imported."""

    _HISTORY: int | Literal["all"] | None = "all"

    async def _other(self, client: cellar.aio.Client, session: cellar.aio.Session, era: int) -> int:
        """Returns the era that the session is in then."""
        dice = self._world.chance.random()
        if dice < 0.4:
            return await self._rewind(session, era)
        if dice < 0.7:
            await self._fork(session, era)
        else:
            await self._carry(client, session, era)
        return era

    async def _rewind(self, session: cellar.aio.Session, era: int) -> int:
        to = self._world.chance.randint(0, session.position)
        retries = self._history.faults["retry"]
        branch = _branch(session)
        await self._repeat(lambda: session.rewind(position=to))
        self._history.end(era)
        self._history.faults["rewind"] += 1
        if self._history.faults["retry"] > retries:  # another one may still be on its way
            self._leave(era)
            raise AstrayError
        if session.position != to or _branch(session) == branch:
            self._history.note("different", f"{session.id} is at {session.position}, not {to}")
        return self._history.branch_off(era, session.id, to, branch=_branch(session))

    async def _fork(self, session: cellar.aio.Session, era: int) -> None:
        """Another session begins where this one stands, and reads on; this one stays."""
        at = session.position
        new = self._world.new_id("fork")
        other = await self._copied(lambda: _awaited(session.fork(id=new)))
        if other is None:
            return
        self._history.faults["fork"] += 1
        await self._read_on(other, era, at)

    async def _carry(
        self, client: cellar.aio.Client, session: cellar.aio.Session, era: int
    ) -> None:
        """A snapshot of it becomes another session."""
        at = session.position
        data = await self._repeat(session.export)
        new = self._world.new_id("import")
        other = await self._copied(lambda: _awaited(client.import_session(data, id=new)))
        if other is None:
            return
        self._history.faults["import"] += 1
        await self._read_on(other, era, at)

    async def _copied(
        self, request: Callable[[], Awaitable[cellar.aio.Session]]
    ) -> cellar.aio.Session | None:
        """A copy; ``None`` where an earlier try made it, of which nobody was told."""
        try:
            return await self._repeat(request)
        except SessionExistsError:  # nobody else has ids like these
            return None

    async def _read_on(self, other: cellar.aio.Session, parent: int, at: int) -> None:
        if other.position != at:
            self._history.note("different", f"{other.id} is at {other.position}, not {at}")
            return
        era = self._history.branch_off(parent, other.id, at, branch=_branch(other))
        for _ in range(self._world.chance.randint(1, 8)):
            await self._step(other, era, self._world.chance.randint(1, 5), every_step=False)
        await self._repeat(other.close)
        self._leave(era)


class LibraryStreamCaller(_Caller):
    """Frames of some sessions by the library's stream.

    Args:
        rows: how many sessions.
    """

    def __init__(self, world: World, subject: Subject, *, rows: int) -> None:
        super().__init__(world, subject)
        self._rows = rows

    async def _live(self, client: cellar.aio.Client) -> None:
        chance = self._world.chance
        stream = await self._repeat(lambda: _opened(client, self._subject.name))
        try:
            try:
                channels = await stream.open(self._rows, timeout_s=_PATIENCE_S)
            except CellarError:
                return  # some are open, and nobody knows them
            ids = [stream.session_id(channel) for channel in channels.tolist()]
            eras = [self._history.begin(each, self._subject.name) for each in ids]
            for each in ids:  # on which branch they are, the library keeps to itself
                self._history.current.pop(each, None)
            for _ in range(chance.randint(20, 300)):
                if self._world.stopping.is_set():
                    break
                try:
                    await self._frame(stream, channels, np.array(eras))
                except CellarError as error:
                    self._history.note("different", f"{ids[0]}…: a frame was refused: {error}")
                    break
                await asyncio.sleep(_PAUSE_S * chance.random())
            with suppress(CellarError):
                await stream.detach(channels, close=True)
        finally:
            await stream.close()

    async def _frame(
        self,
        stream: cellar.aio.Stream,
        channels: np.ndarray[tuple[int], np.dtype[np.int64]],
        eras: np.ndarray[tuple[int], np.dtype[np.int64]],
    ) -> None:
        positions = stream.positions(channels)
        asks = {
            channel: self._history.ask(era, "a refused row")
            for channel, era in zip(channels.tolist(), eras.tolist(), strict=True)
        }
        steps = some_steps(self._world, self._subject, len(channels))
        sent = self._history.send(eras, positions + 1)
        inputs = self._inputs(steps)
        reply = await self._repeat(lambda: stream.step(channels, inputs, strict=False))
        at = np.searchsorted(channels, reply.channels)
        raw = reply.predictions.raw
        if len(at):
            assert raw is not None, "it was asked for"
            elsewhere = np.flatnonzero(reply.positions != positions[at] + 1)
            if len(elsewhere):
                row = int(elsewhere[0])
                words = f"{stream.session_id(int(reply.channels[row]))} is at "
                words += f"{reply.positions[row]} after a step at {positions[at][row]}"
                self._history.note("different", f"{words}, and {len(elsewhere) - 1} others")
                raise AstrayError
            flags = np.where(reply.predictions.replayed, DIGEST | REPLAYED, DIGEST)
            self._history.tell_steps(
                eras[at],
                positions[at],
                steps[at],
                flags=flags.astype(np.uint8),
                digests=digest(raw),
                sent=sent,
            )
        for failure in reply.failures:
            if is_gone(failure.error) or is_stale(failure.error):  # the library plays tails again
                self._history.note("lost", f"{failure.session_id} is gone: {failure.error}")
            elif failure.error.position is not None:
                self._history.tell(asks[failure.channel], failure.error.position)
        if reply.failures:  # busy, or behind a row that was: begin with others
            self._history.refusals[reply.failures[0].error.reason] += 1
            raise AstrayError


def _branch(session: cellar.aio.Session) -> int:
    return int(getattr(session, "branch", 0))


async def _awaited(opening: Awaitable[T]) -> T:
    return await opening


async def _opened(client: cellar.aio.Client, model: str) -> cellar.aio.Stream:
    return await client.stream(model, raw=True)


__all__ = ["CopyingCaller", "LibraryCaller", "LibraryStreamCaller"]
