"""Engines with two versions of a fake model."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import numpy as np

from models.manifest import TokensInput
from service import errors
from service.engine.engine import Engine
from service.engine.execution.probe import SHARED
from service.engine.log.chronicle import ALL
from service.engine.served.registry import ServedModel, arena_rows
from service.engine.work.columns import Outputs
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import StoreFailedError
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, fake_manifest, run_alone
from tests.service.engine.houses import SMALL, leftovers
from tests.service.engine.written import turns
from tests.service.store.fake import FakeStore

RAW = Outputs(raw=True)


@dataclass(kw_only=True)
class House:
    """An engine with two versions of a fake model, the second with its vocabulary reversed."""

    engine: Engine
    served: list[ServedModel]
    devices: list[DecodingRunner]

    def told_of(self, name: str) -> list[int]:
        """What the device has read of a session, and in what: tokens of its version."""
        session = self.engine.directory.find(name)
        table, slot = session.shard.table, session.slot
        if not table.position[slot]:
            return []
        device = self.devices[self.served.index(session.served)]
        row = int(table.row[slot])
        read = list(device.tokens[row])
        assert device.state[row] == run_alone(read)[-1]
        return read

    async def step(self, name: str, tokens: list[int], position: int) -> None:
        session = self.engine.session(name)
        steps = session.served.reader.tokens(np.array(tokens))
        await self.engine.step(session, steps, outputs=RAW, position=position)

    async def settle(self) -> None:
        for served in self.served:
            await served.drained()
        await turns(3)
        for served in self.served:
            assert not leftovers(served)
            for shard in served.shards:
                taken = len(self.engine.directory.sessions)
                assert shard.slots.sessions.used <= taken
        used = sum(one.shards[0].slots.sessions.used for one in self.served)
        assert used == len(self.engine.directory.sessions)
        assert self.engine.directory._opening == {}


@asynccontextmanager
async def house(
    device: Callable[[int], DecodingRunner], store: FakeStore | None, **others: float | str
) -> AsyncIterator[House]:
    limits = EngineSettings.model_validate(
        {**SMALL, "max_pending_steps": 10_000, "max_request_steps": 1000, **others}
    )
    engine = Engine(limits, Metrics(), store=store)
    first = fake_manifest()
    assert isinstance(first.input, TokensInput)
    turned = first.input.model_copy(update={"vocabulary": first.input.vocabulary[::-1]})
    served, devices = [], []
    for version, manifest in (1, first), (2, first.model_copy(update={"input": turned})):
        devices.append(device(arena_rows(limits, manifest, 0, 1)))
        served.append(
            engine.registry.add(
                name="fake",
                version=version,
                manifest=manifest,
                fingerprint=f"f{version}",
                runners=[devices[-1]],
                findings=SHARED,
                arithmetic="same",
            )
        )
        served[-1].warm_up()
    engine.restore_sessions()
    engine.loading = False
    try:
        yield House(engine=engine, served=served, devices=devices)
    finally:
        with suppress(StoreFailedError, errors.StoreUnavailableError):  # it has crashed
            await asyncio.wait_for(engine.drain(), 20)
            await engine.settle_store(20)
        engine.stop()


def turned(tokens: list[int]) -> list[int]:
    """The same text in the other version."""
    return [VOCABULARY - 1 - token % 100 for token in tokens]


async def begun(own: House, count: int = 60) -> list[int]:
    """A session of the first version that has read so many tokens, which are returned."""
    own.engine.open(own.served[0], "s", history_steps=ALL)
    tokens = [number % VOCABULARY for number in range(count)]
    if count:
        await own.step("s", tokens, 0)
    return tokens
