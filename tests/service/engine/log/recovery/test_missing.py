"""Groups of a real journal are missing: no session goes back without a word."""

import random
from pathlib import Path

import pytest

from service.engine.sessions.table.status import SessionStatus
from service.store.embedded import LmdbStore
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import fakes_on
from tests.service.engine.log.recovery.test_damage import entries, read, statuses, written


def on_a_disk(path: Path, groups: dict[int, bytes], rows: dict[bytes, bytes]) -> LmdbStore:
    """The same, in files."""
    store = LmdbStore.open(path, ballast=0)
    for number, group in groups.items():
        store.append(number, group)
    store.write(rows)
    return store


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_missing_is_lost_and_all_else_is_served(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    left, tokens = await written()
    owners, groups = entries(left), left._groups
    path = tmp_path / "store"
    on_a_disk(path, groups, left._rows).close()
    first = dice.choice(sorted(owners)[:-3])
    missing = range(first, first + dice.randint(1, 3))
    (segment,) = (path / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    for number in missing:
        data[data.index(groups[number]) - 32 + dice.randrange(32)] ^= 4
    segment.write_bytes(data)
    store = LmdbStore.open(path, ballast=0)
    async with fakes_on(DecodingRunner, store=store) as house:
        found = await statuses(house)
        table = house.served.shards[0].table
        for name, own in tokens.items():
            session = int(table.number[house.find(name).slot])
            mine = [group for group, owner in owners.items() if owner == session]
            lost = not set(mine).isdisjoint(missing) or max(mine) < missing[-1]
            assert (found[name] is SessionStatus.LOST) == lost
            if not lost:
                assert await read(house, name, 1) == run_alone([*own, 1])[-1:]
    store.close()
