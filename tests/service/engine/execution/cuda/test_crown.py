"""The crown test on a device: neighbours, batches and chunks change no bit of an answer."""

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from models.compile.arena import compile_model
from service.engine.engine import Engine
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runtime import CPU, Place
from service.engine.log.recovery.reading import read_store
from service.engine.served.registry import ServedModel, arena_rows
from service.engine.work.columns import Outputs
from service.errors import StoreUnavailableError
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import Store, StoreError
from tests.foreign import chunked_case
from tests.recurrent import Case
from tests.service.engine.execution.cuda.bench import CASES, Array, assert_near, case_of
from tests.service.engine.fakes import FakeRunner, fake_manifest
from tests.service.engine.test_crown import SESSIONS, cut, mean_batch, play, sequences, stop
from tests.service.store.fake import FakeStore

LIMITS: dict[str, Any] = {
    "max_sessions": SESSIONS, "spare_slots": 1024, "max_batch": 64, "chunk_steps": 8,
}  # fmt: skip


@dataclass
class Device:
    """An engine with one model on a device."""

    engine: Engine
    served: ServedModel
    runner: CudaRunner

    def states(self) -> list[list[Array]]:
        """Each session's rows."""
        resident = self.runner.arena.copied()
        slots = [self.engine.directory.find(f"s{n}").slot for n in range(SESSIONS)]
        return [[rows[slot] for rows in resident] for slot in slots]


def make_device(
    case: Case,
    place: Place,
    *,
    deterministic: bool,
    several: bool = False,
    store: Store | None = None,
) -> Device:
    settings = EngineSettings(**LIMITS)
    engine = Engine(settings, Metrics(), store=store)
    runner = CudaRunner(
        compile_model(case.model, device="cuda"),
        slots=arena_rows(settings, case.manifest),
        max_batch=settings.max_batch,
        place=place,
        deterministic=deterministic,
        several=several,
    )
    served = engine.registry.add(
        name=case.model.name,
        version=1,
        manifest=case.manifest,
        fingerprint=case.model.fingerprint,
        runners=(runner,),
    )
    served.warm_up()
    engine.restore_sessions()
    engine.loading = False
    return Device(engine=engine, served=served, runner=runner)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("kind", "cell"), CASES)
async def test_interleaved_sessions_equal_each_alone(
    kind: str, cell: str, deterministic: bool, place: Place
) -> None:
    """Bit for bit if all runs have one size; else as near as two sizes come."""
    case = case_of(kind, cell)
    dice = random.Random(cell)
    inputs = sequences(case, dice)
    wanted = (
        Outputs(raw=True, probabilities=True, sample=deterministic, every_step=True)
        if kind == "char"
        else Outputs(raw=True, quantiles=(0.1, 0.5, 0.9), every_step=True)
    )
    alone = make_device(case, place, deterministic=deterministic)
    expected = []
    for n, sequence in enumerate(inputs):
        session = alone.engine.open(alone.served, f"s{n}").id
        expected.append(await play(alone, session, sequence, [1] * len(sequence), wanted))  # type: ignore[arg-type]
    together = make_device(case, place, deterministic=deterministic)
    order = list(range(SESSIONS))
    dice.shuffle(order)
    for n in range(SESSIONS):
        together.engine.open(together.served, f"s{n}")
    played = await asyncio.gather(
        *(
            play(
                together,  # type: ignore[arg-type]
                f"s{n}",
                inputs[n],
                cut(len(inputs[n]), dice, chunks=n % 2 == 0),
                wanted,
            )
            for n in order
        )
    )
    assert mean_batch(together) > 4, "hardly anything was batched"  # type: ignore[arg-type]
    exact = deterministic or place == CPU  # the CPU's packed products have one arithmetic
    pairs = [(found, expected[n]) for n, found in zip(order, played, strict=True)]
    for mine, theirs in zip(together.states(), alone.states(), strict=True):
        pairs.extend(zip(mine, theirs, strict=True))
    for found, wished in pairs:
        if exact:
            assert np.array_equal(found, wished)
        else:
            assert_near(found, wished, place)
    for device in (alone, together):
        await stop(device)  # type: ignore[arg-type]


FOREIGN = {"ours": lambda: case_of("series"), "foreign": chunked_case}


@pytest.mark.parametrize("deterministic", [pytest.param(True, marks=pytest.mark.long), False])
@pytest.mark.parametrize("name", FOREIGN)
async def test_sessions_are_folded_to_the_bit_after_a_crash(
    name: str, deterministic: bool, place: Place
) -> None:
    """In runs of the sizes of the first time, and of a graph that is not ours in the same cuts."""
    case, dice, store = FOREIGN[name](), random.Random(3), FakeStore()
    noise, width = np.random.default_rng(5), case.manifest.input.width
    inputs = [
        np.exp(noise.normal(0, 0.1, (dice.randint(2, 40), width))).astype(np.float32)
        for _ in range(SESSIONS)
    ]
    before = make_device(case, place, deterministic=deterministic, store=store)
    for n in range(SESSIONS):
        before.engine.open(before.served, f"s{n}")

    async def feed(n: int) -> None:
        at = 0
        for size in cut(len(inputs[n]), dice, chunks=n % 2 == 0):
            steps = before.served.reader.values(inputs[n][at : at + size].ravel())
            await before.engine.step(f"s{n}", steps, outputs=Outputs(raw=True), position=at)
            at += size

    await asyncio.gather(*map(feed, range(SESSIONS)))
    sizes = {
        int(size)
        for session in read_store(store).sessions.values()
        for size in (session.tail.read().buckets if session.tail else ())
    }
    assert len(sizes) == 1 if deterministic else len(sizes) > 2, "all runs were of one size"
    after = make_device(case, place, deterministic=deterministic, store=store.crash())
    (shard,) = after.served.shards
    while shard.store.cold or shard.store.is_thawing:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await after.served.drained()
    for mine, theirs in zip(after.states(), before.states(), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert np.array_equal(one, other)
    for device in (before, after):
        with suppress(StoreError, StoreUnavailableError):  # of the one that has crashed
            await device.engine.drain()
        device.engine.stop()


class _OwnThreadRunner(FakeRunner):
    """Notes who calls."""

    own_thread = True

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.threads: set[int] = set()

    def step(self, **columns: Any) -> Any:
        self.threads.add(threading.get_ident())
        return super().step(**columns)


async def test_a_device_with_a_thread_of_its_own_is_never_run_on_the_loop() -> None:
    """Not even to warm up, and however short the runs are."""
    settings = EngineSettings(**LIMITS, inline_run_s=1e9)
    engine = Engine(settings, Metrics())
    runner = _OwnThreadRunner(arena_rows(settings, fake_manifest()))
    served = engine.registry.add(
        name="fake", version=1, manifest=fake_manifest(), fingerprint="f", runners=(runner,)
    )
    served.warm_up()
    (shard,) = served.shards
    thread, slots = shard.examine(lambda _, slots: (threading.get_ident(), slots))
    runner.threads.add(thread)
    assert slots.tolist() == list(range(len(runner.state) - 1))[-LIMITS["max_batch"] :]
    engine.loading = False
    engine.open(served, "s0")
    for _ in range(3):
        steps = served.reader.tokens(np.array([1]))
        await engine.step("s0", steps, outputs=Outputs(raw=True))
    assert len(runner.threads) == 1
    assert threading.get_ident() not in runner.threads
    await engine.drain()
    engine.stop()


async def test_what_goes_wrong_in_the_warm_up_is_said() -> None:
    settings = EngineSettings(**LIMITS)
    engine = Engine(settings, Metrics())
    runner = _OwnThreadRunner(arena_rows(settings, fake_manifest()))
    runner.fail_next = True
    served = engine.registry.add(
        name="fake", version=1, manifest=fake_manifest(), fingerprint="f", runners=(runner,)
    )
    with pytest.raises(RuntimeError, match="caught fire"):
        served.warm_up()
    engine.stop()
