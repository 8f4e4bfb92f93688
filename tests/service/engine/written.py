"""Clients that generate, as the servicer writes to them, and how they are broken off."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import numpy as np

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Fakes
from tests.service.engine.wires import ask

SETTLES = ("settled", "settled on its branch")
WAYS = ("cancelled", "deadline", "vanished", *SETTLES)


class Stepping(DecodingRunner):
    """One that draws step by step."""

    can_decode = False


@dataclass(kw_only=True)
class Client:
    """One whose pieces are written as the servicer writes them, each write with some turns.

    Attributes:
        told: the tokens of the pieces that were written.
        vanishes_at: the n-th write fails.
        vanishes_at_end: the last one does.
    """

    house: Fakes
    name: str
    prompt: list[int]
    most: int = 100_000
    write_turns: int = 0
    vanishes_at: int = -1
    vanishes_at_end: bool = False
    told: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    async def read(self) -> None:
        steps = self.house.served.reader.tokens(np.array(self.prompt)) if self.prompt else None
        pieces = generate(
            self.house.engine,
            self.name,
            prompt=steps,
            max_steps=self.most,
            sampling=Sampling(seed=1),
        )
        async with aclosing(pieces):
            async for piece in pieces:
                self.told += piece.tokens
                turn = 0
                while turn < self.write_turns:
                    turn += 1
                    await asyncio.sleep(0)
                ends = self.vanishes_at_end and piece.finish_reason is not None
                if ends or len(self.pieces) == self.vanishes_at:
                    raise ConnectionResetError
                self.pieces.append(piece)

    async def reads_past(self, drawn_from: int) -> None:
        """Wait until a piece was written, and its session has read more."""
        await until(lambda: self.told)
        written = drawn_from + len(self.told)
        await until(lambda: self.house.position(self.name) > written)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def break_off(client: Client, task: "asyncio.Task[None]", way: str) -> list[int]:
    """Break a generation off in the middle; returns what was written of it then."""
    engine, told = client.house.engine, list(client.told)
    if way in SETTLES:
        branch = engine.directory.describe(client.name).branch if way == SETTLES[1] else 0
        with suppress(errors.StaleBranchError):  # it is reset beside, in some tests
            await engine.describe(client.name, settle=True, branch=branch)
        return told
    if way == "vanished":
        client.vanishes_at = len(client.pieces)
        await asyncio.wait([task], timeout=0.02)
    task.cancel()
    with suppress(asyncio.CancelledError, ConnectionResetError, errors.CellarError):
        await task
    return client.told


async def check(house: Fakes, name: str, read: list[int]) -> None:
    """The session stands where it had read just this, and goes on from there."""
    row, _ = ask(house, name, [5], None)
    at, _ = ask(house, name, [6], len(read) + 1)
    await house.settle()
    if house.engine.log is not None:
        await house.engine.log.flush()
    await asyncio.wait_for(until(lambda: row.answers and at.answers), 5)  # when that is durable
    expected = (len(read) + 1, run_alone([*read, 5])[-1], False)
    assert row.replies == [expected], (row, read)
    assert at.reply == (len(read) + 2, run_alone([*read, 5, 6])[-1], False)
    (device,) = house.runners
    assert isinstance(device, DecodingRunner)
    assert device.tokens[house.row(name)] == [*read, 5, 6]
