"""What every call has in common: unknown methods, and the counts by method and code."""

import asyncio
import gc
from typing import Any

import grpc
import pytest

from cellar.v1 import model_pb2, values_pb2
from cellar.v1 import session_pb2 as pb
from service.engine.directory.directory import Directory
from tests.service.rpc.conftest import Wire
from tests.service.rpc.native.test_sessions import refused, text


def counts(wire: Wire) -> dict[tuple[str, str], float]:
    """Calls that ended, by method and code."""
    return {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for family in wire.server.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "cellar_requests_total"
    }


async def raw_call(wire: Wire, path: str, message: bytes = b"") -> Any:
    call: Any = wire.channel.unary_unary(path)
    return await call(message)


@pytest.mark.parametrize(
    "path",
    [
        "/cellar.v1.SessionService/Nope",
        "/cellar.v1.SessionService/",
        "/cellar.v1.NoService/Step",
        "/cellar.v1.ModelService/Step",
        "/cellar.v2.SessionService/Step",
        "/nobody/knows",
    ],
)
async def test_unknown_methods_are_unimplemented_however_often_they_are_called(
    wire: Wire, path: str
) -> None:
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw_call(wire, path)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert counts(wire) == {("unknown", "UNIMPLEMENTED"): 3}, "no label that a client makes up"
    await wire.models.ListModels(model_pb2.ListModelsRequest())


async def test_calls_are_counted_by_method_and_code(wire: Wire) -> None:
    sessions = wire.sessions
    for name in ("a", "b", "c"):
        await sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id=name))
    await refused(
        sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a")),
        grpc.StatusCode.ALREADY_EXISTS,
        "SESSION_EXISTS",
    )
    for _ in range(4):
        await sessions.Step(pb.StepRequest(session_id="a", inputs=text("x")))
    for _ in range(2):
        await refused(
            sessions.Step(pb.StepRequest(session_id="a", inputs=text("x"), position=9)),
            grpc.StatusCode.ABORTED,
            "POSITION_MISMATCH",
        )
    generate = pb.GenerateRequest(session_id="b", prompt=text("x"), max_steps=3)
    assert [piece async for piece in sessions.Generate(generate)]
    stream = sessions.Stream()
    await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    await stream.done_writing()
    assert (await stream.read()).WhichOneof("message") == "started"
    assert await stream.read() is grpc.aio.EOF
    await wire.models.GetModel(model_pb2.GetModelRequest(name="letters"))
    assert counts(wire) == {
        ("OpenSession", "OK"): 3,
        ("OpenSession", "ALREADY_EXISTS"): 1,
        ("Step", "OK"): 4,
        ("Step", "ABORTED"): 2,
        ("Generate", "OK"): 1,
        ("Stream", "OK"): 1,
        ("GetModel", "OK"): 1,
    }


async def test_a_fault_of_ours_is_counted_and_tells_nothing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(Directory, "find", fail)
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.sessions.GetSession(pb.GetSessionRequest(session_id="a"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(caught.value.details())
    async with asyncio.timeout(5):  # a call is counted behind its status
        while counts(wire) != {("GetSession", "INTERNAL"): 2}:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_calls_that_are_cancelled_are_counted_as_such(wire: Wire) -> None:
    call = wire.sessions.Stream()
    await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        while not counts(wire):  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.001)
    assert counts(wire) == {("Stream", "CANCELLED"): 1}


async def test_messages_that_cannot_be_read_end_their_own_call(wire: Wire) -> None:
    garbage = b"\xff\xff\xff\xff"
    with pytest.raises(grpc.aio.AioRpcError):
        await raw_call(wire, "/cellar.v1.SessionService/Step", garbage)
    stream: Any = wire.channel.stream_stream("/cellar.v1.SessionService/Stream")
    call = stream()
    await call.write(garbage)
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    started = stream()
    start = pb.StreamStart(model="letters", outputs=values_pb2.Outputs(argmax=True))
    await started.write(pb.StreamRequest(start=start).SerializeToString())
    await started.read()
    await started.write(garbage)
    with pytest.raises(grpc.aio.AioRpcError):
        await started.read()
    await wire.models.ListModels(model_pb2.ListModelsRequest())


def methods() -> list[tuple[str, str]]:
    """The services' methods, by service and name."""
    return [
        (service.full_name, method.name)
        for file in (pb.DESCRIPTOR, model_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    ]


@pytest.mark.parametrize(("service", "method"), methods())
async def test_what_is_no_message_is_bad_input_of_every_method(
    service: str, method: str, wire: Wire
) -> None:
    for garbage in (b"\xff\xff\xff\xff", b"\x0a\x05short"[:-2]):
        call: Any = wire.channel.stream_stream(f"/{service}/{method}")()
        await call.write(garbage)
        info = await refused(call.read(), grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
        assert info.metadata["field"] == "message"
    assert counts(wire) == {(method, "INVALID_ARGUMENT"): 2}


async def test_a_refused_call_leaves_no_garbage(wire: Wire) -> None:
    """gRPC's own way to end a call keeps the request until the next collection, which is rare."""

    async def refused_calls(count: int) -> None:
        for _ in range(count):
            with pytest.raises(grpc.aio.AioRpcError):
                await wire.sessions.Step(pb.StepRequest(session_id="nobody's"))

    await refused_calls(5)
    gc.collect()
    gc.disable()
    try:
        await refused_calls(0)
        idle = gc.collect()
        await refused_calls(20)
        assert gc.collect() - idle < 20 * 10, "it was some 40 objects for each"
    finally:
        gc.enable()
