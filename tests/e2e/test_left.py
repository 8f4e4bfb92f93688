"""Requests that are left in the middle: the same client's next step just works."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

import cellar

WAYS = ("close", "leave", "forget", "deadline", "step")
LONG = "the quick brown fox " * 30


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["letters", "slow"])
def test_a_request_that_is_left(model: str, way: str, client: cellar.Client) -> None:
    timeout_s = 0.03 if way == "deadline" else None
    for _ in range(4):
        with client.session(model) as session:
            if way == "step":
                with suppress(cellar.DeadlineExceededError):
                    session.step(LONG, timeout_s=0.004)
            else:
                generation = session.generate("a", max_steps=100_000, timeout_s=timeout_s)
                with suppress(cellar.DeadlineExceededError):
                    next(generation)
                    if way == "deadline":
                        generation.text()
                if way == "close":
                    generation.close()
                    at = session.position
                    assert session.refresh().position == at
                elif way == "forget":
                    del generation
            prediction = session.step("b")
            assert prediction.position == session.position == session.refresh().position
            assert session.step("c").position == prediction.position + 1


@pytest.mark.parametrize("way", [*WAYS, "cancel"])
async def test_the_same_with_await(way: str, aclient: cellar.aio.Client) -> None:
    timeout_s = 0.03 if way == "deadline" else None
    for model in ("letters", "slow") * 2:
        async with aclient.session(model) as session:
            if way == "step":
                with suppress(TimeoutError):
                    await asyncio.wait_for(session.step(LONG), 0.004)
            else:
                generation = session.generate("a", max_steps=100_000, timeout_s=timeout_s)
                with suppress(cellar.DeadlineExceededError, TimeoutError):
                    await anext(generation)
                    if way == "deadline":
                        await generation.text()
                    elif way == "cancel":
                        await asyncio.wait_for(generation.text(), 0.01)
                if way == "close":
                    await generation.close()
                    at = session.position
                    assert (await session.refresh()).position == at
                elif way == "forget":
                    del generation
            prediction = await session.step("b")
            assert prediction.position == session.position == (await session.refresh()).position
            assert (await session.step("c")).position == prediction.position + 1
