"""What the log says of calls: sums of refusals, ends of calls where asked, and no user's data."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellar.v1 import model_pb2, values_pb2
from cellar.v1 import session_pb2 as pb
from service.auth.principal import Role
from service.errors import (
    BadInputError,
    CallerGoneError,
    InternalError,
    OverloadedError,
    UnauthenticatedError,
)
from service.logs import Lines, configure_logs
from service.metrics import Metrics
from service.rpc.call_log import PERIOD_S, CallLog
from service.settings import Settings
from tests.service.auth.tokens import Tokens, bearer
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import text

Entries = list[dict[str, Any]]
SECRET = "diary"  # of letters that the model knows, and that it does not


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "log"
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def logging_to(log: Path, repository: Path, **settings: Any) -> AsyncIterator[Wire]:
    """A server that logs all there is in JSON."""
    with log.open("wb") as file:
        lines = Lines(file.fileno())
        configure_logs(Settings(log_format="json", **settings), lines)
        async with serving(repository, **settings) as wire:
            yield wire
        assert lines.settle(10)


def lines_of(log: Path) -> str:
    return log.read_text()


def entries(log: Path, event: str) -> Entries:
    found = [json.loads(line) for line in lines_of(log).splitlines()]
    return [entry for entry in found if entry["event"] == event]


def test_refusals_are_one_entry_per_reason_and_period(log: Path, clock: Clock) -> None:
    with log.open("wb") as file:
        lines = Lines(file.fileno())
        configure_logs(Settings(log_format="json"), lines)
        calls = CallLog(Settings(), Metrics().refusals, clock)
        for _ in range(1000):
            calls.refused("Step", OverloadedError("later"))
        calls.refused("Generate", OverloadedError("later"))
        calls.refused("Step", BadInputError("inputs", f"what is {SECRET}?"))
        calls.refused("Step", CallerGoneError("left"))
        calls.refused("Step", InternalError("ours"))
        calls.tell()
        clock.now = PERIOD_S
        calls.tell()
        calls.tell()
        assert lines.settle(10)
        assert [(each["reason"], each["calls"]) for each in entries(log, "refused")] == [
            ("OVERLOADED", 1001),
            ("BAD_INPUT", 1),
        ]
        calls.refused("Step", OverloadedError("later"))
        clock.now += PERIOD_S - 1
        calls.tell()
        calls.tell(all_of_them=True)  # as at a stop
        assert lines.settle(10)
    first, second, third = entries(log, "refused")
    assert first["methods"] == {"Step": 1000, "Generate": 1}
    assert [each["level"] for each in (first, second, third)] == ["warning", "info", "warning"]
    assert (third["calls"], third["seconds"]) == (1, PERIOD_S - 1)


async def hurt(wire: Wire) -> None:
    """Calls of every kind that hold the secret, good ones and refused ones."""
    sessions, models = wire.sessions, wire.models

    async def refused(call: Any) -> None:
        with suppress(grpc.aio.AioRpcError):
            await call
            raise AssertionError("it was taken")

    open_it = pb.OpenSessionRequest(model="letters", session_id="mine")
    await sessions.OpenSession(open_it, metadata=(("x-request-id", "number-7"), ("x-own", SECRET)))
    await sessions.Step(pb.StepRequest(session_id="mine", inputs=text("abc")))
    await refused(sessions.Step(pb.StepRequest(session_id="mine", inputs=text(f"\u1234{SECRET}"))))
    await refused(sessions.Step(pb.StepRequest(session_id="mine", inputs=text("a"), position=9)))
    await refused(sessions.OpenSession(pb.OpenSessionRequest(model=SECRET)))
    await refused(models.GetModel(model_pb2.GetModelRequest(name=SECRET)))
    sampling = values_pb2.Sampling(seed=1)
    generate = pb.GenerateRequest(
        session_id="mine", prompt=text("a"), max_steps=3, sampling=sampling, stop=[SECRET]
    )
    assert [piece async for piece in sessions.Generate(generate)]
    generate.prompt.text = f"\u1234{SECRET}"
    with suppress(grpc.aio.AioRpcError):
        assert [piece async for piece in sessions.Generate(generate)] == []
    stream = sessions.Stream()
    await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    attach = pb.StreamAttach(session_ids=["mine", f"no {SECRET}"], channels=[0, 1])
    await stream.write(pb.StreamRequest(attach=attach))
    for channels in ([0], [7]):
        frame = pb.StreamFrame(number=1, channels=channels, inputs=text("a"))
        await stream.write(pb.StreamRequest(frame=frame))
    frame = pb.StreamFrame(number=2, channels=[0], inputs=text(f"{SECRET}\u1234"))
    await stream.write(pb.StreamRequest(frame=frame))
    with suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass


async def test_nothing_that_callers_sent_is_in_the_log(log: Path, repository: Path) -> None:
    async with logging_to(log, repository, log_level="debug") as wire:
        await hurt(wire)
    assert SECRET not in lines_of(log)
    assert "u1234" not in lines_of(log)
    told = {entry["reason"]: entry for entry in entries(log, "refused")}
    assert {"BAD_INPUT", "MODEL_UNKNOWN", "POSITION_MISMATCH", "SESSION_UNKNOWN"} <= set(told)
    assert told["SESSION_UNKNOWN"]["stream_rows"] >= 1
    calls = entries(log, "call")
    assert {call["level"] for call in calls} == {"debug"}
    assert (
        calls[0].items()
        >= {
            "method": "OpenSession",
            "code": "OK",
            "session": "mine",
            "request": "number-7",
        }.items()
    )


async def test_with_an_access_log_each_call_has_an_entry(log: Path, repository: Path) -> None:
    async with logging_to(log, repository, access_log=True) as wire:
        with suppress(grpc.aio.AioRpcError):
            forged = pb.OpenSessionRequest(model="letters", session_id="a\u202e\x1b[31m")
            await wire.sessions.OpenSession(forged)
        health = health_pb2_grpc.HealthStub(wire.channel)
        await health.Check(health_pb2.HealthCheckRequest())  # is not told
        await hurt(wire)
    calls = entries(log, "call")
    assert calls[0]["session"] == r"'a\u202e\x1b[31m'"
    methods = [call["method"] for call in calls]
    assert methods == [
        "OpenSession", "OpenSession", "Step", "Step", "Step", "OpenSession", "GetModel",
        "Generate", "Generate", "Stream",
    ]  # fmt: skip
    assert [call["code"] for call in calls[2:5]] == ["OK", "INVALID_ARGUMENT", "ABORTED"]
    step = calls[2]
    request = pb.StepRequest(session_id="mine", inputs=text("abc"))
    assert step["request_bytes"] == request.ByteSize()
    assert step["reply_bytes"] > 0
    assert 0 < step["seconds"] < 60
    assert step["peer"].startswith("ipv4:127.0.0.1:")
    assert step["level"] == "info"


async def test_without_one_no_call_has_an_entry(log: Path, repository: Path) -> None:
    async with logging_to(log, repository) as wire:
        await hurt(wire)
    assert entries(log, "call") == []
    assert entries(log, "refused")


async def test_who_is_not_let_in_is_in_the_log_and_no_token_is(
    log: Path, repository: Path, tmp_path: Path
) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    right = tokens.add("alice", Role.STEP)
    wrong = right[:-4] + "wxyz"
    listing = model_pb2.ListModelsRequest()
    async with logging_to(log, repository, access_log=True, tokens=tokens.path) as wire:
        await wire.models.ListModels(listing, metadata=bearer(right))
        for metadata in ((), bearer(wrong), bearer(wrong), bearer(f"{SECRET}.{SECRET}")):
            with suppress(grpc.aio.AioRpcError):
                await wire.models.ListModels(listing, metadata=metadata)
                raise AssertionError("it was let in")
        assert dict(wire.server.metrics.authentications.counts) == {
            **dict.fromkeys(wire.server.metrics.authentications.counts, 0),
            ("grpc", "ok"): 1,
            ("grpc", "none"): 1,
            ("grpc", "wrong"): 3,
        }
    calls = [(call["code"], call.get("principal")) for call in entries(log, "call")]
    assert calls == [("OK", "alice"), *[("UNAUTHENTICATED", None)] * 4]
    (refused,) = entries(log, "refused")
    assert (refused["reason"], refused["methods"]) == ("UNAUTHENTICATED", {"ListModels": 4})
    assert refused["peers"] == {"ipv4:127.0.0.1": 4}
    for said in (right, wrong, right.rpartition(".")[2], wrong.rpartition(".")[2], SECRET):
        assert said not in lines_of(log)


def test_so_many_addresses_are_named_and_no_more(log: Path, clock: Clock) -> None:
    with log.open("wb") as file:
        lines = Lines(file.fileno())
        configure_logs(Settings(log_format="json"), lines)
        calls = CallLog(Settings(), Metrics().refusals, clock)
        for number in range(100):
            for port in (1, 2):
                peer = f"ipv4:10.0.0.{number}:{port}"
                calls.refused("Step", UnauthenticatedError("no"), peer=peer)
        calls.tell(all_of_them=True)
        assert lines.settle(10)
    (refused,) = entries(log, "refused")
    assert len(refused["peers"]) == 9
    assert refused["peers"]["others"] == 2 * 92
    assert refused["peers"]["ipv4:10.0.0.1"] == 2
