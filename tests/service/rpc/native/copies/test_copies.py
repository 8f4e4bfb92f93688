"""Export, import and fork over a real connection: equal bits, and every refusal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from service.engine.calls.snapshots.snapshot import sealed
from service.server import Server
from tests.recurrent import char_case, label_case, series_case, write_repository
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import refused, text, values

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODE = grpc.StatusCode
INVALID = CODE.INVALID_ARGUMENT, "SNAPSHOT_INVALID"
MODELS = {
    "letters": [text("a sentence"), text("more")],
    "gated": [text("a sentence"), text("more")],
    "prices": [values(*np.linspace(100, 120, 12)), values(121, 119)],
    "rates": [values(*np.linspace(100, 120, 12)), values(121, 119)],
    "labels": [text("a sentence"), text("more")],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(
        tmp_path_factory.mktemp("models"),
        char_case(),
        char_case("gru", name="gated"),
        char_case(seed=7, name="alike"),
        char_case(layers=2, name="deep"),
        series_case(),
        series_case("gru", name="rates"),
        series_case(hidden=16, name="wide"),
        label_case(),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_server(models: Path) -> AsyncIterator[Wire]:
    async with serving(models) as wire:
        yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def copying(one_server: Wire) -> AsyncIterator[Wire]:
    """A server without sessions, of all tests here."""
    yield one_server
    await emptied(one_server)


async def emptied(wire: Wire) -> None:
    """Close whatever sessions there are."""
    request = pb.ListSessionsRequest(page_size=1000)
    for session in (await wire.sessions.ListSessions(request)).sessions:
        await wire.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))


async def opened(wire: Wire, model: str = "letters", name: str = "s", **others: Any) -> pb.Session:
    request = pb.OpenSessionRequest(model=model, session_id=name, **others)
    return (await wire.sessions.OpenSession(request)).session  # type: ignore[no-any-return]


async def stepped(wire: Wire, name: str, inputs: Any, **others: Any) -> np.ndarray[Any, Any]:
    """The raw predictions after each step."""
    outputs = values_pb2.Outputs(raw=True, every_step=others.pop("every_step", True))
    request = pb.StepRequest(session_id=name, inputs=inputs, outputs=outputs, **others)
    reply = await wire.sessions.Step(request)
    return np.array(reply.predictions.raw, np.float32)


async def exported(wire: Wire, name: str = "s", **others: Any) -> bytes:
    request = pb.ExportSessionRequest(session_id=name, **others)
    return (await wire.sessions.ExportSession(request)).snapshot  # type: ignore[no-any-return]


async def imported(wire: Wire, snapshot: bytes, name: str = "", **others: Any) -> pb.Session:
    request = pb.ImportSessionRequest(snapshot=snapshot, session_id=name, **others)
    return (await wire.sessions.ImportSession(request)).session  # type: ignore[no-any-return]


async def forked(wire: Wire, name: str = "s", new: str = "t", **others: Any) -> pb.Session:
    request = pb.ForkSessionRequest(session_id=name, new_session_id=new, **others)
    return (await wire.sessions.ForkSession(request)).session  # type: ignore[no-any-return]


def rows(server: Server, name: str) -> list[np.ndarray[Any, Any]]:
    """What the device holds for a session."""
    session = server.engine.directory.find(name)
    runner: Any = session.shard._runner
    return [row[0] for row in runner.read(session.shard.table.row[[session.slot]])]


@pytest.mark.parametrize("model", MODELS)
async def test_copies_come_to_the_bits_of_one_that_was_fed_so(copying: Wire, model: str) -> None:
    first, more = MODELS[model]
    for name in ("s", "fed"):
        await opened(copying, model, name)
        last = await stepped(copying, name, first)
    snapshot = await exported(copying)
    copy = await imported(copying, snapshot, "i")
    fork = await forked(copying)
    original = (await copying.sessions.GetSession(pb.GetSessionRequest(session_id="s"))).session
    assert copy.position == fork.position == original.position
    assert len({copy.branch, fork.branch, original.branch}) == 3
    for name in ("i", "t"):
        for row, other in zip(rows(copying.server, name), rows(copying.server, "fed"), strict=True):
            assert np.array_equal(row, other)
        again = await stepped(copying, name, first, position=0)  # every step of it
        assert np.array_equal(again, last)
        await refused(
            stepped(copying, name, more, position=0), CODE.INVALID_ARGUMENT, "STEP_CONFLICT"
        )
    expected = await stepped(copying, "fed", more)
    for name in ("i", "t", "s"):
        assert np.array_equal(await stepped(copying, name, more), expected)


async def test_what_is_drawn_is_the_same(copying: Wire) -> None:
    await opened(copying)
    await stepped(copying, "s", text("a sentence"))
    await forked(copying)
    await imported(copying, await exported(copying), "i")
    drawn = []
    for name in ("s", "t", "i"):
        request = pb.GenerateRequest(session_id=name, max_steps=40)
        request.sampling.seed = 5
        drawn.append("".join([piece.text async for piece in copying.sessions.Generate(request)]))
    assert len(drawn[0]) == 40
    assert drawn == drawn[:1] * 3


async def test_a_snapshot_has_what_the_session_was(copying: Wire) -> None:
    await opened(copying, idle_timeout=Duration(seconds=77), ephemeral=True)
    await stepped(copying, "s", text("ab"))
    snapshot = await exported(copying)
    await refused(imported(copying, snapshot), CODE.ALREADY_EXISTS, "SESSION_EXISTS")
    await copying.sessions.CloseSession(pb.CloseSessionRequest(session_id="s"))
    session = await imported(copying, snapshot)
    assert (session.id, session.model, session.model_version) == ("s", "letters", 1)
    assert (session.idle_timeout.seconds, session.ephemeral) == (77, True)
    other = await imported(copying, snapshot, "o", idle_timeout=Duration(seconds=5))
    assert (other.id, other.idle_timeout.seconds) == ("o", 5)
    fork = await forked(copying, "o")
    assert (fork.idle_timeout.seconds, fork.ephemeral) == (5, False)
    fork = await forked(copying, "o", "", idle_timeout=Duration(seconds=6), ephemeral=True)
    assert (fork.idle_timeout.seconds, fork.ephemeral) == (6, True)
    assert len(fork.id) > 10


async def test_at_position_0_copies_begin_at_the_beginning(copying: Wire) -> None:
    await opened(copying)
    expected = await stepped(copying, "s", text("xyz"))
    await copying.sessions.ResetSession(pb.ResetSessionRequest(session_id="s"))
    fork, copy = await forked(copying), await imported(copying, await exported(copying), "i")
    other = await forked(copying, new="u", model="alike")
    assert fork.position == copy.position == other.position == 0
    for name in ("t", "i"):
        assert np.array_equal(await stepped(copying, name, text("xyz")), expected)
    await refused(
        forked(copying, new="v", model="deep"), CODE.FAILED_PRECONDITION, "STATE_MISMATCH"
    )


async def test_another_model_goes_on_with_the_state(copying: Wire) -> None:
    """Its first prediction is what its own graph makes of that state."""
    await opened(copying)
    await stepped(copying, "s", text("a sentence"))
    session = await forked(copying, model="alike")
    assert (session.model, session.position) == ("alike", 10)
    for row, other in zip(rows(copying.server, "t"), rows(copying.server, "s"), strict=True):
        assert np.array_equal(row, other)
    generation = copying.sessions.Generate(pb.GenerateRequest(session_id="t", max_steps=3))
    with pytest.raises(grpc.aio.AioRpcError, match="another model"):
        async for _ in generation:
            pass
    ours = await stepped(copying, "t", text("b"))
    theirs = await stepped(copying, "s", text("b"))
    assert not np.array_equal(ours, theirs)
    request = pb.GenerateRequest(session_id="t", max_steps=3)
    assert [piece async for piece in copying.sessions.Generate(request)]
    back = await forked(copying, "t", "back", model="letters")
    assert back.model == "letters"


async def test_a_forecaster_with_anothers_state_has_no_forecast_yet(copying: Wire) -> None:
    await opened(copying, "prices")
    await stepped(copying, "s", values(100, 101))
    await forked(copying, model="prices")  # itself, by its name: all of it
    forecast = pb.ForecastRequest(session_id="t", horizon=2)
    assert (await copying.sessions.Forecast(forecast)).quantiles
    error = await refused(
        forked(copying, new="u", model="wide"), CODE.FAILED_PRECONDITION, "STATE_MISMATCH"
    )
    assert not error.metadata


async def test_the_fork_is_of_one_moment_while_the_source_is_stepped(copying: Wire) -> None:
    await opened(copying)
    await opened(copying, name="fed")
    letters = "the quick brown fox jumps over the lazy dog"

    async def step_all() -> None:
        for letter in letters:
            await stepped(copying, "s", text(letter))

    async def fork_some(first: int) -> list[pb.Session]:
        found = []
        for number in range(first, first + 8):
            found.append(await forked(copying, new=f"t{number}"))
            await asyncio.sleep(0.002)
        return found

    stepping = asyncio.create_task(step_all())
    forks = [fork for some in await asyncio.gather(fork_some(0), fork_some(8)) for fork in some]
    await stepping
    expected = await stepped(copying, "fed", text(letters))
    width = len(expected) // len(letters)
    for fork in forks:
        rest = letters[fork.position :]
        if rest:
            found = await stepped(copying, fork.id, text(rest))
            assert np.array_equal(found, expected[fork.position * width :])
    source = (await copying.sessions.GetSession(pb.GetSessionRequest(session_id="s"))).session
    assert source.position == len(letters)


async def test_branches_and_positions(copying: Wire) -> None:
    branch = (await opened(copying)).branch
    await stepped(copying, "s", text("abc"))
    stale = CODE.FAILED_PRECONDITION, "STALE_BRANCH"
    await refused(exported(copying, branch=branch + 1), *stale)
    await refused(forked(copying, branch=branch + 1), *stale)
    assert await exported(copying, branch=branch)
    assert (await forked(copying, branch=branch, position=3)).position == 3
    ahead = await refused(forked(copying, new="u", position=4), CODE.INVALID_ARGUMENT, "BAD_INPUT")
    assert ahead.metadata["field"] == "position"
    error = await refused(
        forked(copying, new="u", position=2), CODE.FAILED_PRECONDITION, "HISTORY_MISSING"
    )
    assert "history_position" not in error.metadata


async def test_ids_and_absent_ones(copying: Wire) -> None:
    unknown = CODE.NOT_FOUND, "SESSION_UNKNOWN"
    await refused(exported(copying, "nobody"), *unknown)
    await refused(forked(copying, "nobody"), *unknown)
    await opened(copying)
    await stepped(copying, "s", text("a"))
    await refused(forked(copying, new="s"), CODE.ALREADY_EXISTS, "SESSION_EXISTS")
    await refused(forked(copying, new="\n"), CODE.INVALID_ARGUMENT, "BAD_INPUT")
    await refused(forked(copying, model="none"), CODE.NOT_FOUND, "MODEL_UNKNOWN")


async def test_snapshots_of_other_files_are_refused(copying: Wire, tmp_path: Path) -> None:
    await opened(copying)
    await stepped(copying, "s", text("abc"))
    snapshot = await exported(copying)
    others = write_repository(tmp_path, char_case(seed=2), series_case())
    async with serving(others) as elsewhere:
        await refused(imported(elsewhere, snapshot), CODE.FAILED_PRECONDITION, "STATE_MISMATCH")


async def test_a_file_may_have_another_name_and_the_bits_are_equal_elsewhere(
    copying: Wire, tmp_path: Path
) -> None:
    await opened(copying)
    await stepped(copying, "s", text("abc"))
    snapshot = await exported(copying)
    expected = await stepped(copying, "s", text("def"))
    folder = tmp_path / "renamed" / "4"
    folder.mkdir(parents=True)
    model = copying.server.settings.models / "letters" / "1" / "model.onnx"
    (folder / "model.onnx").write_bytes(model.read_bytes())
    async with serving(tmp_path) as elsewhere:
        session = await imported(elsewhere, snapshot)
        assert (session.model, session.model_version, session.position) == ("renamed", 4, 3)
        assert np.array_equal(await stepped(elsewhere, "s", text("def")), expected)


async def test_under_another_arithmetic_the_last_reply_is_lost(
    copying: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(copying)
    await stepped(copying, "s", text("abc"))
    snapshot = await exported(copying)
    served = copying.server.engine.registry.find("letters", 0)
    monkeypatch.setattr(served, "arithmetic", "another")
    assert (await imported(copying, snapshot, "i")).position == 3
    await refused(
        stepped(copying, "i", text("abc"), position=0), CODE.FAILED_PRECONDITION, "REPLY_LOST"
    )
    assert len(await stepped(copying, "i", text("d")))


@pytest.mark.parametrize("mends", [False, True])
async def test_damage_is_refused_and_leaves_nothing(copying: Wire, mends: bool) -> None:
    await opened(copying, "prices")
    await stepped(copying, "s", values(100, 101))
    used = copying.server.engine.registry.find("prices", 0).usage.sessions
    snapshot = await exported(copying)
    record = snapshot[24:-32]
    assert sealed(record, None) == snapshot
    flipped = bytearray(record)
    flipped[len(record) // 2] ^= 4
    damaged = sealed(bytes(flipped), None) if mends else snapshot[:24] + bytes(flipped)
    damaged += b"" if mends else snapshot[-32:]
    await refused(imported(copying, damaged, "i"), *INVALID)
    for bad in (b"", b"x", snapshot[:-1], snapshot + b"x", snapshot[:200]):
        await refused(imported(copying, bad, "i"), *INVALID)
    assert copying.server.engine.registry.find("prices", 0).usage.sessions == used == 1


async def test_only_what_is_signed_with_the_key_is_taken(
    copying: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = b"a key that has thirty-two bytes!", b"another that is as long as ours."

    def use(key: bytes | None) -> None:
        monkeypatch.setattr(copying.server.engine, "snapshot_key", lambda: key)

    await opened(copying)
    await stepped(copying, "s", text("abc"))
    snapshots = {}
    for key in (None, ours, theirs):
        use(key)
        snapshots[key] = await exported(copying)
    use(ours)
    assert (await imported(copying, snapshots[ours], "i")).position == 3
    forged = bytearray(snapshots[ours])
    forged[-1] ^= 1
    # Whoever has no key cannot change what is in it, whatever checksums he makes.
    unsigned = sealed(snapshots[ours][24:-64], None)
    for data in (snapshots[None], snapshots[theirs], bytes(forged), unsigned):
        await refused(imported(copying, data, "j"), *INVALID)
    use(None)  # who cannot tell whose they are
    for name, snapshot in enumerate(snapshots.values()):
        assert (await imported(copying, snapshot, str(name))).position == 3


async def test_a_snapshot_that_fits_into_no_message_is_not_made(models: Path) -> None:
    async with serving(models, max_message_bytes=6000) as wire:
        await opened(wire)
        await stepped(wire, "s", text("a" * 20))  # with its history it would be too large
        snapshot = await exported(wire)
        assert len(snapshot) < 2000
        await imported(wire, snapshot, "i")
    async with serving(models, max_message_bytes=4500) as wire:
        await opened(wire)
        await stepped(wire, "s", text("a"))
        await refused(exported(wire), CODE.INVALID_ARGUMENT, "BAD_INPUT")
