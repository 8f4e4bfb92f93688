"""What one caller does with the server, from its first word to its last."""

import asyncio
import random
import string
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress

import numpy as np

import cellar
from benchmarks.fuzz.messages.names import LABELS, LETTERS, NAMES, PRICES

Life = Callable[[cellar.aio.Client, random.Random], Awaitable[None]]
_SYMBOLS = string.ascii_lowercase + " "
_KNOWN = "the same text again and again"
_alone: list[bytes] = []


class OtherNumbersError(Exception):
    """Steps that were answered before are answered otherwise now."""


async def steps(client: cellar.aio.Client, chance: random.Random) -> None:
    """Single steps, of which the first are known: what they predict must not change."""
    session = await client.session(LETTERS, idle_timeout_s=_idle_s(chance))
    for number, symbol in enumerate(_KNOWN):
        found = (await session.step(symbol, raw=True)).raw
        assert found is not None
        if number == len(_alone):
            _alone.append(found.tobytes())
        if _alone[number] != found.tobytes():
            raise OtherNumbersError(f"at step {number}")
    for _ in range(chance.randrange(20)):
        await session.step(chance.choice(_SYMBOLS), top_k=3)
    await _close_or_leave(session, chance)


async def prices(client: cellar.aio.Client, chance: random.Random) -> None:
    """Steps of a series, and forecasts from it."""
    session = await client.session(PRICES, idle_timeout_s=_idle_s(chance))
    await session.feed([100.0 + chance.random() for _ in range(20)])
    for _ in range(3):
        await session.forecast(chance.randint(1, 30), paths=chance.choice((2, 20, 64)))
        await session.step(100.0 + chance.random())
    await _close_or_leave(session, chance)


async def chunks(client: cellar.aio.Client, chance: random.Random) -> None:
    """Long requests, cut into pieces by the server."""
    session = await client.session(LABELS, idle_timeout_s=_idle_s(chance))
    for _ in range(3):
        await session.step(_text(chance, 400))
    await session.steps(_text(chance, 200))
    await _close_or_leave(session, chance)


async def frames(client: cellar.aio.Client, chance: random.Random) -> None:
    """A stream with frames of many sessions, one of which is refused now and then."""
    async with client.stream(LETTERS, top_k=2) as stream:
        channels = await stream.open(chance.choice((1, 4, 32)))
        for _ in range(chance.randint(1, 30)):
            rows = [chance.choice(_SYMBOLS) for _ in channels]
            if chance.random() < 0.05:
                rows[0] = "É"
            try:
                await stream.step(channels, rows)
            except cellar.RowsRefusedError:
                return
        if chance.random() < 0.5:
            await stream.detach(channels, close=chance.random() < 0.5)


async def generations(client: cellar.aio.Client, chance: random.Random) -> None:
    """Generations: some read to their end, some left."""
    session = await client.session(LETTERS, idle_timeout_s=_idle_s(chance))
    most = chance.choice((1, 30, 200))
    async with aclosing(_pieces(session, most, chance)) as pieces:
        async for _ in pieces:
            if chance.random() < 0.02:
                break
    await _close_or_leave(session, chance)


async def _pieces(session: cellar.aio.Session, most: int, chance: random.Random):  # type: ignore[no-untyped-def]
    generation = session.generate("hello", max_steps=most, seed=chance.randrange(2**32))
    try:
        async for piece in generation:
            yield piece
    finally:
        await generation.close()


async def predictions(client: cellar.aio.Client, chance: random.Random) -> None:
    """Whole sequences."""
    for _ in range(3):
        model = chance.choice([name for name in NAMES if name != PRICES])
        await client.predict(model, [_text(chance, chance.randint(1, 60)) for _ in range(8)])


async def cancelled(client: cellar.aio.Client, chance: random.Random) -> None:
    """Any of the others, ended in the middle."""
    life = asyncio.ensure_future(
        chance.choice((steps, chunks, frames, generations))(client, chance)
    )
    await asyncio.wait((life,), timeout=chance.random() * 0.1)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)


async def deadlines(client: cellar.aio.Client, chance: random.Random) -> None:
    """Steps that have hardly time."""
    session = await client.session(LETTERS, idle_timeout_s=_idle_s(chance))
    for _ in range(5):
        try:
            await session.step(_text(chance, 300), timeout_s=chance.choice((0.0005, 0.002, 0.01)))
        except (cellar.DeadlineExceededError, cellar.ConnectionLostError):
            await session.refresh()


async def refusals(client: cellar.aio.Client, chance: random.Random) -> None:
    """What is refused, and must leave nothing behind."""
    session = await client.session(LETTERS, idle_timeout_s=_idle_s(chance))
    for inputs in ("É", [27], [-1], "z" * 3000):
        try:
            await session.step(inputs)
        except cellar.BadInputError:
            continue
        raise AssertionError(f"{inputs[:3]!r} was taken")
    with suppress(cellar.SessionUnknownError):
        await client.attach("nobody")
    await session.close()


def _text(chance: random.Random, length: int) -> str:
    return "".join(np.array(list(_SYMBOLS))[np.array(chance.choices(range(27), k=length))])


def _idle_s(chance: random.Random) -> float:
    return chance.choice((2.0, 4.0, 8.0))


async def _close_or_leave(session: cellar.aio.Session, chance: random.Random) -> None:
    """Sessions that are left expire."""
    if chance.random() < 0.6:
        await session.close()


LIVES: Mapping[str, Life] = {
    each.__name__: each
    for each in (
        steps, prices, chunks, frames, generations, predictions, cancelled, deadlines, refusals,
    )
}  # fmt: skip

__all__ = ["LIVES", "Life", "OtherNumbersError"]
