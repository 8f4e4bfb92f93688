"""An engine that is given snapshots that were changed: each is refused, or is a session."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from service import errors
from service.engine.calls.moves import export_to_move
from service.engine.calls.snapshots.exporting import export, import_session
from service.engine.listing import Wanted
from service.engine.work.columns import Outputs
from tests.recurrent import Case, char_case, series_case
from tests.service.engine.calls.snapshots.mutations import mutated
from tests.service.engine.houses import Reals, leftovers, reals

MOVES = "moves"
KEY = b"a key that has thirty-two bytes!"
REFUSALS = (errors.SnapshotInvalidError, errors.StateMismatchError, errors.BadInputError)


@dataclass
class Found:
    """What became of the snapshots.

    Attributes:
        refused: how often for which reason.
        told: the messages of refusals.
        imported: how many became sessions.
        wrong: what went wrong, a line each.
    """

    refused: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    imported: int = 0
    wrong: list[str] = field(default_factory=list)


def cases() -> tuple[Case, ...]:
    """One without a resident prediction, and one that has it."""
    return char_case(layers=2), series_case("gru")


async def read(house: Reals, name: str, count: int, *, every_step: bool = False) -> None:
    """Let a session read so many steps."""
    reader = house.served.reader
    if reader.has_tokens:
        steps = reader.tokens(np.arange(count) % 5)
    else:
        steps = reader.values(np.linspace(100, 110, count, dtype=np.float32)[:, None])
    outputs = Outputs(raw=True, every_step=every_step)
    await house.engine.step(name, steps, outputs=outputs)


def use(house: Reals, key: bytes | None) -> None:
    """Let it sign with a key, and take what is signed with that alone."""
    house.engine.snapshot_key = lambda: key


@asynccontextmanager
async def playing(case: Case) -> AsyncIterator[tuple[Reals, list[bytes]]]:
    """A house, and snapshots of its sessions: of one step, of several, of none, of one that moves.

    They are without a key, and then with one.
    """
    async with reals(case, max_sessions=8, spare_slots=16, max_paths=8, default_paths=4) as house:
        found = []
        for key in (None, KEY):
            use(house, key)
            for name, counts in (("one", [1]), ("every", [3, 4]), ("new", []), (MOVES, [2])):
                house.engine.open(house.served, name)
                for count in counts:
                    await read(house, name, count, every_step=name == "every")
                if name == MOVES:  # nobody has the receipt
                    found.append((await export_to_move(house.engine, name, "there"))[0].data)
                else:
                    found.append((await export(house.engine, name)).data)
                await house.engine.close(name)
        yield house, found


async def play(
    house: Reals, snapshots: list[bytes], *, seed: str, count: int, found: Found
) -> None:
    """Give it so many."""
    for case in range(count):
        dice = random.Random(f"{seed}:{case}")
        which = dice.randrange(len(snapshots))
        is_signed = which >= len(snapshots) // 2
        knows_key = KEY if is_signed and dice.random() < 0.7 else None
        data = mutated(snapshots[which], dice, knows_key)
        if dice.random() < 0.3:
            with suppress(Exception):  # what is damaged cannot be changed with care
                data = mutated(data, dice, knows_key)
        use(house, KEY if is_signed else None)
        place = f"{seed}:{case}"
        try:
            await _tried(house, data, found)
            if is_signed and knows_key is None and data not in snapshots:
                found.wrong.append(f"{place}: imported, and nobody with the key has made it")
        except REFUSALS as refused:
            found.refused[refused.reason] += 1
            found.told[str(refused)[:60]] += 1
            if "\n" in str(refused) or len(str(refused)) > 1000:
                found.wrong.append(f"{place}: no line to be read: {str(refused)[:100]!r}")
        except Exception as fault:
            found.wrong.append(f"{place}: {type(fault).__name__}: {str(fault)[:200]}")
        if house.served.usage.sessions or (case % 100 == 0 and leftovers(house.served)):
            found.wrong.append(f"{place}: something is left: {leftovers(house.served)}")
            for name in list(house.engine.directory.sessions):
                await house.engine.close(name)


async def _tried(house: Reals, data: bytes, found: Found) -> None:
    info = await import_session(house.engine, data)
    try:
        await read(house, info.id, 2)
        after = house.engine.directory.describe(info.id)
        assert after.position == info.position + 2, "it does not step"
        assert info.position <= 2**53, "it is too far"
        page = await house.engine.listing.page(Wanted(), "")
        assert [own.id for own in page.sessions] == [info.id], "it is not listed"
    finally:
        await house.engine.close(info.id)
    found.imported += 1
