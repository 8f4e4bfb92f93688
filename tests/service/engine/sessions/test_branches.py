"""Positions compare only within a branch: nothing reaches a session's next past."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import Piece, generate
from service.engine.sessions.info import SessionInfo
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import (
    INLINE,
    WORKER,
    Fakes,
    fakes,
    fakes_on,
    leftovers,
    set_worth_a_batch,
)
from tests.service.engine.wires import Wire, ask

BOTH = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


def branch_of(house: Fakes, name: str) -> int:
    return house.engine.directory.describe(name).branch


async def begun(call: Awaitable[Any]) -> "asyncio.Task[Any]":
    """A call that has asked for what it wants, and waits."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    return task


async def generated(house: Fakes, name: str, prompt: list[int], **options: Any) -> list[Piece]:
    steps = house.served.reader.tokens(np.array(prompt)) if prompt else None
    pieces = generate(
        house.engine, name, prompt=steps, max_steps=5, sampling=Sampling(seed=1), **options
    )
    return [piece async for piece in pieces]


async def stale(answer: Awaitable[Any]) -> errors.StaleBranchError:
    with pytest.raises(errors.StaleBranchError) as caught:
        await answer
    return caught.value


async def test_a_branch_is_new_when_a_session_is_opened_or_reset() -> None:
    async with fakes() as house:
        found = set()
        for _ in range(3):
            house.open("a")
            found.add(branch_of(house, "a"))
            await ask(house, "a", [1], 0)[1]  # type: ignore[misc]
            found.add(branch_of(house, "a"))
            info = await house.engine.reset("a")
            assert info.branch == branch_of(house, "a")
            found.add(info.branch)
            await house.engine.close("a")
        assert len(found) == 6
        assert all(0 < branch < 2**63 for branch in found)


@BOTH
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("claims", [True, False])
async def test_what_is_taken_behind_a_reset_is_never_applied_after_it(
    inline_run_s: float, before: int, claims: bool
) -> None:
    """It is for the branch before, whether it says so or not: at position 0 nothing else tells."""
    async with fakes(inline_run_s=inline_run_s) as house:
        for name in "ab":
            house.open(name)
        wire = await Wire(house).attach("a", "b")
        if before:
            await ask(house, "a", [5] * before, 0)[1]  # type: ignore[misc]
        branch = branch_of(house, "a") if claims else 0
        house.runners[0].gate.clear()
        if inline_run_s == WORKER:  # which is held up by somebody else
            other = wire.single(1, 1)
            await asyncio.sleep(0.01)
        reset = await begun(house.engine.reset("a"))
        rows = [
            # Of what was applied before it, too, nothing is told again.
            *[ask(house, "a", [5] * before, 0, branch=branch)[0] for _ in range(before)],
            ask(house, "a", [7], before, branch=branch)[0],
            ask(house, "a", [7, 8], before, branch=branch)[0],
            ask(house, "a", [7], None, branch=branch)[0],
            wire.single(0, 7, before),
            wire.single(0, 7),
            *wire.frame({0: ([7], before)}),
            *wire.frame({0: ([7, 8], -1)}),
        ]
        asked: list[asyncio.Task[Any]] = []
        if claims or inline_run_s == WORKER:  # inline, the reset has run before they begin
            asked.append(await begun(generated(house, "a", [7], position=before, branch=branch)))
            if before:
                asked.append(await begun(generated(house, "a", [], branch=branch)))
        if claims:
            asked.append(await begun(house.engine.describe("a", branch=branch)))
            asked.append(await begun(house.engine.reset("a", branch=branch)))
        house.runners[0].gate.set()
        info: SessionInfo = await asyncio.wait_for(reset, 5)
        await house.settle()
        for row in rows:
            assert isinstance(row.refusal, errors.StaleBranchError)
            assert (row.refusal.branch, row.refusal.position) == (info.branch, 0)
        for each in asked:
            assert (await stale(each)).branch == info.branch
        assert house.position("a") == 0
        assert not leftovers(house.served)
        if inline_run_s == WORKER:
            assert other.reply == (1, run_alone([1])[0], False)
        after = ask(house, "a", [9], 0, branch=info.branch)[0]
        await house.settle()
        assert after.reply == (1, run_alone([9])[0], False)


@pytest.mark.parametrize("kind", ["unary", "single", "frame", "chunk"])
async def test_what_comes_while_a_reset_runs_is_never_applied_after_it(kind: str) -> None:
    """It is looked at when the reset was committed, and its session is idle."""
    async with fakes(inline_run_s=WORKER) as house:
        for name in "ab":
            house.open(name)
        wire = await Wire(house).attach("a", "b")
        branch = branch_of(house, "a")
        set_worth_a_batch(house.served, 0)  # the worker may have a second run at any time
        house.runners[0].gate.clear()
        wire.single(1, 1)
        await asyncio.sleep(0.01)
        reset = await begun(house.engine.reset("a"))
        await asyncio.sleep(0.01)  # the worker has it, too, as its next run
        match kind:
            case "unary":
                row = ask(house, "a", [7], 0, branch=branch)[0]
            case "single":
                row = wire.single(0, 7, 0)
            case "frame":
                (row,) = wire.frame({0: ([7], 0)})
            case _:
                (row,) = wire.frame({0: ([7, 8], 0)})
        await asyncio.sleep(0.01)
        assert house.served.shards[0]._inbox, "nobody has looked at it"
        house.runners[0].gate.set()
        time.sleep(0.02)  # noqa: ASYNC251 - both ends are the next things that the loop hears of
        assert (await reset).position == 0
        await house.settle()
        assert isinstance(row.refusal, errors.StaleBranchError)
        assert house.position("a") == 0


@BOTH
async def test_what_was_taken_before_a_reset_is_applied_before_it(inline_run_s: float) -> None:
    async with fakes(inline_run_s=inline_run_s) as house:
        house.open("a")
        wire = await Wire(house).attach("a")
        branch = branch_of(house, "a")
        rows = [ask(house, "a", [1], 0, branch=branch)[0], wire.single(0, 2), wire.single(0, 3, 2)]
        info = await house.engine.reset("a", branch=branch)
        await house.settle()
        assert [row.reply[1] for row in rows] == run_alone([1, 2, 3])
        assert (info.position, info.branch) == (0, branch_of(house, "a"))


@BOTH
async def test_what_waits_behind_a_reset_delays_nobody_on_the_new_branch(
    inline_run_s: float,
) -> None:
    async with fakes(inline_run_s=inline_run_s) as house:
        for name in "ab":
            house.open(name)
        wire = await Wire(house).attach("a", "b")
        house.runners[0].gate.clear()
        if inline_run_s == WORKER:
            wire.single(1, 1)
            await asyncio.sleep(0.01)
        reset = await begun(house.engine.reset("a"))
        late = [wire.single(0, 7) for _ in range(3)]
        house.runners[0].gate.set()
        await reset
        # At no position in particular: what is to be refused must not be counted.
        row = ask(house, "a", [9], None)[0]
        await house.settle()
        assert row.reply == (1, run_alone([9])[0], False)
        assert all(isinstance(each.refusal, errors.StaleBranchError) for each in late)


async def test_a_retry_that_waits_for_its_first_sending_is_not_applied_after_a_reset() -> None:
    async with fakes(inline_run_s=WORKER) as house:
        for name in "ab":
            house.open(name)
        wire = await Wire(house).attach("b")
        house.runners[0].gate.clear()
        wire.single(0, 1)
        await asyncio.sleep(0.01)
        first, call = ask(house, "a", [7], 0)
        retry, _ = ask(house, "a", [7], 0)  # may repeat the first: asked again after it
        await asyncio.sleep(0)
        reset = await begun(house.engine.reset("a"))
        assert call is not None
        call.cancel()
        house.runners[0].gate.set()
        await reset
        await house.settle()
        assert isinstance(first.refusal, errors.CallerGoneError)
        assert isinstance(retry.refusal, errors.StaleBranchError)
        assert house.position("a") == 0


@BOTH
async def test_a_channel_is_refused_until_it_is_attached_again(inline_run_s: float) -> None:
    async with fakes(2, inline_run_s=inline_run_s) as house:
        names = [house.open(f"s{number}") for number in range(8)]
        wire = await Wire(house).attach(*names)
        wire.frame({number: ([1], 0) for number in range(8)})
        await house.settle()
        for name in names[::2]:
            await house.engine.reset(name)
        for _ in range(2):
            rows = wire.frame({number: ([2], -1) for number in range(8)})
            rows += [wire.single(number, 3, 0) for number in range(0, 8, 2)]
            await house.settle()
            for number, row in zip([*range(8), 0, 2, 4, 6], rows, strict=True):
                if number % 2:
                    assert row.replies
                    continue
                assert isinstance(row.refusal, errors.StaleBranchError)
                assert row.refusal.branch == branch_of(house, names[number])
        for number in range(0, 8, 2):
            await wire.attach_again(names[number], first=number)
        rows = [wire.single(number, 9, 0) for number in range(0, 8, 2)]
        await house.settle()
        assert [row.reply for row in rows] == [(1, run_alone([9])[0], False)] * 4


async def test_a_stale_channel_leaves_its_session_open() -> None:
    async with fakes() as house:
        for name in "ab":
            house.open(name)
        wire = await Wire(house).attach("a", "b")
        await house.engine.reset("a")
        gone = await wire.stream.attachments.detach(np.arange(2), close=True)
        assert gone.tolist() == [0, 1]
        assert set(house.engine.directory.sessions) == {"a"}


async def test_attaching_checks_the_branches_that_are_given() -> None:
    async with fakes() as house:
        old = {name: branch_of(house, house.open(name)) for name in "abcd"}
        await house.engine.reset("b")
        await house.engine.close("c")
        house.open("c")
        attach = Wire(house).stream.attachments.attach
        attached = await attach(
            list("abcd"),
            np.arange(4),
            open_sessions=False,
            branches=[old["a"], old["b"], old["c"], 0],
        )
        assert attached.channels.tolist() == [0, 3]
        assert attached.branches.tolist() == [old["a"], old["d"]]
        for refusal, name in zip(attached.refusals, "bc", strict=True):
            assert isinstance(refusal.error, errors.StaleBranchError)
            assert (refusal.error.branch, refusal.position) == (branch_of(house, name), 0)
        with pytest.raises(errors.BadInputError, match=r"attach\.branches: 1 for 2 sessions"):
            await attach(["b", "c"], np.array([8, 9]), open_sessions=False, branches=[1])
        with pytest.raises(errors.BadInputError, match=r"attach\.branches: .* opened"):
            await attach(["new"], np.array([8]), open_sessions=True, branches=[1])
        assert "new" not in house.engine.directory.sessions


@BOTH
@pytest.mark.parametrize("anew", ["reset", "opened"])
async def test_late_duplicates_change_nothing(inline_run_s: float, anew: str) -> None:
    async with fakes(inline_run_s=inline_run_s) as house:
        house.open("a")
        wire = await Wire(house).attach("a")
        old = branch_of(house, "a")
        first, framed = ask(house, "a", [1], 0, branch=old)[0], wire.single(0, 2, 1)
        await house.settle()
        assert first.replies
        assert framed.replies
        if anew == "reset":
            await house.engine.reset("a", branch=old)
        else:
            await house.engine.close("a", branch=old)
            house.open("a")
        new = branch_of(house, "a")
        gone = errors.StaleBranchError if anew == "reset" else errors.SessionClosedError
        for position, read in ((0, []), (1, [1]), (2, [1, 2])):
            assert house.position("a") == position
            for tokens, at in (([1], 0), ([2], 1), ([3], position), ([1, 2], 0)):
                row = ask(house, "a", tokens, at, branch=old)[0]
                await house.settle()
                assert isinstance(row.refusal, errors.StaleBranchError)
                assert (row.refusal.branch, row.refusal.position) == (new, position)
                framed = wire.single(0, tokens[-1], at)
                (chunk,) = wire.frame({0: (tokens, at)})
                await house.settle()
                assert type(framed.refusal) is type(chunk.refusal) is gone
            for late in (
                house.engine.describe("a", branch=old),
                house.engine.describe("a", branch=old, settle=True),
                house.engine.reset("a", branch=old),
                house.engine.close("a", branch=old),
                generated(house, "a", [1], position=0, branch=old),
                generated(house, "a", [], branch=old),
            ):
                error = await stale(late)
                assert (error.branch, error.position) == (new, position)
            if position:
                assert house.state("a") == run_alone(read)[-1]
            row = ask(house, "a", [position + 1], position, branch=new)[0]
            await house.settle()
            assert row.reply == (position + 1, run_alone([*read, position + 1])[-1], False)


async def test_each_reset_is_told_the_branch_that_it_began() -> None:
    async with fakes(inline_run_s=INLINE) as house:
        house.open("a")
        one, two = await asyncio.gather(house.engine.reset("a"), house.engine.reset("a"))
        assert one.branch != two.branch == branch_of(house, "a")
        row = ask(house, "a", [1], 0, branch=one.branch)[0]
        assert isinstance(row.refusal, errors.StaleBranchError)
        assert house.position("a") == 0


async def read_within(pieces: AsyncIterator[Piece], position: int) -> None:
    async for piece in pieces:
        assert piece.position <= position


@BOTH
async def test_a_generation_that_waits_for_its_client_does_not_go_on_after_a_reset(
    inline_run_s: float,
) -> None:
    """Its session stands where it stood, but on another branch."""
    async with fakes_on(
        DecodingRunner, inline_run_s=inline_run_s, max_request_steps=10_000
    ) as house:
        house.open("a")
        prompt = house.served.reader.tokens(np.array([1]))
        pieces = generate(
            house.engine, "a", prompt=prompt, max_steps=50_000, sampling=Sampling(seed=1)
        )
        first = await anext(pieces)
        position = 0
        while position != house.position("a"):  # until it waits
            position = house.position("a")
            await asyncio.sleep(0.2)
        assert position > first.position
        info = await house.engine.reset("a")
        call = ask(house, "a", [2] * position, 0, branch=info.branch)[1]
        assert call is not None
        await call
        assert house.position("a") == position
        await stale(read_within(pieces, position))
        assert house.position("a") == position
        await house.settle()
        assert not leftovers(house.served)
