"""What metrics tell of the log, and of the sessions that it brings back."""

import threading

import numpy as np

from service.engine.work.columns import Outputs
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import Fakes, fakes_on
from tests.service.engine.wires import ask
from tests.service.store.fake import FakeStore


async def read(house: Fakes, name: str, *tokens: int) -> None:
    steps = house.served.reader.tokens(np.array(tokens))
    await house.engine.step(name, steps, outputs=Outputs(raw=True))


def told(house: Fakes, name: str, **labels: str) -> float | None:
    return house.engine.metrics.registry.get_sample_value(name, labels)


async def test_writes_of_the_journal_and_what_waits_for_them_are_told() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        house.open("a")
        await read(house, "a", 1)
        before = told(house, "cellar_journal_seconds_count")
        assert before is not None
        assert before >= 1
        assert told(house, "cellar_undurable_bytes") == 0
        store.gate = threading.Event()
        row, _ = ask(house, "a", [2], 1)
        await house.settle()
        waits = told(house, "cellar_undurable_bytes")
        assert waits is not None
        assert waits > 0
        store.gate.set()
        await house.engine.drain()
        house.engine.draining = False
        assert row.answers == 1
        assert told(house, "cellar_undurable_bytes") == 0
        assert told(house, "cellar_journal_seconds_count") == before + 1


async def test_sessions_of_the_store_are_told_by_what_became_of_them() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for name in "abc":
            house.open(name)
            await read(house, name, 1, 2)
        store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        states = ("cold", "restored", "set_aside", "other_model")
        found = [told(house, "cellar_restored_sessions", state=state) for state in states]
        assert found == [3, 0, 0, 0]
        await read(house, "a", 3)
        for shard in house.served.shards:
            shard.bring(np.array(shard.store.left()))
            shard.wake()
        await house.settle()
        found = [told(house, "cellar_restored_sessions", state=state) for state in states]
        assert found == [0, 3, 0, 0]
