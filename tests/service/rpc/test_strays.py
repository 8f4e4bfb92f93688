"""Calls of paths that nobody serves, those among them that are no text: nobody else notices."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cellar.v1 import model_pb2
from cellar.v1 import session_pb2 as pb
from service.auth.principal import Role
from service.rpc import strays
from tests import http2
from tests.service.auth.tokens import Tokens, bearer
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.test_calls import counts

BAD = b"/a\xff/b"
MANY = 20
UNIMPLEMENTED, UNAUTHENTICATED = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


@contextmanager
def bad_calls(port: int, times: int) -> Iterator[None]:
    """Strangers that stay: of one who has left, the call may never be looked at."""
    with ExitStack() as strangers:
        for _ in range(times):
            stranger = strangers.enter_context(http2.connect(port))
            http2.settle(stranger)
            http2.call(stranger, BAD)
        yield


async def code_of(wire: Wire, path: str, metadata: Any = ()) -> Any:
    method: Any = wire.channel.unary_unary(path)
    call = method(b"", metadata=metadata, timeout=5)
    return await call.code()


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_path_that_is_no_text_ends_nothing(
    repository: Path, tmp_path: Path, guarded: bool
) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    right = bearer(tokens.add("a", *Role)) if guarded else ()
    others = {"tokens": tokens.path} if guarded else {}
    async with serving(repository, **others) as wire:
        watch = health_pb2_grpc.HealthStub(wire.channel).Watch(HealthCheckRequest())
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        code = UNAUTHENTICATED if guarded else UNIMPLEMENTED
        with bad_calls(wire.server.port, MANY):
            await until(lambda: counts(wire).get(("unknown", code.name)) == MANY)
        # The same connection goes on, as do new ones.
        await wire.models.ListModels(model_pb2.ListModelsRequest(), metadata=right)
        assert wire.channel.get_state() is grpc.ChannelConnectivity.READY
        assert not watch.done()
        assert not wire.server._listener._fallen
        watch.cancel()


async def test_what_nobody_serves_is_told_so(repository: Path, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    right = bearer(tokens.add("a", Role.STEP))
    paths = ("/cellar.v1.SessionService/Steps", "/", "/grpc.reflection.v1.ServerReflection/X")
    async with serving(repository, tokens=tokens.path) as wire:
        for path in paths:
            assert await code_of(wire, path) is UNAUTHENTICATED
            assert await code_of(wire, path, right) is UNIMPLEMENTED
    async with serving(repository) as wire:
        for path in paths:
            assert await code_of(wire, path) is UNIMPLEMENTED
        assert counts(wire) == {("unknown", "UNIMPLEMENTED"): len(paths)}


async def test_where_grpc_falls_another_takes_over(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "_is_known", False)
    async with serving(repository) as wire:
        stream = wire.sessions.Stream()
        await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
        await stream.read()
        fallen = wire.server._listener._server
        with bad_calls(wire.server.port, 1):
            await until(lambda: wire.server._listener._server is not fallen)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{wire.server.port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
        attach = pb.StreamAttach(session_ids=["a"], channels=[0], open=True)
        await stream.write(pb.StreamRequest(attach=attach))
        assert list((await stream.read()).attached.channels) == [0], "what ran goes on"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
