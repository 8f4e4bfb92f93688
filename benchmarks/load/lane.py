"""One caller, and how many of them are driven at once.

Standard library only: the load for another server runs in that server's own environment.
"""

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Protocol

from benchmarks.pipe import Reply
from benchmarks.tally import Tally


class Lane(Protocol):
    """A caller that waits for each answer before it sends the next message."""

    steps: int
    """Steps of one exchange."""

    async def exchange(self) -> None:
        """Send one message and take its whole answer; raises when that is not what it should be."""

    async def check(self) -> None:
        """Look into the last answer; raises when it is not what it should be."""


async def drive(lanes: Sequence[Lane], *, seconds: float, rate: float | None = None) -> Reply:
    """Drive all lanes at once, as fast as they go or at a rate.

    Args:
        lanes: the callers.
        seconds: after this long no exchange is begun; those under way are finished and counted.
        rate: exchanges per second of all lanes together.
    """
    gc.collect()
    gc.disable()  # a collection in the middle of a round would show in the p99
    tally = Tally()
    deadline = time.perf_counter() + seconds
    if rate is None:
        tasks = [_fast(lane, deadline, tally) for lane in lanes]
    else:
        period_s = len(lanes) / rate
        tasks = [
            _steady(lane, deadline, tally, period_s, period_s * number / len(lanes))
            for number, lane in enumerate(lanes)
        ]
    try:
        await asyncio.gather(*tasks)
        summary = tally.summary()
    finally:
        gc.enable()
    for lane in lanes:
        await lane.check()
    return summary


async def _fast(lane: Lane, deadline: float, tally: Tally) -> None:
    steps = lane.steps
    while (sent := time.perf_counter()) < deadline:
        await lane.exchange()
        tally.add(time.perf_counter() - sent, steps=steps)


async def _steady(
    lane: Lane, deadline: float, tally: Tally, period_s: float, delay_s: float
) -> None:
    """An exchange each period, from the delay on.

    A message that is late because the answer before it was late has waited since it was due; one
    that is late by the clock's grain has not.
    """
    due = time.perf_counter() + delay_s
    while due < deadline:
        early_s = due - time.perf_counter()
        if early_s > 0:
            await asyncio.sleep(early_s)
            since = time.perf_counter()
        else:
            since = due
        await lane.exchange()
        tally.add(time.perf_counter() - since, steps=lane.steps)
        due += period_s


__all__ = ["Lane", "drive"]
