"""Sessions that are opened with a state of their own start from it, and are reset to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.compile.serving import arena_rows, named_states
from service import errors
from service.engine.calls.copies.fork import fork
from service.engine.calls.generate import generate
from service.engine.calls.snapshots.exporting import export, import_session
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.keys import INITIAL, SESSION, key
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Outputs
from service.engine.work.memory import Held
from service.engine.work.sampling import Sampling
from service.store.records import unpack
from tests.recurrent import Case, char_case, label_case, series_case, torch_predictions
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, advance
from tests.service.engine.houses import INLINE, WORKER, House, fakes_on, leftovers, reals
from tests.service.store.fake import FakeStore

Rows = Sequence[NDArray[np.float32]]
EVERY = Outputs(raw=True, every_step=True)
CASES: dict[str, Callable[..., Case]] = {
    "lstm": partial(char_case, "lstm"),
    "gru": partial(char_case, "gru"),
    "rnn": partial(char_case, "rnn"),
    "two layers": partial(char_case, "lstm", layers=2),
    "values": partial(series_case, "gru", layers=2),
    "labels": partial(label_case, "lstm"),
}
each_case = pytest.mark.parametrize("kind", CASES)
both_ways = pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])


def steps_for(case: Case, count: int, seed: int) -> NDArray[Any]:
    noise = np.random.default_rng(seed)
    if case.manifest.input.kind == "tokens":
        return noise.integers(0, len(case.manifest.input.vocabulary), count)
    return (100 * np.exp(np.cumsum(noise.normal(0, 0.02, count)))).astype(np.float32)


async def read(
    house: House,
    name: str,
    steps: NDArray[Any],
    *,
    commit: bool = True,
    position: int | None = None,
) -> NDArray[np.float32]:
    """The prediction after each step, (steps, width)."""
    reader = house.served.reader
    checked = reader.tokens(steps) if steps.dtype.kind == "i" else reader.values(steps)
    found = await house.engine.step(name, checked, outputs=EVERY, commit=commit, position=position)
    assert found.answers.raw is not None
    return found.answers.raw.copy()


def random_rows(case: Case, seed: int) -> Rows:
    """A state such as an encoder may send."""
    noise = np.random.default_rng(seed)
    states = {
        state.input: noise.normal(0, 0.5, int(np.prod(state.shape))).astype(np.float32)
        for state in case.manifest.states
    }
    return arena_rows(case.manifest, states)


@each_case
def test_states_by_name_are_rows_of_the_arena(kind: str) -> None:
    manifest = CASES[kind]().manifest
    rows = random_rows(CASES[kind](), 0)
    named = named_states(manifest, rows)
    assert list(named) == [state.input for state in manifest.states]
    assert [row.shape for row in named.values()] == [state.shape for state in manifest.states]
    again = arena_rows(manifest, dict(reversed(named.items())))
    assert all(np.array_equal(one, other) for one, other in zip(rows, again, strict=True))


@both_ways
@each_case
async def test_a_session_goes_on_from_another_ones_state(kind: str, inline_run_s: float) -> None:
    """Bit for bit, in single steps, chunks and dry steps, and again after a reset."""
    case = CASES[kind]()
    first, then = steps_for(case, 20, 1), steps_for(case, 20, 2)
    async with reals(case, inline_run_s=inline_run_s) as house:
        house.engine.open(house.served, "whole")
        await read(house, "whole", first)
        named = named_states(case.manifest, house.state("whole"))
        rows = arena_rows(case.manifest, {name: row.ravel() for name, row in named.items()})
        wanted = await read(house, "whole", then)
        ends = house.state("whole")

        house.engine.open(house.served, "own", initial=rows)
        house.engine.open(house.served, "model's")  # beside it: at 0, too
        others, found = await asyncio.gather(
            read(house, "model's", then[:1]), read(house, "own", then[:1], commit=False)
        )
        assert np.array_equal(found, wanted[:1])
        assert not np.array_equal(others, found)
        assert house.position("own") == 0
        dry = await read(house, "own", then, commit=False)
        assert np.array_equal(dry, wanted)
        for _ in range(2):
            one = await read(house, "own", then[:1], position=0)
            rest = await read(house, "own", then[1:])
            assert np.array_equal(np.concatenate([one, rest]), wanted)
            assert all(map(np.array_equal, house.state("own"), ends))
            await house.engine.reset("own")
            assert np.array_equal(await read(house, "own", then), wanted)
            await house.engine.reset("own")
        await house.engine.reset("model's")
        assert np.array_equal(await read(house, "model's", then[:1]), others)
        assert not leftovers(house.served)


@each_case
async def test_a_generation_goes_on_from_another_ones_state(kind: str) -> None:
    case = CASES[kind]()
    if kind == "labels":
        return  # they do not draw
    first, prompt = steps_for(case, 9, 1), steps_for(case, 3, 2)
    async with reals(case) as house:
        reader = house.served.reader
        checked = reader.tokens(prompt) if prompt.dtype.kind == "i" else reader.values(prompt)

        async def generated(name: str) -> list[float]:
            found: list[float] = []
            async for piece in generate(
                house.engine, name, prompt=checked, max_steps=30, sampling=Sampling(seed=4)
            ):
                found += [*piece.tokens, *piece.values]
            return found

        house.engine.open(house.served, "whole")
        await read(house, "whole", first)
        rows = house.state("whole")
        house.engine.open(house.served, "own", initial=rows)
        with pytest.raises(errors.NotStartedError):
            async for _ in generate(
                house.engine, "own", prompt=None, max_steps=1, sampling=Sampling()
            ):
                pass
        drawn = await generated("own")
        house.engine.open(house.served, "fed", initial=rows)
        house.engine.open(house.served, "model's")
        for name in ("fed", "model's"):
            await read(house, name, np.concatenate([prompt, np.array(drawn, prompt.dtype)]))
        own, fed, others = map(house.state, ("own", "fed", "model's"))
        assert all(map(np.array_equal, own, fed))
        assert not any(map(np.array_equal, own[:1], others[:1]))
        await house.engine.reset("own")
        assert await generated("own") == drawn
        assert all(map(np.array_equal, house.state("own"), fed))


@both_ways
@pytest.mark.parametrize("kind", ["lstm", "values"])
@pytest.mark.parametrize("durability", ["commit", "interval"])
async def test_it_outlives_crashes_and_stops(
    kind: str, durability: str, inline_run_s: float
) -> None:
    case, store = CASES[kind](), FakeStore()
    then = steps_for(case, 12, 2)
    house_of = partial(reals, case, inline_run_s=inline_run_s, durability=durability)
    starts = {name: random_rows(case, seed) for seed, name in enumerate("abcdef")}
    async with house_of() as house:
        for name, rows in starts.items():
            house.engine.open(house.served, name, initial=rows)
        wanted = {name: await read(house, name, then) for name in starts}

    async def check(house: House, name: str, start: int, count: int) -> None:
        found = await read(house, name, then[start : start + count], position=start)
        assert np.array_equal(found, wanted[name][start : start + count]), name

    async with house_of(store=store) as house:
        for name, rows in starts.items():
            await house.engine.settled(house.engine.open(house.served, name, initial=rows))
        store = store.crash()  # right after the opens
    async with house_of(store=store) as house:
        assert [house.position(name) for name in starts] == [0] * 6
        for name in "bcd":
            await check(house, name, 0, 5)
        await house.engine.reset("c")
        await house.engine.drain()
        store = store.crash()
    async with house_of(store=store) as house:  # which stops in good order
        await check(house, "a", 0, 2)
        await check(house, "b", 5, 3)
        await check(house, "c", 0, 1)
        await check(house, "c", 1, 1)
    assert {row[:1] for row, _ in store.rows(INITIAL)} == {INITIAL}
    assert len(list(store.rows(INITIAL))) == len(starts)
    async with house_of(store=store) as house:  # from checkpoints
        await house.engine.reset("d")
        await check(house, "d", 0, 4)
        await check(house, "b", 8, 4)
        await house.engine.reset("b")
        await house.engine.close("f")
        await check(house, "c", 2, 2)
    assert len(list(store.rows(INITIAL))) == len(starts) - 1
    async with house_of(store=store) as house:
        await check(house, "b", 0, 12)
        await check(house, "d", 4, 8)
        await house.engine.reset("a")
        await check(house, "a", 0, 12)
        await check(house, "e", 0, 12)
        for name in "abcde":
            found = house.find(name).shard.initials.of(house.find(name).slot)
            assert found is not None
            assert all(map(np.array_equal, found, starts[name]))
            await house.engine.close(name)
        assert house.engine.memory.by_kind[Held.INITIAL] == 0
    assert not list(store.rows(INITIAL))


@each_case
async def test_a_learned_state_is_as_one_that_is_given(kind: str) -> None:
    """The server starts where torch does, and to the bit where the same state is sent to it."""
    case, plain = CASES[kind](learned=True), CASES[kind]()
    then = steps_for(case, 20, 2)
    expected, _ = torch_predictions(case, then)
    async with reals(case) as house:
        house.engine.open(house.served, "learned")
        found = await read(house, "learned", then)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    rows = arena_rows(case.manifest, {s.input: s.start for s in case.manifest.states})
    assert any(row.any() for row in rows)
    async with reals(plain) as house:
        house.engine.open(house.served, "given", initial=rows)
        assert np.array_equal(await read(house, "given", then), found)
        house.engine.open(house.served, "zeros")
        assert not np.array_equal(await read(house, "zeros", then), found)


async def test_what_it_takes_is_counted_and_bounded() -> None:
    case = CASES["lstm"]()
    rows = random_rows(case, 0)
    size = sum(row.nbytes for row in rows)
    async with reals(case) as house:
        memory = house.engine.memory
        memory.limit = 6 * size  # of which a connection may have a half
        for name in ("a", "b"):
            house.engine.open(house.served, name, initial=rows)
        assert memory.by_kind[Held.INITIAL] == memory.used == 2 * size
        with pytest.raises(errors.OverloadedError, match=f"over its share of {9 * size // 4}"):
            house.engine.open(house.served, "c", initial=rows)
        memory.account(who=("another", None)).take(Held.STREAM, size)  # there is room for that
        memory.account().take(Held.STREAM, size)
        memory.limit = 4 * size
        with pytest.raises(errors.OverloadedError, match=f"a half of --buffer-memory, {2 * size}"):
            house.engine.open(house.served, "c", initial=rows)
        memory.count(Held.STREAM, -size, ("another", None))
        memory.count(Held.STREAM, -size, memory.caller)
        assert "c" not in house.engine.directory.sessions
        memory.limit = 6 * size
        await house.engine.close("a")
        with pytest.raises(errors.SessionExistsError):
            house.engine.open(house.served, "b", initial=rows)
        assert memory.used == size
        await house.engine.close("b")
        assert memory.used == 0
        memory.limit = 2**20
        house.engine.open(house.served, "b")  # the slot knows nothing of it any more
        house.engine.open(house.served, "a")
        house.engine.open(house.served, "d")
        one, other, third = [await read(house, n, steps_for(case, 3, 1)) for n in "bad"]
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


async def test_one_whose_state_is_not_in_the_store_is_lost_alone() -> None:
    case, store = CASES["lstm"](), FakeStore()
    then = steps_for(case, 4, 1)
    async with reals(case, store=store) as house:
        for name in "ab":
            house.engine.open(house.served, name, initial=random_rows(case, 3))
        wanted = await read(house, "b", then)
    (gone,) = [
        number
        for k, value in store.rows(SESSION)
        if (row := SessionRow.unpack(unpack(value)[0])).id == "a" and (number := row.number)
    ]
    store.write({}, [key(INITIAL, gone)])
    async with reals(case, store=store) as house:
        assert np.array_equal(await read(house, "b", then, position=0), wanted)
        for _ in range(2):
            assert (await house.engine.describe("a")).status is SessionStatus.LOST
            with pytest.raises(errors.StateLostError):
                await read(house, "a", then)
            await house.engine.reset("a")
        await house.engine.close("a")


@pytest.mark.parametrize("kind", ["gru", "values"])
async def test_one_that_comes_to_no_number_disturbs_nobody(kind: str) -> None:
    """Numbers so large that products of them are none are finite, and may be sent."""
    case, store = CASES[kind](), FakeStore()
    then = steps_for(case, 6, 1)
    large = [np.full_like(row, 3e38) for row in random_rows(case, 3)]
    large = [row * np.where(np.arange(len(row)) % 2, 1, -1).astype(np.float32) for row in large]
    async with reals(case, store=store) as house:
        for name in ("before", "large", "behind"):
            house.engine.open(house.served, name, initial=large if name == "large" else None)
        house.engine.open(house.served, "alone")
        wanted = await read(house, "alone", then)
        found = await asyncio.gather(
            *(read(house, name, then) for name in ("before", "large", "behind"))
        )
        assert np.array_equal(found[0], wanted)
        assert np.array_equal(found[2], wanted)
    async with reals(case, store=store) as house:  # nor where its checkpoint cannot be loaded
        for name in ("before", "behind"):
            assert np.array_equal(await read(house, name, then), await read_on(house, then))
        await house.engine.reset("large")
        assert house.position("large") == 0


async def read_on(house: House, then: NDArray[Any]) -> NDArray[np.float32]:
    """What a session finds that reads it twice."""
    name = house.engine.open(house.served).id
    await read(house, name, then)
    return await read(house, name, then)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_store", [False, True])
async def test_it_is_right_in_any_play(seed: int, with_store: bool) -> None:
    """Steps and resets beside each other, on a device that fails now and then, and crashes."""
    dice, store = random.Random(seed), FakeStore() if with_store else None
    starts = {f"s{n}": dice.randrange(1, 1000) if n % 3 else 0 for n in range(9)}
    logs: dict[str, list[int]] = {name: [] for name in starts}
    for life in range(3 if with_store else 1):
        async with fakes_on(
            DecodingRunner, store=store, inline_run_s=dice.choice([INLINE, WORKER])
        ) as house:
            (device,) = house.runners
            for name, start in starts.items() if not life else ():
                house.open(name, initial=start)

            async def live(name: str) -> None:
                for _ in range(15):
                    if dice.random() < 0.2:
                        await house.engine.reset(name)
                        logs[name] = []
                        continue
                    tokens = [dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 6))]
                    at = len(logs[name])
                    logs[name] += tokens
                    while True:
                        try:
                            found = await read(house, name, np.array(tokens), position=at)
                        except (errors.StoreUnavailableError, errors.InternalError):
                            await asyncio.sleep(0.001)
                        except errors.StateLostError:
                            assert not with_store
                            await house.engine.reset(name)
                            logs[name] = []
                            break
                        except errors.ReplyLostError:
                            break
                        else:
                            state = starts[name]
                            for token in logs[name]:
                                state = advance(state, token)
                            assert found[-1, 0] == state
                            break
                    if dice.random() < 0.3:
                        await asyncio.sleep(0)

            assert isinstance(device, DecodingRunner)
            device.fault_rate = 0.02 if with_store else 0.01
            await asyncio.gather(*map(live, starts))
            device.fault_rate = 0.0
            await house.settle()
            assert not leftovers(house.served)
            if store is not None and dice.random() < 0.7:
                await house.engine.drain()
                store = store.crash()


@pytest.mark.parametrize("has_store", [False, True])
async def test_it_goes_with_the_session_wherever_that_goes(has_store: bool) -> None:
    """Out of the arena and back, to a fork of it at position 0, and back to 0 by its history."""
    case, store = CASES["lstm"](), FakeStore() if has_store else None
    steps, rows = steps_for(case, 6, 1), [random_rows(case, seed) for seed in range(9)]
    alone = []
    async with reals(case) as house:
        for seed, own in enumerate(rows):
            house.engine.open(house.served, f"s{seed}", initial=own)
            alone.append(await read(house, f"s{seed}", steps))
    room = 9 * case.manifest.session_bytes
    small: dict[str, Any] = {"max_sessions": 2, "host_memory": room, "max_open_sessions": 100}
    async with reals(case, store=store, **small) as house:
        names = [f"s{seed}" for seed in range(9)]
        for name, own in zip(names, rows, strict=True):
            house.engine.open(house.served, name, initial=own, history_steps=100)
            await house.served.drained()
        for _ in range(2):
            for name, found in zip(names, alone, strict=True):
                forked = await fork(house.engine, name, f"{name} too")
                assert np.array_equal(await read(house, name, steps), found)
                earlier = await fork(house.engine, name, f"{name} again", position=0)
                for info in (forked, earlier):
                    assert info.position == 0
                    assert np.array_equal(await read(house, info.id, steps), found)
                    await house.engine.reset(info.id)
                    assert np.array_equal(await read(house, info.id, steps), found)
                    await house.engine.close(info.id)
                third = await fork(house.engine, name, f"{name} later", position=3)
                assert np.array_equal(await read(house, third.id, steps[3:]), found[3:])
                await house.engine.close(third.id)
                await house.engine.rewind(name, 0)
        for name, found in zip(names, alone, strict=True):
            await house.engine.rewind(name, 0)
            assert np.array_equal(await read(house, name, steps), found)
            await house.engine.rewind(name, 0)
            data = (await export(house.engine, name)).data
            await house.engine.close(name)
            info = await import_session(house.engine, data, name)
            assert info.position == 0
            assert np.array_equal(await read(house, name, steps), found)
