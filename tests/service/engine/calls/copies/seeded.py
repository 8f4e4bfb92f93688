"""Seeds of fake sessions, and what each has read."""

import numpy as np

from service.engine.log.seeds import Seed
from service.engine.work.work import Save
from tests.service.engine.houses import Fakes
from tests.service.engine.wires import RAW


async def read(house: Fakes, name: str, *tokens: int, at: int | None = None) -> int:
    """Let a session read; returns the fake state behind it."""
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=RAW, position=at)
    assert result.answers.raw is not None
    return int(result.answers.raw[-1, 0])


async def seed_of(house: Fakes, name: str) -> Seed:
    """A session's state as it is now."""
    session = house.find(name)
    save = Save(slots=np.array([session.slot]))
    await session.shard.perform(save)
    return Seed(
        branch=1,
        position=int(save.positions[0]),
        last_steps=int(save.last_steps[0]),
        content=int(save.contents[0]),
        states=[rows[0] for rows in save.states],
        history=save.histories.get(session.slot),
    )
