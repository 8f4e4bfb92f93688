"""Models on several shards: whatever spans them is one to whoever asks."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.calls.forecast import ForecastResult, forecast
from service.engine.calls.generate import generate
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.recurrent import char_case, series_case
from tests.service.engine.fakes import run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, Reals, fakes, reals
from tests.service.engine.test_crown import Device, cut, play, sequences
from tests.service.engine.wires import RAW, Wire

SHARDS = [1, 2, 3]


def used(house: Fakes | Reals) -> list[int]:
    return [shard.usage.sessions for shard in house.served.shards]


def free_slots(house: Fakes) -> list[int]:
    return [s.usage.capacity - s.usage.sessions for s in house.served.shards]


@pytest.mark.parametrize("shards", SHARDS)
async def test_sessions_are_spread_by_their_ids_and_the_same_way_each_time(shards: int) -> None:
    homes = []
    for _ in range(2):
        async with fakes(shards, max_sessions=3000) as house:
            names = [house.open(f"session-{n}") for n in range(900)]
            homes.append([house.served.shards.index(house.find(n).shard) for n in names])
            assert max(used(house)) - min(used(house)) < 0.2 * 900
    assert homes[0] == homes[1]


@pytest.mark.parametrize("sessions", [3, 31, 32])
@pytest.mark.parametrize("shards", SHARDS)
async def test_every_slot_is_taken_before_a_session_is_refused(shards: int, sessions: int) -> None:
    async with fakes(shards, max_sessions=sessions) as house:
        assert house.served.usage.capacity == sessions
        for n in range(sessions):
            house.open(f"s{n}")
        assert free_slots(house) == [0] * shards
        for _ in range(3):
            with pytest.raises(errors.SessionLimitError):
                house.open("one too many")
        assert sum(used(house)) == sessions
        for n in range(sessions):  # each slot is found again, whatever shard it is on
            house.engine.directory.close(f"s{n}")
            house.open(f"t{n}")
            with pytest.raises(errors.SessionLimitError):
                house.open("one too many")
        wire = await Wire(house).attach(*(f"t{n}" for n in range(sessions)))
        rows = wire.frame({n: ([n], 0) for n in range(sessions)})
        await house.settle()
        assert [row.reply[1] for row in rows] == [run_alone([n])[0] for n in range(sessions)]


async def test_a_shard_for_no_session_is_no_harm() -> None:
    async with fakes(3, max_sessions=1) as house:
        house.open("a")
        wire = await Wire(house).attach("a")
        row = wire.single(0, 4)
        await house.settle()
        assert row.reply[1] == run_alone([4])[0]


@dataclass(kw_only=True)
class Spread:
    """A house with sessions on all shards, and a stream that carries them."""

    house: Fakes
    wire: Wire
    names: list[str]


async def spread(house: Fakes, count: int = 24) -> Spread:
    names = [house.open(f"s{n}") for n in range(count)]
    assert min(used(house)) > 2
    return Spread(house=house, wire=await Wire(house).attach(*names), names=names)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("shards", SHARDS)
async def test_frames_that_span_shards_are_answered_in_full_under_their_numbers(
    shards: int, inline_run_s: float
) -> None:
    async with fakes(shards, inline_run_s=inline_run_s) as house:
        scene = await spread(house)
        dice = random.Random(shards)
        sent: dict[int, list[int]] = {n: [] for n in range(24)}
        for _ in range(12):  # several frames at once, of sessions in any order
            channels = dice.sample(range(24), dice.randint(1, 24))
            asked = {}
            for n in channels:
                tokens = [dice.randrange(64) for _ in range(dice.choice([1, 1, 4]))]
                asked[n] = (tokens, len(sent[n]))
                sent[n] += tokens
            rows = scene.wire.frame(asked)
            if dice.random() < 0.3:
                await house.settle()
                for n, row in zip(channels, rows, strict=True):
                    assert row.reply == (len(sent[n]), run_alone(sent[n])[-1], False)
        await house.settle()
        for row in scene.wire.rows.values():
            assert row.answers == len(row.replies) == 1
        for n, name in enumerate(scene.names):
            assert not sent[n] or house.state(name) == run_alone(sent[n])[-1]
        assert scene.wire.stream.pending_steps == 0
        assert all(runner.batches for runner in house.runners)


@given(st.data(), st.sampled_from([2, 3]))
@settings(max_examples=40, deadline=None)
def test_rows_that_are_refused_on_one_shard_are_refused_alone(
    data: st.DataObject, shards: int
) -> None:
    async def run() -> None:
        async with fakes(shards) as house:
            scene = await spread(house)
            closed = data.draw(st.sets(st.integers(0, 23), max_size=8))
            wrong = data.draw(st.sets(st.integers(0, 23), max_size=8)) - closed
            for n in closed:
                house.engine.directory.close(scene.names[n])
            for n in range(len(closed)):  # somebody else gets the slots
                house.open(f"new{n}")
            rows = scene.wire.frame({n: ([n], 5 if n in wrong else 0) for n in range(24)})
            await house.settle()
            for n, row in enumerate(rows):
                assert row.answers == 1
                if n in closed:
                    assert isinstance(row.refusal, errors.SessionClosedError)
                elif n in wrong:
                    assert isinstance(row.refusal, errors.PositionMismatchError)
                else:
                    assert row.reply == (1, run_alone([n])[0], False)

    asyncio.run(run())


async def test_one_session_on_two_channels_is_noticed_and_equal_slots_are_not() -> None:
    """Sessions of different shards live in slots of the same number."""
    async with fakes(2) as house:
        scene = await spread(house)
        slots = Counter(house.find(name).slot for name in scene.names)
        assert max(slots.values()) == 2
        scene.wire.frame({n: ([n], 0) for n in range(24)})
        await scene.wire.attach("s3", first=100)
        with pytest.raises(errors.BadInputError, match="twice"):
            scene.wire.frame({3: ([1], -1), 100: ([1], -1)})
        await house.settle()
        assert {house.position(name) for name in scene.names} == {1}


@pytest.mark.parametrize("shards", SHARDS)
async def test_sessions_detach_close_and_expire_on_their_own_shard(shards: int) -> None:
    async with fakes(shards) as house:
        scene = await spread(house)
        attachments = scene.wire.stream.attachments
        rows = scene.wire.frame({n: ([n], 0) for n in range(24)})
        gone = await attachments.detach(np.array([1, 2, 3, 700]), close=False)
        assert gone.tolist() == [1, 2, 3]
        gone = await attachments.detach(np.arange(4, 12), close=True)
        await house.settle()
        for n, row in enumerate(rows):
            if 4 <= n < 12:
                assert isinstance(row.refusal, errors.SessionClosedError)
            else:
                assert row.reply == (1, run_alone([n])[0], False)
        assert sum(used(house)) == 16
        again = await attachments.attach(scene.names[1:4], np.array([1, 2, 3]), open_sessions=False)
        assert again.positions.tolist() == [1, 1, 1]
        await attachments.attach(["x", "y"], np.array([4, 5]), open_sessions=True)
        rows = scene.wire.frame({n: ([9], -1) for n in (5, 3, 4, 0, 1, 2)})
        await house.settle()
        expected = [[9], [3, 9], [9], [0, 9], [1, 9], [2, 9]]
        assert [row.reply[1] for row in rows] == [run_alone(tokens)[-1] for tokens in expected]
        late = sum(len(s.expired_sessions(1e12, at_most=100)) for s in house.served.shards)
        assert late == sum(used(house)) == 18


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_session_with_steps_in_the_inbox_is_not_idle(inline_run_s: float) -> None:
    """The clock of this house is the real one: ask for what happens long from now."""
    async with fakes(inline_run_s=inline_run_s) as house:
        for name in "abc":
            house.open(name)
        (shard,) = house.served.shards
        row = (await Wire(house).attach(*"abc")).single(0, 1)
        assert {own.id for own in shard.expired_sessions(1e12, at_most=10)} == {"b", "c"}
        await house.settle()
        assert row.reply[1] == run_alone([1])[0]
        assert {own.id for own in shard.expired_sessions(1e12, at_most=10)} == {"a", "b", "c"}


async def test_resets_barriers_and_faults_stay_on_their_shard() -> None:
    async with fakes(2) as house:
        scene = await spread(house)
        scene.wire.frame({n: ([n], 0) for n in range(24)})
        await house.settle()
        await asyncio.gather(*(house.engine.reset(name) for name in scene.names[::3]))
        rows = scene.wire.frame({n: ([n], 0) for n in range(0, 24, 3)})
        await house.settle()
        assert all(isinstance(row.refusal, errors.StaleBranchError) for row in rows)
        for n in range(0, 24, 3):
            await scene.wire.attach_again(scene.names[n], first=n)
        house.runners[1].fail_next = True
        shard = {n: house.find(name).shard for n, name in enumerate(scene.names)}
        rows = scene.wire.frame({n: ([7], 0 if n % 3 == 0 else 1) for n in range(24)})
        await house.settle()
        lost = {n for n, row in enumerate(rows) if row.refusals}
        assert 0 < len(lost) <= 8, "one batch of one shard"
        for n, row in enumerate(rows):
            status = house.engine.directory.describe(scene.names[n]).status
            if n in lost:
                assert shard[n] is house.served.shards[1]
                assert isinstance(row.refusal, errors.StateLostError)
                assert status is SessionStatus.LOST
            else:
                sent = [7] if n % 3 == 0 else [n, 7]
                assert row.reply == (len(sent), run_alone(sent)[-1], False)
                assert status is SessionStatus.OPEN


@pytest.mark.parametrize("shards", SHARDS)
async def test_a_stream_that_ends_cancels_its_steps_on_all_shards(shards: int) -> None:
    async with fakes(shards) as house:
        scene = await spread(house)
        rows = scene.wire.frame({n: ([n], 0) for n in range(24)})
        rows += [scene.wire.single(n, 1) for n in range(24)]
        scene.wire.stream.end()
        await house.settle()
        for row in rows:
            assert isinstance(row.refusal, errors.CallerGoneError)
        assert {house.position(name) for name in scene.names} == {0}


async def test_metrics_add_up_over_shards() -> None:
    async with fakes(3) as house:
        scene = await spread(house)
        rows = scene.wire.frame({n: ([n], 0) for n in range(24)})
        registry = house.engine.metrics.registry

        def read(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, {"model": "fake/1", **labels})

        assert read("cellar_pending_steps") == 24
        await house.settle()
        assert all(row.replies for row in rows)
        assert read("cellar_pending_steps") == 0
        assert read("cellar_steps_total") == 24
        assert read("cellar_sessions", tier="device") == 24
        assert read("cellar_session_capacity") == 32
        size = house.engine.metrics.batches("fake/1").size
        assert size.sum == 24
        assert size.count == sum(len(runner.batches) for runner in house.runners)


async def test_forecasts_of_several_shards_at_once_are_each_their_own() -> None:
    async def run(house: Reals, name: str) -> ForecastResult:
        return await forecast(house.engine, name, horizon=6, paths=40, levels=(0.5,), seed=2)

    found: list[list[np.ndarray]] = []
    for shards, together in ((1, False), (2, True), (3, True)):
        async with reals(series_case(), shards) as house:
            names = [house.engine.open(house.served, f"p{n}").id for n in range(9)]
            for n, name in enumerate(names):
                history = house.served.reader.values(np.float32(100 + n) + np.arange(5, dtype="f4"))
                await house.engine.step(name, history, outputs=RAW)
            results = (
                await asyncio.gather(*(run(house, name) for name in names))
                if together
                else [await run(house, name) for name in names]
            )
            found.append([result.paths for result in results])
            assert house.served.usage.spares == 0
            assert {house.position(name) for name in names} == {5}
    for others in found[1:]:
        for mine, other in zip(found[0], others, strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.parametrize("shards", [2, 3])
async def test_generations_of_all_shards_end_together(shards: int) -> None:
    async with fakes(shards) as house:
        names = [house.open(f"s{n}") for n in range(20)]

        async def run(n: int) -> list[int]:
            prompt = house.served.reader.tokens(np.array([n]))
            pieces = generate(
                house.engine, names[n], prompt=prompt, max_steps=15, sampling=Sampling()
            )
            return [token async for piece in pieces for token in piece.tokens]

        for n, tokens in enumerate(await asyncio.gather(*map(run, range(20)))):
            drawn = [n]
            for token in tokens:
                assert token == run_alone(drawn)[-1] % 64
                drawn.append(token)
            assert house.position(names[n]) == 16
            assert house.state(names[n]) == run_alone(drawn)[-1]


@pytest.mark.parametrize("task", ["char", "series"])
async def test_sessions_on_two_shards_equal_each_alone_bit_for_bit(task: str) -> None:
    """The crown test: by requests and by frames, on worker threads that run at once."""
    case = char_case("lstm", layers=2, hidden=24) if task == "char" else series_case("gru")
    dice = random.Random(task)
    inputs = sequences(case, dice)
    wanted = (
        Outputs(raw=True, sample=True, probabilities=True, every_step=True)
        if task == "char"
        else Outputs(raw=True, sample=True, quantiles=(0.1, 0.9), every_step=True)
    )
    found = []
    for shards, together, inline_run_s in ((1, False, INLINE), (2, True, WORKER), (2, True, 1e-4)):
        async with reals(case, shards, inline_run_s=inline_run_s) as house:
            device = Device(engine=house.engine, served=house.served, runner=house.runners[0])
            names = [house.engine.open(house.served, f"s{n}").id for n in range(len(inputs))]
            plans = [
                cut(len(given), dice, chunks=together and n % 3 == 0)
                for n, given in enumerate(inputs)
            ]
            plays = [
                play(device, name, given, plan, wanted)
                for name, given, plan in zip(names, inputs, plans, strict=True)
            ]
            if together:
                assert min(used(house)) > 10
                replies = await asyncio.gather(*plays)
            else:
                replies = [await one for one in plays]
            found.append((replies, [house.state(name) for name in names]))
    expected, states = found[0]
    for replies, after in found[1:]:
        for n in range(len(inputs)):
            assert np.array_equal(replies[n], expected[n]), f"session {n}"
            for mine, theirs in zip(after[n], states[n], strict=True):
                assert np.array_equal(mine, theirs), f"session {n}"
