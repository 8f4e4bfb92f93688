"""Whoever waits gets on, however much of another kind there is."""

import asyncio

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.scheduler.feedback.call import FinishReason
from service.engine.shard.policy import MOST_DECODE_STEPS
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.recurrent import char_case
from tests.service.engine.fakes import DecodingRunner, FakeRunner, run_alone
from tests.service.engine.houses import (
    INLINE,
    WORKER,
    House,
    fakes,
    fakes_on,
    leftovers,
    reals,
)
from tests.service.engine.wires import Wire, ask

ALWAYS = 50_000  # steps: more than run while a test lasts


async def generated(
    house: House, name: str, steps: int, *, stop: tuple[str, ...] = ()
) -> list[Piece]:
    """All pieces of a generation from one token."""
    call = generate(
        house.engine,
        name,
        prompt=house.served.reader.tokens(np.array([3])),
        max_steps=steps,
        sampling=Sampling(seed=1),
        stop=stop,
    )
    return [piece async for piece in call]


@pytest.mark.parametrize("device", [FakeRunner, DecodingRunner])
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("first", ["plain", "stops"])
async def test_a_generation_with_stop_strings_and_one_without_both_get_on(
    inline_run_s: float, device: type[FakeRunner], first: str
) -> None:
    """One reads many steps in a run, the other is looked at step by step."""
    async with fakes_on(device, inline_run_s=inline_run_s) as house:
        names = ["plain", "stops"] if first == "plain" else ["stops", "plain"]
        stop = {"plain": (), "stops": ("never",)}
        for name in names:
            house.open(name)
        always = asyncio.create_task(generated(house, names[0], ALWAYS, stop=stop[names[0]]))
        while house.position(names[0]) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0)
        began = len(house.runners[0].batches)
        pieces = await asyncio.wait_for(generated(house, names[1], 40, stop=stop[names[1]]), 10)
        runs = len(house.runners[0].batches) - began
        assert not always.done()
        assert runs < 200, "each gets a turn"
        assert pieces[-1].finish_reason is FinishReason.LENGTH
        before = house.position(names[0])
        while house.position(names[0]) == before:  # noqa: ASYNC110
            await asyncio.sleep(0)
        always.cancel()


@pytest.mark.parametrize("device", [FakeRunner, DecodingRunner])
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_generation_gets_on_beside_full_batches_of_single_steps(
    inline_run_s: float, device: type[FakeRunner]
) -> None:
    names = [f"s{number}" for number in range(24)]  # three times what a batch holds
    async with fakes_on(device, inline_run_s=inline_run_s) as house:
        for name in ["generates", *names]:
            house.open(name)
        wire = await Wire(house).attach(*names)

        async def load() -> None:
            while True:
                while wire.stream.pending_steps < 48:
                    wire.frame({channel: ([1], -1) for channel in range(24)})
                await asyncio.sleep(0)

        loading = asyncio.create_task(load())
        while house.position(names[0]) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        began = len(house.runners[0].batches)
        await asyncio.wait_for(generated(house, "generates", 20), 10)
        runs = len(house.runners[0].batches) - began
        assert not loading.done()
        loading.cancel()
        assert runs < 150, "it has its share of the batches"
        await house.settle()
        for row in wire.rows.values():
            assert row.answers == 1


async def test_single_steps_chunks_and_resets_get_on_beside_many_generations() -> None:
    """A real model: what 140 rows read at once goes in two halves, one always on its way."""
    case = char_case("lstm", layers=2, hidden=128)
    async with reals(case, max_batch=512, chunk_steps=16) as house:
        engine, reader = house.engine, house.served.reader
        names = [f"g{number}" for number in range(140)]
        for name in ["client", *names]:
            engine.open(house.served, name)
        tasks = [asyncio.create_task(generated(house, name, ALWAYS)) for name in names]

        def generated_each() -> float:
            """How far the generations are, on average."""
            return sum(map(house.position, names)) / len(names)

        async def step(count: int) -> None:
            tokens = reader.tokens(np.ones(count, np.int64))
            await engine.step("client", tokens, outputs=Outputs(argmax=True))

        while generated_each() < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        start, meanwhile = generated_each(), []
        for _ in range(20):
            for call in (step(1), step(5), engine.reset("client")):
                before = generated_each()
                await asyncio.wait_for(call, 5)
                meanwhile.append(generated_each() - before)
        assert max(meanwhile) <= 3 * MOST_DECODE_STEPS, "a call waits for a few runs, no more"
        assert generated_each() > start + 20, "and the generations get on too"
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def hogs(kind: str) -> dict[int, tuple[list[int], int]]:
    """A frame of many rows, or of many chunks."""
    return {channel: ([1] * (1 if kind == "frames" else 12), -1) for channel in range(256)}


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("kind", ["frames", "chunks"])
async def test_a_step_waits_for_few_of_anothers_rows(kind: str, inline_run_s: float) -> None:
    """Those of the run under way, and a round of the other's: not for all that he has queued."""
    async with fakes(
        inline_run_s=inline_run_s, max_sessions=512, max_batch=64, max_pending_steps=10**6
    ) as house:
        names = [f"h{number}" for number in range(256)]
        for name in [*names, "polite"]:
            house.open(name)
        hog = await Wire(house, caller="hog").attach(*names)
        polite = await Wire(house, caller="polite").attach("polite")
        for _ in range(10):
            hog.frame(hogs(kind))
        await turn()
        for _ in range(5):
            done = len(house.runners[0].batches)
            row = polite.single(0, 1)
            async with asyncio.timeout(10):
                while not row.answers:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert len(house.runners[0].batches) - done <= 6
        assert hog.stream.pending_steps > 1000, "he was far from done"
        await house.settle()
        assert row.reply[0] == 5
        assert leftovers(house.served) == {}
    assert [len(own) for own in hog.order.values()] == [10] * 256
    assert all(own == sorted(own) for own in hog.order.values())


async def test_a_long_request_does_not_wait_for_all_of_anothers_spare_slots() -> None:
    async with fakes(inline_run_s=WORKER, max_pending_steps=10**6) as house:
        names = [f"h{number}" for number in range(20)]
        for name in [*names, "polite"]:
            house.open(name)
        hog = await Wire(house, caller="hog").attach(*names)
        polite = await Wire(house, caller="polite").attach("polite")
        hog.frame({channel: ([1] * 100, -1) for channel in range(20)})
        await turn()
        (row,) = polite.frame({0: ([2] * 12, -1)})
        async with asyncio.timeout(10):
            while not row.answers:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert hog.stream.pending_steps > 1000
        await house.settle()
        assert leftovers(house.served) == {}
    assert row.reply[1] == run_alone([2] * 12)[-1]


async def test_who_queues_too_much_is_refused_and_others_are_not() -> None:
    async with fakes(
        inline_run_s=WORKER, max_sessions=512, max_pending_steps=10**6, max_queue_s=1e-9
    ) as house:
        house.runners[0].gate.clear()
        names = [f"h{number}" for number in range(256)]
        for name in [*names, "polite"]:
            house.open(name)
        hog = await Wire(house, caller="hog").attach(*names)
        polite = await Wire(house, caller="polite").attach("polite")
        hog.frame({channel: ([1], 0) for channel in range(256)})  # taken whole: it was the first
        refused = hog.frame({channel: ([1], 1) for channel in range(256)})
        row = polite.single(0, 1)
        await turn()
        for one in refused:
            assert isinstance(one.refusal, errors.OverloadedError)
            assert one.refusal.retry_after_s is not None
        house.runners[0].gate.set()
        await house.settle()
        assert row.reply[0] == 1
        assert {house.position(name) for name in names} == {1}
        counted = house.engine.metrics.registry.get_sample_value(
            "cellar_overloaded_steps_total", {"model": "fake/1"}
        )
        assert counted == 256
        again = hog.frame({channel: ([1], 1) for channel in range(256)})
        await house.settle()
        assert {one.reply[0] for one in again} == {2}, "there is room again"
        assert leftovers(house.served) == {}


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("queued_behind", [False, True])
async def test_a_session_closed_in_flight_does_not_hurt_one_that_ends_there(
    queued_behind: bool,
) -> None:
    async with fakes(inline_run_s=WORKER) as house:
        device = house.runners[0]
        device.gate.clear()
        house.open("closed")
        house.open("ends")
        slots = [house.find("closed").slot, house.find("ends").slot]
        closed = asyncio.create_task(generated(house, "closed", 50))
        ends = asyncio.create_task(generated(house, "ends", 2))
        await turn()
        for position in (1, 2):  # the prompt, and the first of its own
            device.lets_one_in = True
            device.gate.set()
            while house.position("ends") < position:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        runs = len(device.batches)
        later = ask(house, "closed", [1], None)[0] if queued_behind else None
        await turn()
        house.engine.directory.close("closed")
        device.lets_one_in = False
        device.gate.set()
        with pytest.raises(errors.SessionClosedError):
            await asyncio.wait_for(closed, 5)
        pieces = await asyncio.wait_for(ends, 5)
        await house.settle()
        assert sorted(device.batches[runs]) == sorted(slots), "their last steps ran together"
        assert pieces[-1].position == 3
        assert pieces[-1].finish_reason is FinishReason.LENGTH
        tokens = [3, *(token for piece in pieces for token in piece.tokens)]
        assert house.state("ends") == run_alone(tokens)[-1]
        if later is not None:
            assert isinstance(later.refusal, errors.SessionClosedError)
        assert house.served.usage.pending_steps == 0
        assert house.served.usage.sessions == 1
