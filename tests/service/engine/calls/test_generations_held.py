"""Generations that nobody reads are held back, and go on or end when somebody does."""

import asyncio

import pytest

from service import errors
from service.engine.scheduler.feedback.call import FinishReason
from tests.service.engine.calls.test_generations import (
    CASES,
    Result,
    Stepwise,
    check_pieces,
    pieces_of,
    run,
)
from tests.service.engine.houses import INLINE, reals


@pytest.mark.parametrize("decodes", [True, False])
async def test_a_generation_that_nobody_reads_waits_and_goes_on(
    decodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not decodes:
        monkeypatch.setattr("tests.service.engine.houses.CpuRunner", Stepwise)
    async with reals(CASES["char"], inline_run_s=INLINE) as house:
        call = pieces_of(house, house.engine.open(house.served, "a").id, 0, max_steps=12_000)
        pieces = [await anext(call)]

        async def held() -> int:
            """Where the session stands once it moves no more."""
            before = -1
            while (now := house.position("a")) != before:
                before = now
                await house.served.drained()
                await asyncio.sleep(0.15)  # what is not in a piece is put into one by then
            return now

        first = await held()
        assert 4096 <= first < 6000, "what is generated ahead is bounded"
        other = await run(house, "b", 0, max_steps=300)
        assert len(other.steps) == 300, "others do not wait for it"
        pieces.append(await anext(call))
        second = await held()
        assert 4096 <= second - first < 6000
        pieces += [piece async for piece in call]
        result = Result(pieces=pieces)
        check_pieces(house, 0, result)
        assert len(result.steps) == 12_000
        assert result.text.startswith(other.text)
        assert pieces[-1].finish_reason is FinishReason.LENGTH


async def test_a_generation_that_is_held_ends_when_it_is_given_up_or_its_session_is() -> None:
    async with reals(CASES["char"], inline_run_s=INLINE) as house:
        calls = {}
        for name in ("given up", "closed"):
            house.engine.open(house.served, name)
            calls[name] = pieces_of(house, name, 0, max_steps=50_000)
            written = (await anext(calls[name])).position
        for _ in range(4):
            await house.served.drained()
            await asyncio.sleep(0.1)
        assert house.position("given up") > 4096
        await calls["given up"].aclose()
        house.engine.directory.close("closed")
        with pytest.raises(errors.SessionClosedError):
            async for _ in calls["closed"]:
                pass
        await house.served.drained()
        assert house.position("given up") == written, "it goes back to the one piece"
        assert house.served.usage.pending_steps == 0
