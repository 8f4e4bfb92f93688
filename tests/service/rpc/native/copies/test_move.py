"""Sessions that move from one server to another, over real connections."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from cellar.v1 import session_pb2 as pb
from tests.recurrent import char_case, series_case, write_repository
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.copies.test_copies import (
    MODELS,
    emptied,
    forked,
    imported,
    opened,
    rows,
    stepped,
)
from tests.service.rpc.native.test_sessions import refused, text

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODE = grpc.StatusCode
MOVING = CODE.FAILED_PRECONDITION, "SESSION_MOVING"
BAD = CODE.INVALID_ARGUMENT, "BAD_INPUT"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(
        tmp_path_factory.mktemp("models"),
        char_case(),
        char_case("gru", name="gated"),
        series_case(),
        series_case("gru", name="rates"),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_servers(models: Path) -> AsyncIterator[tuple[Wire, Wire]]:
    async with serving(models) as source, serving(models) as target:
        yield source, target


@pytest_asyncio.fixture(loop_scope="module")
async def wires(two_servers: tuple[Wire, Wire]) -> AsyncIterator[tuple[Wire, Wire]]:
    """Two servers without sessions, of all tests here."""
    yield two_servers
    for wire in two_servers:
        await emptied(wire)


async def frozen(
    wire: Wire, name: str = "s", to: str = "there", **others: int
) -> pb.ExportSessionResponse:
    request = pb.ExportSessionRequest(session_id=name, move_to=to, **others)
    return await wire.sessions.ExportSession(request)  # type: ignore[no-any-return]


async def released(wire: Wire, name: str = "s", **others: bool) -> bytes:
    request = pb.ReleaseSessionRequest(session_id=name, **others)
    return (await wire.sessions.ReleaseSession(request)).receipt  # type: ignore[no-any-return]


async def stands(wire: Wire, name: str = "s") -> pb.Session:
    request = pb.GetSessionRequest(session_id=name)
    return (await wire.sessions.GetSession(request)).session  # type: ignore[no-any-return]


async def closed(wire: Wire, name: str = "s") -> None:
    await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id=name))


def timeless(session: pb.Session) -> pb.Session:
    """Without what is counted from now."""
    session.ClearField("last_used_time")
    return session


@pytest.mark.parametrize("model", ["letters", "gated", "prices", "rates"])
async def test_it_goes_on_there_as_if_it_had_never_moved(
    wires: tuple[Wire, Wire], model: str
) -> None:
    source, target = wires
    first, more = MODELS[model]
    for name in ("s", "fed"):
        await opened(source, model, name)
        last = await stepped(source, name, first)
    out = await frozen(source)
    assert out.session.status == pb.SESSION_STATUS_MOVING
    assert not out.receipt
    there = await imported(target, out.snapshot, receipt=await released(source))
    assert there.position == out.session.position
    for row, other in zip(rows(target.server, "s"), rows(source.server, "fed"), strict=True):
        assert np.array_equal(row, other)
    assert np.array_equal(await stepped(target, "s", first, position=0), last)  # every step again
    expected = await stepped(source, "fed", more)
    assert np.array_equal(await stepped(target, "s", more), expected)
    await closed(source)
    error = await refused(stands(source), *MOVING)
    assert error.metadata["move_to"] == "there"


async def test_what_is_frozen_only_says_where_it_stands(wires: tuple[Wire, Wire]) -> None:
    source, _ = wires
    await opened(source, history_steps=100)
    await stepped(source, "s", text("a sentence"))
    before = await stands(source)
    out = await frozen(source)
    calls = source.sessions
    generating = calls.Generate(pb.GenerateRequest(session_id="s", max_steps=1))
    for asked in (
        stepped(source, "s", text("x")),
        calls.ResetSession(pb.ResetSessionRequest(session_id="s")),
        calls.RewindSession(pb.RewindSessionRequest(session_id="s", position=2)),
        calls.ExportSession(pb.ExportSessionRequest(session_id="s")),
        forked(source),
        generating.read(),
    ):
        error = await refused(asked, *MOVING)
        assert error.metadata["move_to"] == "there"
    now = await stands(source)
    assert timeless(now) == timeless(out.session)
    assert (now.status, now.position) == (pb.SESSION_STATUS_MOVING, before.position)
    listed = (await calls.ListSessions(pb.ListSessionsRequest())).sessions
    assert [one.status for one in listed] == [pb.SESSION_STATUS_MOVING]


async def test_asked_again_the_answers_are_the_same(wires: tuple[Wire, Wire]) -> None:
    source, target = wires
    await opened(source)
    await stepped(source, "s", text("a sentence"))
    out = await frozen(source)
    again = await frozen(source)
    assert (again.snapshot, again.receipt) == (out.snapshot, b"")
    assert timeless(again.session) == timeless(out.session)
    other = await frozen(source, to="elsewhere")  # nobody has it yet
    assert other.snapshot == out.snapshot
    receipt = await released(source)
    assert await released(source) == receipt
    last = await frozen(source, to="elsewhere")
    assert (last.snapshot, last.receipt) == (out.snapshot, receipt)
    error = await refused(frozen(source), *MOVING)
    assert error.metadata["move_to"] == "elsewhere"
    await refused(released(source, cancel=True), *MOVING)
    first = timeless(await imported(target, out.snapshot, receipt=receipt))
    assert timeless(await imported(target, out.snapshot, receipt=receipt)) == first
    assert timeless(await imported(target, out.snapshot, "t", receipt=receipt)) == first
    await closed(target)
    await refused(imported(target, out.snapshot, receipt=receipt), CODE.NOT_FOUND, "SESSION_CLOSED")


async def test_a_move_is_called_off(wires: tuple[Wire, Wire]) -> None:
    source, target = wires
    for name in ("s", "fed"):
        await opened(source, name=name)
        await stepped(source, name, text("a sentence"))
    before = await stands(source)
    out = await frozen(source)
    assert await released(source, cancel=True) == b""
    assert await released(source, cancel=True) == b""
    after = await stands(source)
    assert (after.status, after.position) == (pb.SESSION_STATUS_OPEN, before.position)
    assert len({before.branch, out.session.branch, after.branch}) == 3
    expected = await stepped(source, "fed", text("more"))
    assert np.array_equal(await stepped(source, "s", text("more")), expected)
    await refused(released(source), *BAD)
    another = await frozen(source)
    receipt = await released(source)
    await refused(imported(target, out.snapshot, receipt=receipt), *BAD)  # of the move before
    await imported(target, another.snapshot, receipt=receipt)


async def test_at_position_0_it_moves_too(wires: tuple[Wire, Wire]) -> None:
    source, target = wires
    for name in ("s", "fed"):
        await opened(source, name=name)
    out = await frozen(source)
    await released(source, cancel=True)
    expected = await stepped(source, "fed", text("more"))
    await stepped(source, "s", text("more"))
    await source.sessions.ResetSession(pb.ResetSessionRequest(session_id="s"))
    out = await frozen(source)
    await imported(target, out.snapshot, receipt=await released(source))
    assert np.array_equal(await stepped(target, "s", text("more")), expected)


async def test_only_the_receipt_of_that_move_opens_it(wires: tuple[Wire, Wire]) -> None:
    source, target = wires
    for name in ("s", "t"):
        await opened(source, name=name)
        await stepped(source, name, text(name))
    out, other = await frozen(source), await frozen(source, "t")
    error = await refused(imported(target, out.snapshot), *BAD)
    assert error.metadata["field"] == "receipt"
    for receipt in (await released(source, "t"), b"x", bytes(32)):
        error = await refused(imported(target, out.snapshot, receipt=receipt), *BAD)
        assert error.metadata["field"] == "receipt"
    receipt = await released(source)
    await refused(imported(target, other.snapshot, receipt=receipt), *BAD)
    await opened(target, name="s")  # the id is taken: nothing is opened
    await refused(
        imported(target, out.snapshot, receipt=receipt), CODE.ALREADY_EXISTS, "SESSION_EXISTS"
    )
    await imported(target, out.snapshot, "free", receipt=receipt)


async def test_what_cannot_move_is_as_it_was(wires: tuple[Wire, Wire]) -> None:
    source, _ = wires
    await opened(source, ephemeral=True)
    await refused(frozen(source), *BAD)
    await opened(source, name="t")
    before = await stands(source, "t")
    await refused(frozen(source, "t", to="x" * 2000), *BAD)
    await refused(frozen(source, "t", branch=5), CODE.FAILED_PRECONDITION, "STALE_BRANCH")
    await refused(released(source, "t"), *BAD)
    assert timeless(await stands(source, "t")) == timeless(before)
    await stepped(source, "t", text("more"))
    await refused(frozen(source, "nobody"), CODE.NOT_FOUND, "SESSION_UNKNOWN")
    await refused(released(source, "nobody"), CODE.NOT_FOUND, "SESSION_UNKNOWN")
