"""Peers that connect and say nothing, or half of it: each is cut off, and others are served."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import session_pb2 as pb
from service.rpc import health
from service.rpc.calls import _MOST_STRANGERS
from service.rpc.connections import most_connections
from tests import http2
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.test_calls import counts
from tests.service.rpc.test_strays import until

STEP = b"/cellar.v1.SessionService/Step"
STREAM = b"/cellar.v1.SessionService/Stream"
HEALTH = "/grpc.health.v1.Health/"


async def ends_within(peer: socket.socket, seconds: float) -> bytes:
    """What a peer hears until it is cut off."""
    peer.settimeout(seconds)
    said = b""

    def listen() -> None:
        nonlocal said
        try:
            while part := peer.recv(65_536):
                said += part
        except ConnectionResetError:
            pass

    await asyncio.to_thread(listen)  # a timeout is the fault
    return said


def silent(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def unsettled(port: int) -> socket.socket:
    return http2.connect(port)


def half_preface(port: int) -> socket.socket:
    peer = silent(port)
    peer.sendall(b"PRI * HTTP/2.0\r\n")
    return peer


def half_headers(port: int) -> socket.socket:
    """A block of headers without its end, so that no call begins."""
    peer = http2.connect(port)
    http2.settle(peer)
    peer.sendall(b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")
    return peer


@pytest.mark.parametrize("stranger", [silent, half_preface, unsettled])
async def test_who_does_not_finish_the_handshake_is_cut_off(
    repository: Path, stranger: Callable[[int], socket.socket]
) -> None:
    async with serving(repository, handshake_timeout_s=0.5) as wire:
        with stranger(wire.server.port) as peer:
            began = time.monotonic()
            await ends_within(peer, 5)
            assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("stranger", [unsettled, half_headers])
async def test_who_has_no_call_is_cut_off(
    repository: Path, stranger: Callable[[int], socket.socket]
) -> None:
    async with serving(repository, max_connection_idle_s=0.5) as wire:
        with stranger(wire.server.port) as peer:
            http2.settle(peer)
            await ends_within(peer, 8)
        # A client connects anew and knows nothing of it.
        await asyncio.sleep(1)
        await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))


async def test_beyond_the_limit_connections_are_closed_and_later_taken_again(
    repository: Path,
) -> None:
    async with serving(repository, max_connections=5, handshake_timeout_s=1.5) as wire:
        await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))
        with ExitStack() as open_ones:
            peers = [open_ones.enter_context(silent(wire.server.port)) for _ in range(12)]
            for peer in peers[6:]:
                await ends_within(peer, 1)  # at once
            request = pb.StepRequest(session_id="a")
            request.inputs.text = "a"
            await wire.sessions.Step(request)
            for peer in peers[:6]:
                await ends_within(peer, 5)
        with unsettled(wire.server.port) as peer:
            http2.settle(peer)
            assert http2.heard(peer)


async def test_a_request_that_drips_is_refused(repository: Path) -> None:
    async with serving(repository, receive_timeout_s=0.5) as wire:
        with http2.connect(wire.server.port) as peer:
            http2.settle(peer)
            http2.half_call(peer, STEP, length=1000, sent=b"\x0a")
            heard = b""
            peer.settimeout(10)
            while b"message: it has not come within 0.5 s" not in heard:
                part = await asyncio.to_thread(peer.recv, 65_536)
                assert part, "the connection is not to blame"
                heard += part
        assert counts(wire) == {("Step", "INVALID_ARGUMENT"): 1}
        assert wire.server._calls.running == 0


async def test_few_requests_that_need_no_token_may_be_on_their_way(wire: Wire) -> None:
    """Each may be as large as any message; whoever comes takes the place of the slowest."""
    check: Any = wire.channel.stream_unary(HEALTH + "Check")
    slow = [check() for _ in range(_MOST_STRANGERS)]
    await until(lambda: len(wire.server._calls._arrivals) == len(slow))
    healthy: Any = wire.channel.unary_unary(HEALTH + "Check")
    assert await healthy(b"", timeout=5) == b"\x08\x01"
    await until(lambda: any(call.done() for call in slow))
    (pushed,) = (call for call in slow if call.done())
    assert (await pushed.code()).name == "RESOURCE_EXHAUSTED"
    for call in slow:
        call.cancel()


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_a_request_that_needs_no_token_is_small(wire: Wire, method: str) -> None:
    ask: Any = wire.channel.unary_stream(HEALTH + method)
    call = ask(b"\x0a\xd0\x0f" + b"a" * 2000)
    assert (await call.code()).name == "INVALID_ARGUMENT"
    assert "message: it has 2,003 bytes" in await call.details()


async def test_only_so_many_watch(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_MOST_WATCHES", 2)
    watch: Any = wire.channel.unary_stream(HEALTH + "Watch")
    first, *_ = calls = [watch(b"") for _ in range(2)]
    for call in calls:
        assert await call.read() == b"\x08\x01"
    assert (await watch(b"").code()).name == "RESOURCE_EXHAUSTED"
    first.cancel()
    await until(lambda: wire.server._health.watching == 1)
    assert await watch(b"").read() == b"\x08\x01"


async def test_a_call_without_a_request_is_refused(wire: Wire) -> None:
    call: Any = wire.channel.stream_unary(STEP.decode())
    with pytest.raises(grpc.aio.AioRpcError, match="message: there is none"):
        await call(iter(()))


async def test_a_stream_without_a_first_message_ends(repository: Path) -> None:
    async with serving(repository, receive_timeout_s=0.5) as wire:
        call = wire.sessions.Stream()
        await call.wait_for_connection()
        assert (await call.code()).name == "INVALID_ARGUMENT"
        assert "start: it has not come within 0.5 s" in await call.details()


async def test_requests_that_come_in_time_are_served_for_longer(wire: Wire) -> None:
    arrivals = wire.server._calls._arrivals
    await wire.sessions.OpenSession(pb.OpenSessionRequest(model="letters", session_id="a"))
    assert len(arrivals) == 0
    with http2.connect(wire.server.port) as peer:
        http2.settle(peer)
        http2.half_call(peer, STEP, length=3, sent=b"\x0a")
        while not len(arrivals):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
        http2.more(peer, b"\x01a")
        while len(arrivals):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        arrivals.cut_slow()
    with http2.connect(wire.server.port) as peer:  # a client that goes away
        http2.half_call(peer, STEP, length=3)
        while not len(arrivals):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
    while len(arrivals):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert ("Step", "CANCELLED") not in counts(wire)


@pytest.mark.parametrize(
    ("wanted", "descriptors", "most"),
    [(10_000, None, 10_000), (10_000, 20_000, 10_000), (10_000, 4096, 3584), (10_000, 600, 150),
     (10_000, 256, 64), (5, 256, 5), (10_000, 1, 1)],
)  # fmt: skip
def test_descriptors_are_left_for_everything_else(
    wanted: int, descriptors: int | None, most: int
) -> None:
    assert most_connections(wanted, descriptors) == most


async def test_a_detach_of_more_than_there_can_be_is_refused(repository: Path) -> None:
    async with serving(repository, max_channels=16) as wire:
        stream = wire.sessions.Stream()
        await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
        await stream.read()
        await stream.write(pb.StreamRequest(detach=pb.StreamDetach(channels=[1] * 17)))
        with pytest.raises(grpc.aio.AioRpcError, match="17 exceed the limit of 16") as caught:
            await stream.read()
        assert caught.value.code().name == "INVALID_ARGUMENT"
