"""Sessions that are upgraded over a real connection: equal bits, and every refusal."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np
import pytest
import pytest_asyncio

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from service.engine.log import chronicle
from tests.recurrent import (
    SYMBOLS,
    Case,
    char_case,
    label_case,
    series_case,
    write_repository,
)
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.copies.test_copies import emptied, opened, rows, stepped
from tests.service.rpc.native.test_sessions import refused, text
from tests.service.rpc.native.test_streams import Stream

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODE = grpc.StatusCode
MISSING = CODE.FAILED_PRECONDITION, "HISTORY_MISSING"
BAD = CODE.INVALID_ARGUMENT, "BAD_INPUT"
STALE = CODE.FAILED_PRECONDITION, "STALE_BRANCH"
LETTERS = "a sentence of some length, which is no sentence".replace(",", "") * 2
ALL = 2**53


def with_features(case: Case, *names: str) -> Case:
    """The same with other names of what it reads."""
    given = case.manifest.input.model_copy(update={"features": names})
    manifest = case.manifest.model_copy(update={"input": given})
    return replace(case, model=replace(case.model, manifest=manifest))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each in two versions: the second has another order of what it reads."""
    return write_repository(
        tmp_path_factory.mktemp("models"),
        char_case(),
        char_case(seed=1, symbols=SYMBOLS[::-1] + "!", layers=2, hidden=24),
        char_case(seed=2, symbols="abcdefg "),
        char_case("gru", name="gated"),
        char_case("gru", seed=1, symbols=SYMBOLS[9:] + SYMBOLS[:9], name="gated"),
        series_case(features=True),
        with_features(series_case(features=True, seed=1), "Volume", "Close", "hour"),
        label_case("gru", features=3),
        with_features(label_case("gru", features=3, seed=1), "x2", "x0", "x1"),
        with_features(label_case("gru", features=3, seed=2), "x2", "x0", "other"),
        label_case(),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", "store"])
async def one_server(
    models: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Wire]:
    others = {}
    if request.param == "store":
        others["store"] = f"lmdb:{tmp_path_factory.mktemp('served') / 'store'}"
    with patch.object(chronicle, "BASE_STEPS", 16):
        async with serving(models, **others) as wire:
            yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(one_server: Wire) -> AsyncIterator[Wire]:
    """A server without sessions, of all tests here."""
    yield one_server
    await emptied(one_server)


def given(model: str, start: int, stop: int, *, order: tuple[int, ...] = (0, 1, 2)) -> Any:
    """Some steps, with features in some order."""
    if model in ("letters", "gated"):
        return text(LETTERS[start:stop])
    numbers = 50 + 40 * np.sin(np.arange(3 * len(LETTERS)) ** 2).reshape(-1, 3)
    numbers[:, 2] = np.abs(numbers[:, 2]) % 24
    data = numbers[start:stop, list(order)].astype(np.float32)
    return values_pb2.Inputs(values=values_pb2.Values(data=data.ravel().tolist()))


async def fed(
    wire: Wire, model: str, name: str, stop: int, *, order: Any = (0, 1, 2), **others: Any
) -> pb.Session:
    session = await opened(wire, model, name, **others)
    for start in range(0, stop, 7):
        await stepped(wire, name, given(model, start, min(start + 7, stop), order=order))
    return session


async def upgraded(wire: Wire, name: str = "s", version: int = 0, **others: Any) -> pb.Session:
    request = pb.UpgradeSessionRequest(session_id=name, model_version=version, **others)
    return (await wire.sessions.UpgradeSession(request)).session  # type: ignore[no-any-return]


async def described(wire: Wire, name: str = "s") -> pb.Session:
    found = await wire.sessions.GetSession(pb.GetSessionRequest(session_id=name))
    return found.session  # type: ignore[no-any-return]


async def told(call: Awaitable[Any], code: grpc.StatusCode, reason: str) -> str:
    """What a call says that must fail so."""
    caught: list[grpc.aio.AioRpcError] = []

    async def catch() -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            caught.append(error)
            raise

    found = await refused(catch(), code, reason)
    if reason == "BAD_INPUT":
        assert found.metadata["field"] == "model_version"
    return caught[0].details() or ""


ORDERS = {
    "letters": (0, 1, 2), "gated": (0, 1, 2), "prices": (1, 0, 2), "labels": (2, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("stop", [0, 1, 16, 17, 60])
@pytest.mark.parametrize("model", ORDERS)
async def test_it_comes_to_the_bits_of_one_that_was_fed_so(
    wire: Wire, model: str, stop: int
) -> None:
    order = ORDERS[model]
    before = await fed(wire, model, "s", stop, model_version=1, history_steps=ALL)
    after = await upgraded(wire, version=2)
    assert (after.model_version, after.position, after.history_position) == (2, stop, 0)
    assert after.branch != before.branch
    assert after.open_time == before.open_time
    await fed(wire, model, "fed", stop, order=order, model_version=2)
    if stop:
        for mine, theirs in zip(rows(wire.server, "s"), rows(wire.server, "fed"), strict=True):
            assert np.array_equal(mine, theirs)
        last = given(model, stop - 1, stop, order=order)
        again = await stepped(wire, "s", last, position=stop - 1, every_step=False)
        if stop % 7 == 1:  # it was its last request, too
            theirs = await stepped(wire, "fed", last, position=stop - 1, every_step=False)
            assert np.array_equal(again, theirs)
    for name in ("s", "fed"):  # it reads on, and goes back, as any other
        request = pb.RewindSessionRequest(session_id=name, position=stop // 2)
        if name == "s":
            await wire.sessions.RewindSession(request)
        else:
            await fed(wire, model, "half", stop // 2, order=order, model_version=2)
    more = given(model, 60, 65, order=order)
    one, other = await stepped(wire, "s", more), await stepped(wire, "half", more)
    assert one.size
    assert np.array_equal(one, other)


async def test_it_is_there_already(wire: Wire) -> None:
    await fed(wire, "letters", "s", 20, model_version=2)
    before = await described(wire)
    same = await upgraded(wire, version=2)  # it needs no history for that
    assert (same.branch, same.position) == (before.branch, 20)


async def test_what_is_refused_changes_nothing(wire: Wire) -> None:
    kept = {"model_version": 1, "history_steps": ALL}
    await fed(wire, "letters", "s", 20, **kept)
    before = rows(wire.server, "s")
    branch = (await described(wire)).branch
    # Version 3 knows some letters only.
    assert "'s', which the session has read at position 2" in await told(upgraded(wire), *BAD)
    await refused(upgraded(wire, version=9), CODE.NOT_FOUND, "MODEL_UNKNOWN")
    await refused(upgraded(wire, "nobody"), CODE.NOT_FOUND, "SESSION_UNKNOWN")
    await refused(upgraded(wire, branch=branch ^ 1), *STALE)
    await fed(wire, "letters", "t", 20, model_version=1)
    assert "model_version: another version" in await told(upgraded(wire, "t"), *MISSING)
    await fed(wire, "letters", "u", 90, model_version=1, history_steps=5)
    missing = await refused(upgraded(wire, "u", 2), *MISSING)
    assert int(missing.metadata["history_position"]) > 0
    await fed(wire, "labels", "v", 9, **kept)
    assert "'other'" in await told(upgraded(wire, "v", 3), *BAD)
    assert "tokens" in await told(upgraded(wire, "v", 4), *BAD)
    after = await described(wire)
    assert (after.branch, after.position, after.model_version) == (branch, 20, 1)
    assert all(map(np.array_equal, before, rows(wire.server, "s")))
    (await stepped(wire, "s", text("ab"), position=20))
    assert wire.server.engine.directory._opening == {}


async def test_a_state_of_its_own_goes_with_it(wire: Wire) -> None:
    (model,) = [own for own in wire.server.engine.registry.all() if own.label == "gated/1"]
    dice = np.random.default_rng(0)
    tensors = [
        pb.StateTensor(name=own.input, values=dice.normal(size=own.shape).ravel())
        for own in model.manifest.states
    ]
    state = pb.SessionState(tensors=tensors)
    for name, version in (("s", 1), ("fed", 2)):
        others = {"history_steps": ALL, "initial_state": state}
        await fed(wire, "gated", name, 20, model_version=version, **others)
    await upgraded(wire)
    for mine, theirs in zip(rows(wire.server, "s"), rows(wire.server, "fed"), strict=True):
        assert np.array_equal(mine, theirs)
    for name in ("s", "fed"):  # it is reset to that, too
        await wire.sessions.ResetSession(pb.ResetSessionRequest(session_id=name))
    one, other = [await stepped(wire, name, text("abc")) for name in ("s", "fed")]
    assert np.array_equal(one, other)


async def test_a_state_of_its_own_may_not_fit(wire: Wire) -> None:
    (model,) = [own for own in wire.server.engine.registry.all() if own.label == "letters/1"]
    tensors = [
        pb.StateTensor(name=own.input, values=np.ones(own.shape).ravel())
        for own in model.manifest.states
    ]
    state = pb.SessionState(tensors=tensors)
    await fed(wire, "letters", "s", 9, model_version=1, history_steps=ALL, initial_state=state)
    await refused(upgraded(wire, version=2), CODE.FAILED_PRECONDITION, "STATE_MISMATCH")
    assert (await described(wire)).model_version == 1


@pytest.mark.parametrize("pause", [0, 0.001, 0.01])
async def test_it_steps_on_meanwhile(wire: Wire, pause: float) -> None:
    """What was answered was read, by the one version or the other; nothing is read twice."""
    await fed(wire, "gated", "s", 40, model_version=1, history_steps=ALL)
    branch, read = (await described(wire)).branch, LETTERS[:40]

    async def step_on() -> None:
        nonlocal read
        for number in range(400):
            letter = SYMBOLS[number % 20]
            steps = {"position": len(read), "branch": branch, "every_step": False}
            await stepped(wire, "s", text(letter), **steps)
            read += letter

    stepping = asyncio.create_task(step_on())
    await asyncio.sleep(pause)
    after = await upgraded(wire)
    await refused(stepping, *STALE)
    assert after.position == len(read) >= 40
    await opened(wire, "gated", "fed", model_version=2)
    await stepped(wire, "fed", text(read))
    for mine, theirs in zip(rows(wire.server, "s"), rows(wire.server, "fed"), strict=True):
        assert np.array_equal(mine, theirs)


async def test_channels_are_told(wire: Wire) -> None:
    await fed(wire, "gated", "s", 20, model_version=1, history_steps=ALL)
    stream = Stream(wire, "gated", raw=True)
    stream.start.model_version = 1
    await stream.begin()
    await stream.attach([4], ["s"], open=False)
    await stream.send([4], inputs=text("a"))
    good, _ = await stream.rows(1)
    assert good[4]["position"] == 21
    after = await upgraded(wire)
    for number in range(2):
        if number:  # its former slot is another's
            await opened(wire, "gated", "other", model_version=1)
        await stream.send([4], inputs=text("a"))
        _, bad = await stream.rows(1)
        assert (bad[4].code, bad[4].reason) == (CODE.FAILED_PRECONDITION.value[0], "STALE_BRANCH")
        assert "upgraded" in bad[4].message
    assert (await described(wire)).position == after.position == 21
    other = Stream(wire, "gated", raw=True)
    await other.begin()
    attached = await other.attach([0], ["s"], open=False)
    assert list(attached.branches) == [after.branch]
    await other.send([0], inputs=text("a"))
    assert (await other.rows(1))[0][0]["position"] == 22
    stream.call.cancel()
    other.call.cancel()


async def test_a_generation_ends(wire: Wire) -> None:
    """What it drew by then was read; nothing moves the session any more."""
    await fed(wire, "gated", "s", 20, model_version=1, history_steps=ALL)
    call = wire.sessions.Generate(pb.GenerateRequest(session_id="s", max_steps=100_000))
    await call.read()
    after = await upgraded(wire)
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    assert (await call.code()) is not CODE.OK
    now = await described(wire)
    assert (now.position, now.branch, now.model_version) == (after.position, after.branch, 2)


async def test_once_at_a_time(wire: Wire) -> None:
    await fed(wire, "gated", "s", 60, model_version=1, history_steps=ALL)
    found = await asyncio.gather(*[upgraded(wire) for _ in range(3)], return_exceptions=True)
    done = [own for own in found if isinstance(own, pb.Session)]
    assert len(done) >= 1
    assert {own.model_version for own in done} == {2}
    assert (await described(wire)).position == 60
    (shard,) = wire.server.engine.directory.find("s").served.shards
    assert shard.slots.sessions.used == 1
