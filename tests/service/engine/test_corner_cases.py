"""Steps that find the queue empty, and steps that meet others: the corner cases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest

from service import errors
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import VOCABULARY, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes, leftovers, set_worth_a_batch
from tests.service.engine.wires import RAW, Row, Wire, ask

NAMES = ("a", "b", "c")


@dataclass(kw_only=True)
class Scene:
    """A house, and two streams that carry its sessions on channels 0, 1, ..."""

    house: Fakes
    one: Wire
    other: Wire

    def runs(self) -> int:
        return len(self.house.runners[0].batches)


@pytest.fixture(params=[INLINE, WORKER], ids=["inline", "worker"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with fakes(inline_run_s=request.param) as house:
        for name in NAMES:
            house.open(name)
        yield Scene(
            house=house,
            one=await Wire(house).attach(*NAMES),
            other=await Wire(house).attach(*NAMES),
        )


def states(rows: list[Row]) -> list[int]:
    return [row.reply[1] for row in rows]


async def test_each_single_step_that_finds_the_queue_empty_runs_at_once_and_alone(
    scene: Scene,
) -> None:
    rows = []
    for position, token in enumerate((3, 1, 4, 1, 5)):
        rows.append(scene.one.single(0, token, position if position % 2 else None))
        await scene.house.settle()
        assert scene.runs() == len(rows)
    assert states(rows) == run_alone([3, 1, 4, 1, 5])
    assert [row.reply[0] for row in rows] == [1, 2, 3, 4, 5]
    size = scene.house.engine.metrics.batches("fake/1").size
    assert (size.count, size.sum) == (5, 5)
    registry = scene.house.engine.metrics.registry
    assert registry.get_sample_value("cellar_steps_total", {"model": "fake/1"}) == 5


async def test_a_step_that_ran_alone_can_be_repeated_and_conflicted_with(scene: Scene) -> None:
    first = scene.one.single(0, 7, 0)
    await scene.house.settle()
    again, conflict, wrong = (scene.one.single(0, *sent) for sent in ((7, 0), (8, 0), (7, 5)))
    await scene.house.settle()
    unary, _ = ask(scene.house, "a", [7], 0)
    await scene.house.settle()
    assert first.reply == (1, run_alone([7])[0], False)
    assert again.reply == unary.reply == (1, run_alone([7])[0], True)
    assert isinstance(conflict.refusal, errors.StepConflictError)
    assert isinstance(wrong.refusal, errors.PositionMismatchError)
    assert wrong.refusal.position == 1
    assert scene.runs() == 1


async def test_one_session_steps_by_single_frames_of_two_streams_in_one_tick(scene: Scene) -> None:
    rows = [
        scene.one.single(0, 1),
        scene.other.single(0, 2),
        scene.other.single(1, 9),
        scene.one.single(0, 3, 2),
        scene.other.single(0, 4, 3),
    ]
    await scene.house.settle()
    assert states(rows[:2] + rows[3:]) == run_alone([1, 2, 3, 4])
    assert states(rows[2:3]) == run_alone([9])


async def test_positions_that_are_sent_and_left_out_mix_on_one_stream(scene: Scene) -> None:
    good = [scene.one.single(0, 1, 0), scene.one.single(1, 1), scene.one.single(2, 1, 0)]
    await scene.house.settle()
    mixed = [scene.one.single(0, 2), scene.one.single(1, 2, 1), scene.one.single(2, 2, 5)]
    await scene.house.settle()
    assert states(good + mixed[:2]) == [*run_alone([1]) * 3, *run_alone([1, 2])[1:] * 2]
    assert isinstance(mixed[2].refusal, errors.PositionMismatchError)
    assert mixed[2].refusal.position == 1


async def test_single_frames_around_a_frame_of_the_same_session_keep_their_order(
    scene: Scene,
) -> None:
    before = [scene.one.single(0, 1), scene.one.single(1, 1)]
    frame = scene.one.frame({0: ([2, 3], -1), 1: ([2], -1), 2: ([7], -1)})
    after = [scene.one.single(1, 5, 2), scene.one.single(0, 5, 3), scene.one.single(2, 5)]
    await scene.house.settle()
    last = [run_alone([1, 2, 3, 5])[-1], run_alone([1, 2, 5])[-1], run_alone([7, 5])[-1]]
    assert [scene.house.state(name) for name in NAMES] == last
    assert states(before) == run_alone([1]) * 2
    assert states(frame) == [run_alone([1, 2, 3])[-1], run_alone([1, 2])[-1], run_alone([7])[-1]]
    assert states(after) == [last[1], last[0], last[2]]
    for order in scene.one.order.values():
        assert order == sorted(order)


async def test_unary_steps_of_many_callers_share_a_run(scene: Scene) -> None:
    house = scene.house
    rows = [
        ask(house, name, [5], position)[0]
        for name, position in zip(NAMES, (0, None, 0), strict=True)
    ]
    rows.append(scene.one.single(0, 6))
    await house.settle()
    assert states(rows) == [*run_alone([5]) * 3, run_alone([5, 6])[1]]
    assert scene.runs() < len(rows)


async def test_unary_steps_that_draw_share_a_run_too(scene: Scene) -> None:
    house = scene.house
    calls = [
        house.engine.step(
            name,
            house.served.reader.tokens(np.array([5])),
            outputs=Outputs(raw=True, sample=True),
            sampling=Sampling(seed=seed),
        )
        for seed, name in enumerate(NAMES)
    ]
    results = [await call for call in calls]
    assert [result.answers.columns["raw"].item() for result in results] == run_alone([5]) * 3
    assert scene.runs() == 1


async def test_a_full_queue_refuses_single_steps_and_changes_nothing() -> None:
    async with fakes(max_pending_steps=3) as house:
        for name in NAMES:
            house.open(name)
        wire = await Wire(house).attach(*NAMES)
        rows = [wire.single(number % 3, 1) for number in range(5)]
        with pytest.raises(errors.OverloadedError):
            ask(house, "a", [1], None)
        await house.settle()
        assert states(rows[:3]) == run_alone([1]) * 3
        for row in rows[3:]:
            assert isinstance(row.refusal, errors.OverloadedError)
        assert wire.stream.pending_steps == 0
        assert [house.position(name) for name in NAMES] == [1, 1, 1]
        again = wire.single(0, 2)
        await house.settle()
        assert states([again]) == run_alone([1, 2])[1:], "there is room again"


async def test_a_fault_in_a_single_step_loses_the_session_that_ran_and_no_other(
    scene: Scene,
) -> None:
    house = scene.house
    rows = [scene.one.single(number, 1) for number in range(3)]
    await house.settle()
    house.runners[0].fail_next = True
    failed = scene.one.single(0, 2, 1)
    await house.settle()
    assert isinstance(failed.refusal, errors.StateLostError)
    assert "position 1" in str(failed.refusal)
    lost, others = scene.other.single(0, 2), [scene.one.single(1, 2, 1), scene.other.single(2, 2)]
    await house.settle()
    assert isinstance(lost.refusal, errors.StateLostError)
    assert states(rows + others) == [*run_alone([1]) * 3, *run_alone([1, 2])[1:] * 2]
    statuses = [house.engine.directory.describe(name).status for name in NAMES]
    assert statuses == [SessionStatus.LOST, SessionStatus.OPEN, SessionStatus.OPEN]
    assert (await house.engine.reset("a")).position == 0
    stale = scene.one.single(0, 9, 0)
    await house.settle()
    assert isinstance(stale.refusal, errors.StaleBranchError)
    await scene.one.attach_again("a")
    afresh = scene.one.single(0, 9, 0)
    await house.settle()
    assert afresh.reply == (1, run_alone([9])[0], False)


async def test_a_unary_step_that_fails_alone_tells_its_caller(scene: Scene) -> None:
    scene.house.runners[0].fail_next = True
    row, _ = ask(scene.house, "b", [2], None)
    await scene.house.settle()
    assert isinstance(row.refusal, errors.StateLostError)
    assert scene.house.engine.directory.describe("b").status is SessionStatus.LOST
    assert scene.house.position("b") == 0


async def test_a_head_that_fails_leaves_the_step_applied(scene: Scene) -> None:
    house = scene.house
    wire = await Wire(house, Outputs(raw=True, probabilities=True)).attach("a")
    failed = wire.single(0, 1)  # the fake has no such head
    await house.settle()
    assert isinstance(failed.refusal, errors.InternalError)
    assert "applied" in str(failed.refusal)
    info = house.engine.directory.describe("a")
    assert (info.position, info.status) == (1, SessionStatus.OPEN)
    following = scene.one.single(0, 2, 1)
    await house.settle()
    assert states([following]) == run_alone([1, 2])[1:]
    assert wire.stream.pending_steps == 0


@pytest.mark.parametrize("tenants", [1, 3])
async def test_a_session_closed_with_steps_in_the_inbox_keeps_its_slot_until_they_are_refused(
    scene: Scene, tenants: int
) -> None:
    house = scene.house
    mine = [scene.one.single(0, 1), scene.other.single(0, 2), ask(house, "a", [3], None)[0]]
    house.engine.directory.close("a")
    for number in range(tenants):  # one of them could get the slot
        house.open(f"new{number}")
    wire = await Wire(house).attach(*(f"new{number}" for number in range(tenants)))
    theirs = [wire.single(number, 7, 0) for number in range(tenants)]
    late = scene.one.single(0, 4)
    await house.settle()
    for row in [*mine, late]:
        assert isinstance(row.refusal, errors.SessionClosedError)
    assert states(theirs) == run_alone([7]) * tenants
    assert [house.position(f"new{n}") for n in range(tenants)] == [1] * tenants


async def test_a_repeat_that_waits_for_a_session_which_is_closed_never_reaches_the_next() -> None:
    """The wait may be over before the repeat is judged: the slot is free then, soon another's."""
    async with fakes(inline_run_s=WORKER) as house:
        set_worth_a_batch(house.served, 1)
        (runner,) = house.runners
        for name in "abc":
            house.open(name)
        runner.gate.clear()
        runner.lets_one_in = True
        first, call = ask(house, "a", [1], 0)
        repeat, _ = ask(house, "a", [1], 0)
        await asyncio.sleep(0)
        ask(house, "b", [2], 0)
        await asyncio.sleep(0)
        runner.gate.set()  # for the first
        assert call is not None
        await call
        ask(house, "c", [3], 0)  # worth a second run, so that the worker is given the wait
        await asyncio.sleep(0)

        slot = house.find("a").slot
        house.engine.directory.close("a")
        runner.lets_one_in = False
        runner.gate.set()
        while house.served.usage.sessions == 3:  # noqa: ASYNC110 (in the turn after it)
            await asyncio.sleep(0)
        house.open("d")
        assert house.find("d").slot == slot
        row, _ = ask(house, "d", [5], 0)
        await house.settle()
        assert row.reply == (1, run_alone([5])[0], False)
        assert first.reply == (1, run_alone([1])[0], False)
        assert isinstance(repeat.refusal, errors.SessionClosedError)
        assert not leftovers(house.served)


async def test_the_end_of_a_stream_cancels_what_it_has_in_the_inbox(scene: Scene) -> None:
    house = scene.house
    gone = [scene.one.single(0, 1), scene.one.single(1, 1), *scene.one.frame({2: ([1, 2], -1)})]
    kept = [scene.other.single(0, 5), scene.other.single(1, 5), scene.other.single(2, 5)]
    scene.one.stream.end()
    await house.settle()
    for row in gone:
        assert isinstance(row.refusal, errors.CallerGoneError)
    assert states(kept) == run_alone([5]) * 3, "as if the others had never been sent"
    assert (scene.one.stream.pending_steps, scene.other.stream.pending_steps) == (0, 0)


async def test_a_single_step_whose_stream_ends_before_it_runs_alone_is_not_applied(
    scene: Scene,
) -> None:
    row = scene.one.single(0, 1)
    scene.one.stream.end()
    await scene.house.settle()
    assert isinstance(row.refusal, errors.CallerGoneError)
    assert scene.house.position("a") == 0
    assert scene.runs() == 0


async def test_a_cancelled_unary_step_in_the_inbox_is_not_applied(scene: Scene) -> None:
    (gone, caller), (kept, _) = ask(scene.house, "a", [1], 0), ask(scene.house, "b", [1], 0)
    assert caller is not None
    caller.cancel()
    await scene.house.settle()
    assert isinstance(gone.refusal, errors.CallerGoneError)
    assert states([kept]) == run_alone([1])
    assert scene.house.position("a") == 0


async def test_a_fault_in_a_frame_loses_its_sessions_and_no_other(scene: Scene) -> None:
    house = scene.house
    first = scene.one.frame({0: ([1], 0), 1: ([1], 0)})
    await house.settle()
    house.runners[0].fail_next = True
    failed = scene.one.frame({1: ([2], 1), 0: ([2], 1)})
    await house.settle()
    for row in failed:
        assert isinstance(row.refusal, errors.StateLostError)
    after = scene.one.frame({2: ([5], 0), 0: ([2], 1)})
    await house.settle()
    assert states([*first, after[0]]) == [*run_alone([1]) * 2, run_alone([5])[0]]
    assert isinstance(after[1].refusal, errors.StateLostError)
    assert [house.position(name) for name in NAMES] == [1, 1, 1]


async def test_frames_that_find_the_queue_empty_are_answered_and_can_be_repeated(
    scene: Scene,
) -> None:
    house = scene.house
    for position, token in enumerate((3, 1, 4)):
        rows = scene.one.frame({n: ([token + n], position) for n in (2, 0, 1)})
        await house.settle()
        assert scene.runs() == position + 1
        for n, row in zip((2, 0, 1), rows, strict=True):
            sent = [before + n for before in (3, 1, 4)[: position + 1]]
            assert row.reply == (position + 1, run_alone(sent)[-1], False)
    again = scene.other.frame({0: ([4], 2), 1: ([9], 2), 2: ([6], 3)})
    await house.settle()
    assert again[0].reply == (3, run_alone([3, 1, 4])[-1], True)
    assert isinstance(again[1].refusal, errors.StepConflictError)
    assert again[2].reply == (4, run_alone([5, 3, 6, 6])[-1], False)


async def test_tokens_wrap_nowhere(scene: Scene) -> None:
    last = VOCABULARY - 1
    rows = [scene.one.single(0, last), scene.one.single(1, 0)]
    await scene.house.settle()
    assert states(rows) == [run_alone([last])[0], run_alone([0])[0]]


async def test_a_steady_stream_of_single_steps_leaves_room_for_everything_else(
    scene: Scene,
) -> None:
    house = scene.house
    stepping = True

    async def keep_stepping() -> None:
        while stepping:
            for channel in range(3):
                if scene.one.stream.pending_steps < 30:
                    scene.one.single(channel, 1)
            await asyncio.sleep(0)

    task = asyncio.create_task(keep_stepping())
    async with asyncio.timeout(10):
        chunk = await house.engine.step("a", house.served.reader.tokens(np.arange(30)), outputs=RAW)
        await house.engine.reset("b")
        await house.engine.barrier("c")
    stepping = False
    await task
    await house.settle()
    assert chunk.position >= 30
    assert scene.one.stream.pending_steps == 0
    assert all(row.answers == 1 for row in scene.one.rows.values())
