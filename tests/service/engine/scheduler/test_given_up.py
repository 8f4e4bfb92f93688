"""Rows that feed back, when a fault empties the queue."""

import asyncio

import numpy as np

from service.errors import InternalError
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import INLINE, fakes_on, leftovers
from tests.service.engine.written import Client, until


async def test_a_row_whose_wait_ends_behind_its_call_is_not_queued() -> None:
    """What it waited for had run, and was about to say so."""
    async with fakes_on(DecodingRunner, inline_run_s=INLINE) as house:
        (shard,) = house.served.shards
        house.open("a")
        client = Client(house=house, name="a", prompt=[1, 2])
        task = asyncio.create_task(client.read())
        await until(lambda: client.told)
        feedback = shard.feedback
        (row,) = np.flatnonzero([call is not None for call in feedback._calls])
        waits = feedback._request(np.array([row]))
        waits.positions = np.array([house.position("a")])
        feedback.give_up(np.empty(0, np.int64), InternalError("a fault"))
        shard._admission.admit_after(waits)
        assert shard.pending_steps == 0
        await asyncio.wait([task])
        assert isinstance(task.exception(), InternalError)
        await house.settle()
        assert not leftovers(house.served)
