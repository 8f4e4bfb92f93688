"""What a caller of the engine can rely on, whatever the device does."""

import asyncio
import random

import numpy as np
import pytest

from service import errors
from service.engine.calls.generate import generate
from service.engine.scheduler.feedback.call import FinishReason
from service.engine.sessions.table.status import SessionStatus
from service.engine.stepping import StepCall, StepResult
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.engine.work.columns import Outputs
from service.engine.work.replies import Delivery
from service.engine.work.sampling import Sampling
from tests.service.engine.conftest import House
from tests.service.engine.fakes import VOCABULARY, advance, run_alone
from tests.service.engine.houses import promised_steps

RAW = Outputs(raw=True)
RAW_EVERY = Outputs(raw=True, every_step=True)


async def step(house: House, session: str, *tokens: int, **options: object) -> StepResult:
    options.setdefault("outputs", RAW)
    steps = house.served.reader.tokens(np.array(tokens, np.int64))
    return await house.engine.step(session, steps, **options)  # type: ignore[arg-type]


def state_of(result: StepResult) -> list[int]:
    assert result.answers.raw is not None
    return [int(value) for value in result.answers.raw[:, 0]]


def open_session(house: House, session: str = "a") -> str:
    return house.engine.open(house.served, session).id


async def test_interleaved_sessions_equal_each_alone(house: House) -> None:
    """The crown test on the fake: ragged sequences, single steps and chunks, at random."""
    dice = random.Random(7)
    sequences = {
        open_session(house, f"s{n}"): [
            dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 60))
        ]
        for n in range(24)
    }
    seen: dict[str, list[int]] = {name: [] for name in sequences}

    async def play(name: str, tokens: list[int]) -> None:
        at = 0
        while at < len(tokens):
            size = dice.choice([1, 1, 1, 2, 3, 5, 17])
            piece = tokens[at : at + size]
            result = await step(house, name, *piece, outputs=RAW_EVERY, position=at)
            at += len(piece)
            assert result.position == at
            seen[name].extend(state_of(result))
            await asyncio.sleep(0)

    await asyncio.gather(*(play(name, tokens) for name, tokens in sequences.items()))
    assert seen == {name: run_alone(tokens) for name, tokens in sequences.items()}
    assert max(map(len, house.runner.batches)) > 1, "nothing was batched"


async def test_a_retry_gets_the_same_reply_and_steps_once(house: House) -> None:
    open_session(house)
    first = await step(house, "a", 1, position=0)
    second = await step(house, "a", 2, position=1)
    again = await step(house, "a", 2, position=1)
    assert state_of(again) == state_of(second) != state_of(first)
    assert again.replayed
    assert not second.replayed
    assert again.position == 2
    third = await step(house, "a", 3, position=2)
    assert state_of(third) == run_alone([1, 2, 3])[-1:]


async def test_a_retried_chunk_gets_every_step_again(house: House) -> None:
    open_session(house)
    tokens = list(range(11))
    first = await step(house, "a", *tokens, position=0, outputs=RAW_EVERY)
    again = await step(house, "a", *tokens, position=0, outputs=RAW_EVERY)
    assert state_of(first) == state_of(again) == run_alone(tokens)
    assert again.replayed
    assert again.position == 11


async def test_a_retry_that_overtakes_the_first_try_is_applied_once(house: House) -> None:
    open_session(house)
    both = await asyncio.gather(
        step(house, "a", 5, position=0),
        step(house, "a", 5, position=0),
        step(house, "a", 5, position=0),
    )
    assert {state_of(result)[0] for result in both} == set(run_alone([5]))
    assert sorted(result.replayed for result in both) == [False, True, True]
    assert house.engine.directory.describe("a").position == 1


async def test_other_content_at_the_same_position_conflicts(house: House) -> None:
    open_session(house)
    await step(house, "a", 1, position=0)
    with pytest.raises(errors.StepConflictError):
        await step(house, "a", 2, position=0)
    with pytest.raises(errors.StepConflictError):
        await step(house, "a", 1, 1, position=0)
    assert state_of(await step(house, "a", 2, position=1)) == run_alone([1, 2])[-1:]


@pytest.mark.parametrize("sent", [0, 1, 7])
async def test_any_other_position_is_refused_with_the_current_one(house: House, sent: int) -> None:
    open_session(house)
    for token in (1, 2, 3):
        await step(house, "a", token)
    with pytest.raises(errors.PositionMismatchError) as caught:
        await step(house, "a", 3, position=sent)
    assert caught.value.metadata == {"position": "3"}
    assert house.engine.directory.describe("a").position == 3


async def test_steps_sent_ahead_run_in_order(house: House) -> None:
    open_session(house)
    results = await asyncio.gather(*(step(house, "a", n, position=n) for n in range(20)))
    assert [state_of(result)[0] for result in results] == run_alone(list(range(20)))
    assert [result.position for result in results] == list(range(1, 21))


async def test_a_dry_run_changes_nothing(house: House) -> None:
    open_session(house)
    await step(house, "a", 1)
    for tokens in ([2], [2, 3], list(range(9))):
        dry = await step(house, "a", *tokens, commit=False)
        assert state_of(dry) == run_alone([1, *tokens])[-1:]
        assert dry.position == 1
    with pytest.raises(errors.PositionMismatchError):
        await step(house, "a", 1, position=0, commit=False)
    assert state_of(await step(house, "a", 2, position=1)) == run_alone([1, 2])[-1:]


LONG = [1] * 60  # many pieces: what is queued behind it waits for a while


async def test_a_cancelled_step_is_not_applied(house: House) -> None:
    open_session(house)
    running = asyncio.create_task(step(house, "a", *LONG, position=0))
    queued = asyncio.create_task(step(house, "a", 2, position=60))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    await running
    assert state_of(await step(house, "a", 3, position=60)) == run_alone([*LONG, 3])[-1:]
    assert house.served.usage.pending_steps == 0


async def test_a_step_behind_a_cancelled_one_is_refused_not_misapplied(house: House) -> None:
    open_session(house)
    running = asyncio.create_task(step(house, "a", *LONG, position=0))
    queued = asyncio.create_task(step(house, "a", 2, position=60))
    behind = asyncio.create_task(step(house, "a", 3, position=61))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(errors.PositionMismatchError) as caught:
        await behind
    assert caught.value.position == 60
    await running
    assert state_of(await step(house, "a", 2, position=60)) == run_alone([*LONG, 2])[-1:]


async def test_a_long_chunk_that_is_cancelled_half_way_leaves_the_session_as_it_was(
    house: House,
) -> None:
    open_session(house)
    await step(house, "a", 1)
    running = asyncio.create_task(step(house, "a", *LONG, position=1))
    for _ in range(1000):
        if len(house.runner.batches) >= 3:
            break
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert state_of(await step(house, "a", 2, position=1)) == run_alone([1, 2])[-1:]
    assert house.served.usage.spares == 0


async def test_a_fault_is_told_and_the_session_can_be_reset(house: House) -> None:
    open_session(house, "a")
    open_session(house, "b")
    await step(house, "a", 1)
    await step(house, "b", 1)
    house.runner.fail_next = True
    with pytest.raises(errors.StateLostError) as caught:
        await step(house, "a", 2, position=1)
    assert "position 1" in str(caught.value)
    assert house.engine.directory.describe("a").status is SessionStatus.LOST
    with pytest.raises(errors.StateLostError):
        await step(house, "a", 2, position=1)
    assert state_of(await step(house, "b", 2)) == run_alone([1, 2])[-1:], "others go on"
    info = await house.engine.reset("a")
    assert (info.position, info.status) == (0, SessionStatus.OPEN)
    assert state_of(await step(house, "a", 4, position=0)) == run_alone([4])


async def test_a_fault_inside_a_long_chunk_leaves_the_session_as_it_was(house: House) -> None:
    open_session(house)
    await step(house, "a", 1)
    house.runner.fail_next = True  # the first piece: it writes a spare slot only
    with pytest.raises(errors.InternalError):
        await step(house, "a", *range(10), position=1)
    assert house.engine.directory.describe("a").status is SessionStatus.OPEN
    assert state_of(await step(house, "a", 2, position=1)) == run_alone([1, 2])[-1:]
    assert house.served.usage.spares == 0


async def test_a_faulty_dry_run_loses_nothing(house: House) -> None:
    open_session(house)
    await step(house, "a", 1)
    house.runner.fail_next = True
    with pytest.raises(errors.InternalError):
        await step(house, "a", 2, commit=False)
    assert state_of(await step(house, "a", 2, position=1)) == run_alone([1, 2])[-1:]


async def test_a_reset_session_starts_afresh(house: House) -> None:
    open_session(house)
    await step(house, "a", 1, 2, 3)
    await house.engine.reset("a")
    assert state_of(await step(house, "a", 9, position=0)) == run_alone([9])


async def test_a_closed_session_says_so_and_its_slot_is_clean_for_the_next(house: House) -> None:
    for _ in range(3):
        for n in range(32):
            open_session(house, f"s{n}")
        for n in range(32):
            assert state_of(await step(house, f"s{n}", n)) == run_alone([n])
        for n in range(32):
            assert house.engine.directory.close(f"s{n}") == 1
    with pytest.raises(errors.SessionClosedError):
        await step(house, "s0", 1)
    with pytest.raises(errors.SessionUnknownError):
        await step(house, "never", 1)


async def test_closing_refuses_queued_steps_and_spares_the_next_tenant(house: House) -> None:
    """A step queued for a closed session must not reach whoever gets the slot next."""
    open_session(house)
    queued = asyncio.create_task(step(house, "a", 1, position=0))
    await asyncio.sleep(0)
    house.engine.directory.close("a")
    open_session(house, "b")
    first = asyncio.create_task(step(house, "b", 7, position=0))
    with pytest.raises(errors.SessionClosedError):
        await queued
    assert state_of(await first) == run_alone([7])
    assert house.engine.directory.describe("b").position == 1


async def test_ids_limits_and_duplicates(house: House) -> None:
    for n in range(32):
        open_session(house, f"s{n}")
    with pytest.raises(errors.SessionExistsError):
        open_session(house, "s0")
    with pytest.raises(errors.SessionLimitError) as caught:
        open_session(house, "one too many")
    assert caught.value.retry_after_s is not None
    house.engine.directory.close("s3")
    open_session(house, "fits")
    for bad in ("x" * 129, "line\nbreak"):
        with pytest.raises(errors.BadInputError):
            open_session(house, bad)
    with pytest.raises(errors.BadInputError, match="idle_timeout"):
        house.engine.open(house.served, "z", idle_timeout_s=-1)


async def test_idle_sessions_expire_and_busy_ones_do_not(house: House) -> None:
    open_session(house, "idle")
    open_session(house, "busy")
    house.engine.open(house.served, "short", idle_timeout_s=10)
    house.clock.now_s += 11
    assert house.engine.directory.expire() == 1
    house.clock.now_s += 3000
    await step(house, "busy", 1)
    house.clock.now_s += 1000
    assert house.engine.directory.expire() == 1
    for gone in ("idle", "short"):
        with pytest.raises(errors.SessionExpiredError):
            await step(house, gone, 1)
    assert house.engine.directory.describe("busy").position == 1
    assert house.served.usage.sessions == 1


async def test_a_full_queue_refuses_and_changes_nothing(house: House) -> None:
    for n in range(4):
        open_session(house, f"s{n}")
    tasks = [asyncio.create_task(step(house, f"s{n % 4}", *([1] * 90))) for n in range(5)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, errors.OverloadedError)]
    assert len(refused) == 1
    assert refused[0].retry_after_s is not None
    assert [house.engine.directory.describe(f"s{n}").position for n in range(4)] == [90] * 4


async def test_bad_input_names_field_and_row(house: House) -> None:
    open_session(house)
    with pytest.raises(errors.BadInputError, match=r"inputs.tokens, row 1: token 64"):
        await step(house, "a", 1, 64)
    with pytest.raises(errors.BadInputError, match=r"inputs.tokens, row 0: token -1"):
        await step(house, "a", -1)
    with pytest.raises(errors.BadInputError, match="no step"):
        await step(house, "a")
    with pytest.raises(errors.BadInputError, match="limit of 200"):
        await step(house, "a", *([1] * 201))
    with pytest.raises(errors.BadInputError, match=r"outputs\.quantiles"):
        await step(house, "a", 1, outputs=Outputs(quantiles=(0.5,)))
    with pytest.raises(errors.BadInputError, match=r"outputs\.top_k"):
        await step(house, "a", 1, outputs=Outputs(top_k=VOCABULARY + 1))
    with pytest.raises(errors.BadInputError, match="temperature"):
        await step(house, "a", 1, outputs=Outputs(sample=True), sampling=Sampling(temperature=-1.0))
    assert house.engine.directory.describe("a").position == 0


async def test_a_draining_engine_finishes_what_runs_and_takes_nothing_new(house: House) -> None:
    open_session(house)
    running = asyncio.create_task(step(house, "a", *range(50)))
    await asyncio.sleep(0)
    drained = asyncio.create_task(house.engine.drain())
    await asyncio.sleep(0)
    with pytest.raises(errors.DrainingError):
        await step(house, "a", 1)
    with pytest.raises(errors.DrainingError):
        open_session(house, "b")
    assert (await running).position == 50
    await drained


async def test_generation_feeds_its_draws_back(house: House) -> None:
    open_session(house)
    prompt = house.served.reader.tokens(np.array([3, 4], np.int64))
    pieces = [
        piece
        async for piece in generate(
            house.engine, "a", prompt=prompt, max_steps=12, sampling=Sampling(), position=0
        )
    ]
    state = run_alone([3, 4])[-1]
    count = 0
    for piece in pieces:
        for token in piece.tokens:
            assert token == state % VOCABULARY
            state = advance(state, token)
        count += len(piece.tokens)
        assert piece.position == 2 + count
    assert count == 12
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason is FinishReason.LENGTH
    # What was generated has been read: the next generation needs no prompt.
    more = [
        piece
        async for piece in generate(
            house.engine, "a", prompt=None, max_steps=1, sampling=Sampling()
        )
    ]
    assert more[0].tokens == (state % VOCABULARY,)


async def test_generation_stops_at_a_stop_string(house: House) -> None:
    open_session(house)
    reader = house.served.reader
    state = run_alone([3])[-1]
    tokens = []
    for _ in range(6):
        tokens.append(state % VOCABULARY)
        state = advance(state, tokens[-1])
    stop = reader.symbols[tokens[4]] + reader.symbols[tokens[5]]
    pieces = [
        piece
        async for piece in generate(
            house.engine,
            "a",
            prompt=reader.tokens(np.array([3], np.int64)),
            max_steps=100,
            sampling=Sampling(),
            stop=[stop],
        )
    ]
    assert [token for piece in pieces for token in piece.tokens] == tokens
    assert pieces[-1].finish_reason is FinishReason.STOP


async def test_generation_refuses_what_it_cannot_do(house: House) -> None:
    open_session(house)

    async def run(**options: object) -> None:
        arguments = {"prompt": None, "max_steps": 5, "sampling": Sampling(), **options}
        async for _ in generate(house.engine, "a", **arguments):  # type: ignore[arg-type]
            pass

    with pytest.raises(errors.NotStartedError):
        await run()
    with pytest.raises(errors.BadInputError, match="max_steps"):
        await run(max_steps=0)
    with pytest.raises(errors.BadInputError, match="stop"):
        await run(stop=[""])
    with pytest.raises(errors.PositionMismatchError):
        await run(prompt=house.served.reader.tokens(np.array([1], np.int64)), position=4)
    assert house.engine.directory.describe("a").position == 0


async def test_draining_ends_even_when_all_that_was_queued_is_cancelled(house: House) -> None:
    open_session(house)
    running = asyncio.create_task(step(house, "a", *LONG))
    await asyncio.sleep(0)
    drained = asyncio.create_task(house.engine.drain())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait_for(drained, 5)
    assert house.served.usage.pending_steps == 0


async def test_an_answer_that_fails_hurts_only_who_asked_for_it(house: House) -> None:
    for name in "abc":
        open_session(house, name)
    a, b, c = await asyncio.gather(
        step(house, "a", 1, position=0),
        step(house, "b", 1, position=0, outputs=Outputs(probabilities=True)),  # the fake cannot
        step(house, "c", 1, position=0),
        return_exceptions=True,
    )
    assert isinstance(b, errors.InternalError)
    assert isinstance(a, StepResult)
    assert isinstance(c, StepResult)
    for name in "abc":
        info = house.engine.directory.describe(name)
        assert (info.position, info.status) == (1, SessionStatus.OPEN)
        assert state_of(await step(house, name, 2, position=1)) == run_alone([1, 2])[-1:]


async def test_a_retry_in_other_company_is_still_the_same_step(house: House) -> None:
    """A row's content must not depend on what else is in its frame."""
    open_session(house, "a")
    open_session(house, "b")
    stream, replies = await attached(house, "a", "b")
    reader = house.served.reader
    stream.submit(
        np.array([0, 1]),
        np.array([1, 3]),
        np.array([0, 0]),
        reader.tokens(np.array([5, 6, 7, 8])),
    )
    await house.served.drained()
    stream.submit(np.array([0]), None, np.array([0]), reader.tokens(np.array([5])))
    await house.served.drained()
    assert not any(reply.refusals for reply in replies)
    assert replies[-1].replayed


async def test_a_reset_takes_its_turn_under_a_steady_stream_of_steps(house: House) -> None:
    open_session(house)
    stopping = False
    refused = 0

    async def pipeline() -> None:
        nonlocal refused
        while not stopping:
            try:
                await step(house, "a", 1)
            except errors.StaleBranchError:
                refused += 1  # it was queued behind the reset for where the session was before

    steppers = [asyncio.create_task(pipeline()) for _ in range(4)]
    async with asyncio.timeout(20):
        while (before := house.engine.directory.describe("a").position) < 200:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await asyncio.wait_for(house.engine.reset("a"), 5)
    assert house.engine.directory.describe("a").position < before
    stopping = True
    await asyncio.gather(*steppers)
    assert promised_steps(house.served) == 0, "nothing is queued, so nothing is promised"


async def test_many_retries_of_a_queued_step_count_against_the_limit(house: House) -> None:
    open_session(house)
    first = asyncio.create_task(step(house, "a", *LONG, position=0))
    retries = [asyncio.create_task(step(house, "a", *LONG, position=0)) for _ in range(800)]
    results = await asyncio.gather(first, *retries, return_exceptions=True)
    overloaded = [r for r in results if isinstance(r, errors.OverloadedError)]
    answered = [r for r in results if isinstance(r, StepResult)]
    assert len(overloaded) >= 400, "the queue's limit is 400"
    assert len(overloaded) + len(answered) == 801
    assert {tuple(state_of(result)) for result in answered} == {tuple(run_alone(LONG)[-1:])}
    assert house.engine.directory.describe("a").position == len(LONG)


async def test_a_stale_retry_is_refused_at_once_while_others_are_queued(house: House) -> None:
    open_session(house)
    await step(house, "a", 1, position=0)
    running = asyncio.create_task(step(house, "a", *LONG, position=1))
    await asyncio.sleep(0)
    with pytest.raises(errors.PositionMismatchError):
        await step(house, "a", 1, position=0)
    assert not running.done()
    await running


async def test_a_session_closed_while_a_retry_waits_stays_closed(house: House) -> None:
    open_session(house)
    running = asyncio.create_task(step(house, "a", *LONG, position=0))
    retry = asyncio.create_task(step(house, "a", *LONG, position=0))
    await asyncio.sleep(0)
    house.engine.directory.close("a")
    open_session(house, "b")
    for task in (running, retry):
        with pytest.raises(errors.SessionClosedError):
            await task
    assert house.engine.directory.describe("b").position == 0
    assert state_of(await step(house, "b", 3, position=0)) == run_alone([3])


async def test_replies_of_many_steps_make_room_for_newer_ones(house: House) -> None:
    limit = house.engine.settings.max_history_bytes
    tokens = [1] * 100  # 400 bytes of predictions
    for n in range(limit // 400 + 1):
        open_session(house, f"s{n}")
        await step(house, f"s{n}", *tokens, position=0, outputs=RAW_EVERY)
    with pytest.raises(errors.ReplyLostError):
        await step(house, "s0", *tokens, position=0, outputs=RAW_EVERY)
    newest = await step(house, f"s{n}", *tokens, position=0, outputs=RAW_EVERY)
    assert newest.replayed
    assert state_of(newest) == run_alone(tokens)


async def attached(house: House, *names: str) -> tuple[SessionStream, list[Reply]]:
    """A stream with sessions on channels 0, 1, ..., and the replies it sends."""
    replies: list[Reply] = []
    stream = SessionStream(
        house.engine, house.served, outputs=RAW, sampling=None, send=replies.append
    )
    await stream.attachments.attach(names, np.arange(len(names)), open_sessions=False)
    return stream, replies


async def test_a_call_that_is_told_of_a_fault_twice_counts_once(house: House) -> None:
    flow = house.engine.flows.of("a caller")
    call = StepCall(lambda: None, 1, None, flow, 6)
    at = np.zeros(1, np.int64)
    for _ in range(2):
        call.fail(Delivery(rows=at, positions=at, error=errors.InternalError("a fault")))
    assert (flow.pending_steps, house.engine.flows.active) == (0, 0)
    with pytest.raises(errors.InternalError):
        await call


async def test_a_stream_that_cannot_begin_holds_nothing(house: House) -> None:
    accounts = len(house.engine.memory._accounts)
    with pytest.raises(errors.BadInputError):
        SessionStream(
            house.engine,
            house.served,
            outputs=Outputs(quantiles=(0.5,)),
            sampling=None,
            send=lambda _: None,
        )
    assert len(house.engine.memory._accounts) == accounts
