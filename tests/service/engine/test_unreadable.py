"""A step that the model cannot read is refused by itself: no neighbour notices."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from models.compile.stateless import compile_stateless
from service import errors
from service.engine.calls.generate import generate
from service.engine.calls.predict import predict
from service.engine.execution.runner import UnwrittenError
from service.engine.execution.stateless import StatelessRunner
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.foreign import lookup_case, whole_lookup
from tests.recurrent import whole_case
from tests.service.engine.fakes import VOCABULARY, FakeRunner, advance, run_alone
from tests.service.engine.houses import (
    INLINE,
    WORKER,
    Fakes,
    Reals,
    fakes,
    fakes_on,
    leftovers,
    reals,
    wholes,
)
from tests.service.engine.wires import RAW, Row, Wire, ask

NAMES = tuple("abcdefg")
BAD = 13  # the token that the fake cannot read
GOOD = 7


@pytest.fixture(params=[INLINE, WORKER], ids=["inline", "worker"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[Fakes]:
    async with fakes(inline_run_s=request.param) as house:
        house.runners[0].unreadable = BAD
        for name in NAMES:
            house.open(name)
        yield house


def check_refused(row: Row) -> None:
    error = row.refusal
    assert isinstance(error, errors.BadInputError)
    assert error.metadata["field"] == "inputs"
    assert str(error).startswith("inputs: the model cannot read them: as told")


@pytest.mark.parametrize("bad", [[0], [3], [6], [0, 1], [2, 5, 6], range(7)], ids=str)
async def test_a_frame_loses_only_the_rows_that_cannot_be_read(house: Fakes, bad: Any) -> None:
    wire = await Wire(house).attach(*NAMES)
    wire.frame({n: ([1], 0) for n in range(7)})
    await house.settle()
    with capture_logs() as logs:
        rows = wire.frame({n: ([BAD if n in bad else 2], 1) for n in range(7)})
        await house.settle()
    assert not logs, "what a caller sends is no fault of ours"
    for n, row in enumerate(rows):
        if n in bad:
            check_refused(row)
        else:
            assert row.reply == (2, run_alone([1, 2])[-1], False)
    after = wire.frame({n: ([3], -1) for n in range(7)})  # whoever was refused goes on
    await house.settle()
    for n, row in enumerate(after):
        read = [1, 3] if n in bad else [1, 2, 3]
        assert row.reply == (len(read), run_alone(read)[-1], False)


async def test_few_runs_find_one_bad_row_among_many() -> None:
    async with fakes(max_batch=64) as house:
        device = house.runners[0]
        device.unreadable = BAD
        names = [house.open(f"s{n}") for n in range(32)]
        wire = await Wire(house).attach(*names)
        rows = wire.frame({n: ([BAD if n == 20 else 2], 0) for n in range(32)})
        await house.settle()
        check_refused(rows[20])
        assert sum(row.answers for row in rows) == 32
        assert sorted(map(len, device.batches)) == [1, 2, 4, 8, 16]


async def test_chunks_are_refused_whole_wherever_they_cannot_be_read(house: Fakes) -> None:
    wire = await Wire(house).attach(*NAMES)
    wire.frame({n: ([1], 0) for n in range(7)})
    await house.settle()
    good = [GOOD] * 10
    asked = {n: (list(good), 1) for n in range(7)}
    for n, at in ((0, 0), (2, 5), (3, 9)):  # of three pieces: the first, the second, the last
        asked[n][0][at] = BAD
    asked[4] = ([BAD], 1)
    rows = wire.frame(asked)
    await house.settle()
    for n, row in enumerate(rows):
        if n in (0, 2, 3, 4):
            check_refused(row)
        else:
            assert row.reply == (11, run_alone([1, *good])[-1], False)
    assert "(in steps 4 to 7)" in str(rows[2].refusal)
    after = [wire.single(n, 3) for n in range(7)]
    await house.settle()
    assert [row.reply[1] for row in after] == [
        run_alone([1, 3] if n in (0, 2, 3, 4) else [1, *good, 3])[-1] for n in range(7)
    ]


async def test_dry_runs_beside_steps(house: Fakes) -> None:
    read = house.served.reader.tokens

    async def step(name: str, token: int, *, commit: bool) -> Any:
        return await house.engine.step(name, read(np.array([token])), outputs=RAW, commit=commit)

    results: Any = await asyncio.gather(
        step("a", 1, commit=True),
        step("b", BAD, commit=False),
        step("c", 2, commit=False),
        step("d", BAD, commit=True),
        return_exceptions=True,
    )
    assert [isinstance(result, errors.BadInputError) for result in results] == [
        False,
        True,
        False,
        True,
    ]
    assert [house.position(name) for name in "abcd"] == [1, 0, 0, 0]
    assert results[2].answers.raw[0, 0] == run_alone([2])[0]


async def test_what_is_queued_behind_it_is_told_where_the_session_stands(house: Fakes) -> None:
    wire = await Wire(house).attach("a")
    rows = [wire.single(0, token) for token in (1, BAD, 2)]
    rows += [wire.single(0, 5, 1)]
    await house.settle()
    assert rows[0].reply[0] == 1
    check_refused(rows[1])
    assert isinstance(rows[2].refusal, errors.PositionMismatchError)
    again = wire.single(0, 4, 1)
    await house.settle()
    assert (rows[3].reply if rows[3].replies else again.reply)[0] == 2


async def test_a_prompt_that_cannot_be_read_leaves_the_session(house: Fakes) -> None:
    prompt = house.served.reader.tokens(np.array([1, BAD, 2]))
    call = generate(house.engine, "a", prompt=prompt, max_steps=5, sampling=Sampling(seed=1))
    with pytest.raises(errors.BadInputError, match="inputs: the model cannot read them"):
        await anext(call)
    assert house.position("a") == 0


async def test_a_generation_that_draws_it_ends_there_and_the_others_go_on(house: Fakes) -> None:
    first, read = 0, [0]
    for first in range(VOCABULARY):  # a beginning that draws the bad token after some others
        state, read = advance(0, first), [first]
        while len(read) < 6 and state % VOCABULARY != BAD and first != BAD:
            read.append(state % VOCABULARY)
            state = advance(state, read[-1])
        if state % VOCABULARY == BAD and 2 < len(read) < 6:
            break

    async def run(name: str, token: int) -> list[int]:
        prompt = house.served.reader.tokens(np.array([token]))
        call = generate(house.engine, name, prompt=prompt, max_steps=6, sampling=Sampling(seed=1))
        found: list[int] = []
        try:
            async for piece in call:
                found += piece.tokens
        except errors.BadInputError:
            found.append(-1)
        return found

    other = next(n for n in range(VOCABULARY) if n != first and BAD not in _drawn(n, 7))
    ended, whole = await asyncio.gather(run("a", first), run("b", other))
    assert ended == [*read[1:], -1]
    assert whole == _drawn(other, 6)
    assert house.position("a") == len(read)
    assert house.state("a") == run_alone(read)[-1]
    assert house.engine.directory.describe("a").status is SessionStatus.OPEN


def _drawn(token: int, steps: int) -> list[int]:
    """What the fake draws after a token."""
    state, found = advance(0, token), []
    for _ in range(steps):
        found.append(state % VOCABULARY)
        state = advance(state, found[-1])
    return found


async def test_a_whole_sequence_that_cannot_be_read_is_named(house: Fakes) -> None:
    steps = house.served.reader.tokens(np.array([1, 2, 3, BAD, 4, 4]))
    with pytest.raises(errors.BadInputError, match="inputs, row 1: the model cannot") as caught:
        await predict(house.engine, house.served, steps, np.array([2, 3, 1]), outputs=RAW)
    assert caught.value.metadata == {"field": "inputs", "row": "1"}
    await house.engine.drain()
    assert house.served.usage.spares == 0


async def test_callers_with_whole_sequences_leave_each_other_alone() -> None:
    model = whole_lookup(4, 7)
    runner = StatelessRunner(compile_stateless(model), isolated=False)
    case = replace(whole_case(), model=model)
    async with wholes(case, runner=runner) as (engine, served):

        async def ask_for(*tokens: int, counts: list[int]) -> Any:
            steps = served.reader.tokens(np.array(tokens))
            return await predict(engine, served, steps, np.array(counts), outputs=RAW)

        found: Any = await asyncio.gather(
            ask_for(1, 2, 1, 5, counts=[2, 2]),
            *(ask_for(n, 1, counts=[2]) for n in range(4)),
            return_exceptions=True,
        )
        bad, *good = found
        assert isinstance(bad, errors.BadInputError)
        assert str(bad).startswith("inputs, row 1: the model cannot read them: Gather 'table'")
        assert [result.answers.raw.tolist() for result in good] == [[[2, 3]]] * 4


class Torn(FakeRunner):
    """Fails before it writes where several rows run, and in the midst of a bad one alone."""

    armed = False

    def step(self, **columns: Any) -> Any:
        if self.armed and len(columns["write"]) > 1:
            raise UnwrittenError
        if self.unreadable == columns["inputs"][0, 0]:
            raise RuntimeError("torn")
        return super().step(**columns)


async def test_a_row_that_may_be_half_written_is_lost_and_no_other() -> None:
    async with fakes_on(Torn, inline_run_s=WORKER) as house:
        for name in NAMES:
            house.open(name)
        wire = await Wire(house).attach(*NAMES)
        device = house.runners[0]
        assert isinstance(device, Torn)
        device.armed, device.unreadable = True, BAD
        rows = wire.frame({n: ([BAD if n == 1 else n], 0) for n in range(4)})
        await house.settle()
        assert isinstance(rows[1].refusal, errors.StateLostError)
        assert [rows[n].reply[1] for n in (0, 2, 3)] == [run_alone([n])[0] for n in (0, 2, 3)]


async def test_a_fault_that_is_not_the_inputs_is_one_of_ours() -> None:
    class Full(FakeRunner):
        def step(self, **columns: Any) -> Any:
            if self.fail_next:
                raise UnwrittenError from MemoryError()
            return super().step(**columns)

    async with fakes_on(Full) as house:
        house.open("a")
        house.runners[0].fail_next = True
        row, _ = ask(house, "a", [1], 0)
        await house.settle()
        assert type(row.refusal) is errors.InternalError
        house.runners[0].fail_next = False
        again, _ = ask(house, "a", [1], 0)
        await house.settle()
        assert again.reply == (1, run_alone([1])[0], False)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_graph_that_fails_has_written_nothing(inline_run_s: float) -> None:
    """The state is there before the operator that fails has run."""
    async with reals(lookup_case(), inline_run_s=inline_run_s) as house:
        names = [house.engine.open(house.served, f"s{n}").id for n in range(3)]

        async def step(name: str, *values: float, commit: bool = True) -> list[float]:
            steps = house.served.reader.values(np.array([(v, 1) for v in values], "f4").ravel())
            result = await house.engine.step(name, steps, outputs=Outputs(raw=True), commit=commit)
            assert result.answers.raw is not None
            return list(result.answers.raw[0].tolist())

        await asyncio.gather(*(step(name, 2) for name in names))
        for sent, commit in (((9,), True), ((9,), False), ((1, 1, 9, 1), True)):
            before = house.state(names[1])
            others = [await _peek(house, name) for name in names]
            refused, *found = await asyncio.gather(
                step(names[1], *sent, commit=commit),
                step(names[0], 3),
                step(names[2], 1),
                return_exceptions=True,
            )
            assert isinstance(refused, errors.BadInputError)
            assert "Gather 'table': indices element out of data bounds, idx=9" in str(refused)
            assert found == [
                [others[0][0] / 2 + 3, others[0][1] / 2 + 1],
                [others[2][0] / 2 + 1, others[2][1] / 2 + 1],
            ]
            for one, other in zip(before, house.state(names[1]), strict=True):
                assert np.array_equal(one, other)
        assert house.position(names[1]) == 1


async def _peek(house: Reals, name: str) -> list[float]:
    return list(house.state(name)[0].tolist())


async def test_a_fault_while_it_is_tried_again_refuses_all_and_moves_nobody(
    house: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    wire = await Wire(house).attach(*NAMES)
    wire.frame({n: ([1], 0) for n in range(7)})
    await house.settle()
    with monkeypatch.context() as patched:
        patched.setattr("service.engine.shard.failures._halves", full)
        rows = wire.frame({n: ([BAD if n == 3 else 2], 1) for n in range(7)})
        await asyncio.wait_for(house.settle(), 10)
    assert all(isinstance(row.refusal, errors.CellarError) for row in rows)
    assert {house.position(name) for name in NAMES} == {1}
    again = wire.frame({n: ([2], 1) for n in range(7)})
    await house.settle()
    assert {row.reply[:2] for row in again} == {(2, run_alone([1, 2])[-1])}
    assert leftovers(house.served) == {}
