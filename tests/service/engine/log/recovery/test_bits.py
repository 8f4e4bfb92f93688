"""What is folded after a crash is the same bit for bit, or it is said that it may not be."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service import errors
from service.engine.log.recovery.arithmetics import Arithmetics
from service.engine.log.recovery.reading import read_store
from service.store.records import pack, unpack
from service.store.store import StoreError
from tests.service.engine.fakes import CutsRunner, DecodingRunner, ShapesRunner, run_alone
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes_on
from tests.service.engine.log.test_restart import read
from tests.service.engine.wires import Row, Wire, ask
from tests.service.store.fake import FakeStore

NAMES = "abcdefgh"


async def play(house: Fakes) -> None:
    """Each session is in runs of many sizes, and the last request of some is a long one."""
    for name in NAMES:
        house.open(name)
    wire = await Wire(house).attach(*NAMES)
    for size in (8, 3, 1, 5, 2):
        wire.frame({channel: ([channel + size], -1) for channel in range(size)})
        await house.settle()
    wire.frame({0: ([1, 2, 3, 4, 5, 6], -1), 1: ([7, 8, 9], -1), 2: ([1, 2], -1), 3: ([5], -1)})
    await house.settle()
    rows = wire.frame({0: ([1] * 9, -1), 1: ([2] * 6, -1), 2: ([3] * 5, -1), 4: ([4] * 2, -1)})
    ask(house, "f", [1, 2, 3, 4, 5, 6, 7], None)
    await house.settle()
    assert house.engine.log is not None
    await house.engine.log.flush()
    assert all(row.replies for row in rows)
    wire.stream.end()


def states(house: Fakes) -> dict[str, tuple[int, list[int]]]:
    """By session its state, and the steps that led to it, with the shapes of their runs."""
    (device,) = house.runners
    assert isinstance(device, DecodingRunner)
    rows = {name: house.row(name) for name in NAMES}
    return {name: (int(device.state[row]), device.tokens[row]) for name, row in rows.items()}


async def restored(house: Fakes) -> None:
    """Wait until all sessions are here."""
    (shard,) = house.served.shards
    while shard.store.cold or shard.store.is_thawing:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await house.settle()


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("device", [ShapesRunner, CutsRunner])
async def test_steps_are_folded_in_runs_of_their_first_shapes(
    device: type[DecodingRunner], inline_run_s: float
) -> None:
    store = FakeStore()
    async with fakes_on(device, store=store, inline_run_s=inline_run_s) as house:
        await play(house)
        before = states(house)
        assert len({token // 100 for _, tokens in before.values() for token in tokens}) > 3
        store = store.crash()
    async with fakes_on(device, store=store, inline_run_s=inline_run_s) as house:
        await restored(house)
        assert states(house) == before
        again, _ = ask(house, "a", [1] * 9, 11)
        await house.settle()
        assert again.reply == (20, before["a"][0], True)


async def test_where_bits_do_not_depend_on_runs_nothing_is_noted_of_them() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        await play(house)
        store = store.crash()
    for session in read_store(store).sessions.values():
        assert session.tail is not None
        assert not np.any(session.tail.read().buckets)
        assert not np.any(session.tail.read().run_steps)


async def retried(house: Fakes, name: str, token: int, position: int) -> Row:
    """A step that was applied, sent again."""
    row, _ = ask(house, name, [token], position)
    await house.settle()
    await house.engine.describe(name)
    return row


async def test_the_last_reply_is_lost_rather_than_other_under_another_arithmetic() -> None:
    store = FakeStore()
    async with fakes_on(ShapesRunner, store=store, arithmetic="one") as house:
        for name in "abc":
            house.open(name)
            await read(house, name, 1, 2, 3)
            await read(house, name, 4)
        upkeep = house.engine._upkeep
        assert upkeep is not None
        await upkeep.checkpoints.save(house.served.shards[0], np.array([house.find("c").slot]))
        store = store.crash()
    with capture_logs() as logs:
        async with fakes_on(DecodingRunner, store=store, arithmetic="other") as house:
            assert isinstance((await retried(house, "a", 4, 3)).refusal, errors.ReplyLostError)
            assert isinstance((await retried(house, "a", 5, 3)).refusal, errors.StepConflictError)
            assert (await house.engine.describe("a")).position == 4
            assert await read(house, "b", 5, position=4) == run_alone([1, 2, 3, 4, 5])[-1:]
            assert (await retried(house, "b", 5, 4)).reply == (
                5,
                run_alone([1, 2, 3, 4, 5])[-1],
                True,
            )
            assert (await retried(house, "c", 4, 3)).reply[2]  # there is nothing to fold
            store = store.crash()
    (told,) = [log for log in logs if log["log_level"] == "warning"]
    assert (told["sessions"], told["models"]) == (2, {"fake/1": 2})
    for _ in range(2):  # from the journal, and from a checkpoint
        async with fakes_on(DecodingRunner, store=store, arithmetic="other") as house:
            assert isinstance((await retried(house, "a", 4, 3)).refusal, errors.ReplyLostError)
    async with fakes_on(DecodingRunner, store=store, arithmetic="other") as house:
        assert await read(house, "a", 5, position=4) == run_alone([1, 2, 3, 4, 5])[-1:]
        assert (await retried(house, "a", 5, 4)).reply[2]


async def test_a_clean_stop_leaves_nothing_to_fold_under_another_arithmetic() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, arithmetic="one") as house:
        house.open("a")
        await read(house, "a", 1, 2)
    async with fakes_on(
        DecodingRunner, store=store, arithmetic="other", strict_replay=True
    ) as house:
        assert (await retried(house, "a", 3, 2)).reply[:2] == (3, run_alone([1, 2, 3])[-1])
        assert (await retried(house, "a", 3, 2)).reply[2]


async def test_a_strict_replay_refuses_another_arithmetic_and_changes_nothing() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store, arithmetic="one") as house:
        house.open("a")
        await read(house, "a", 1, 2)
        store = store.crash()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^1 of fake/1: .* start without --strict-replay$"):
            async with fakes_on(
                DecodingRunner, store=store, arithmetic="other", strict_replay=True
            ):
                pass
    async with fakes_on(DecodingRunner, store=store, arithmetic="one", strict_replay=True) as house:
        assert await read(house, "a", 1, 2, position=0) == run_alone([1, 2])
        assert await read(house, "a", 3, position=2) == run_alone([1, 2, 3])[-1:]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=8),
    st.integers(0, 30),
)
def test_each_group_keeps_the_arithmetic_that_it_was_run_under(
    starts: list[tuple[str, int]], oldest: int
) -> None:
    found, group, ran = Arithmetics(), 1, list[str]()
    for digest, groups in [*starts, ("a", 1)]:
        found = found.followed_by(digest, group, oldest=min(oldest, group))
        found = Arithmetics.unpack(unpack(pack(found.pack())))
        ran += [digest] * groups
        group += groups
    numbers = np.arange(min(oldest, group - 1), group)
    numbers = numbers[numbers > 0]
    same = [ran[number - 1] == "a" for number in numbers]
    assert found.same(numbers).tolist() == same
    assert all(same) or not found.all_same(int(numbers[0]))
    assert not found.same(np.zeros(1, np.int64)).any(), "there is no such group"
