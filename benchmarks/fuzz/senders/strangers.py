"""Who connects without being a gRPC client: bytes on bare sockets, for both ports of a server.

Nothing is expected of the answers. What counts is that nobody else is disturbed, and that nothing
is left behind.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

from benchmarks.fuzz.messages.grammar import MARK

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RESET, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = (
    range(10)
)
_END_STREAM, _END_HEADERS = 1, 4
_STEP = "/cellar.v1.SessionService/Step"
_STREAM = "/cellar.v1.SessionService/Stream"
_ANSWER_S = 0.3

Writer = asyncio.StreamWriter
Stranger = Callable[[Random, str], Awaitable[int]]
"""Does its mischief at an address; returns how many messages it sent."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, 4.1)."""
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream) + payload


def headers(fields: Mapping[str, str | bytes]) -> bytes:
    """A block of literal fields without indexing, each with its name (RFC 7541, 6.2.2)."""
    block = b""
    for name, value in fields.items():
        text = value if isinstance(value, bytes) else value.encode()
        block += b"\0" + _length(len(name)) + name.encode() + _length(len(text)) + text
    return block


def call_headers(path: str, **more: str | bytes) -> bytes:
    """The block that begins a gRPC call; underscores in names are hyphens."""
    fields: dict[str, str | bytes] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields.update({name.replace("_", "-"): value for name, value in more.items()})
    return headers(fields)


def _length(number: int) -> bytes:
    if number < 127:
        return bytes((number,))
    found, number = bytearray((127,)), number - 127
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


@asynccontextmanager
async def _connection(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, Writer]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _say(address: str, *parts: bytes) -> int:
    """Say all of it, listen for a moment, and go."""
    async with _connection(address) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
        await _listen(reader)
    return len(parts)


async def _listen(reader: asyncio.StreamReader) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_S):
            await reader.read(65_536)
            await reader.read(65_536)


def _greeting() -> bytes:
    return _PREFACE + frame(_SETTINGS, 0, 0)


async def garbage(random: Random, address: str) -> int:
    return await _say(address, random.randbytes(random.choice((1, 100, 20_000))))


async def http_1(random: Random, address: str) -> int:
    line = random.choice((b"GET / HTTP/1.1", b"POST " + _STEP.encode() + b" HTTP/1.1", b"GET /"))
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    extra = random.choice((b"", upgrade, b"X: " + MARK.encode() * 4000 + b"\r\n"))
    return await _say(address, line + b"\r\nHost: localhost\r\n" + extra + b"\r\n")


async def tls(random: Random, address: str) -> int:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    return await _say(address, hello + random.randbytes(500))


async def garbage_after_greeting(random: Random, address: str) -> int:
    frames = [
        frame(random.randrange(16), random.randrange(256), random.choice((0, 1, 2, 2**31 - 1)),
              random.randbytes(random.choice((0, 1, 8, 100))))
        for _ in range(10)
    ]  # fmt: skip
    return await _say(address, _greeting(), *frames)


async def huge_headers(random: Random, address: str) -> int:
    block = call_headers(_STEP, x_large=MARK * random.choice((900, 8000)))
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    frames = [frame(_HEADERS, 0, 1, pieces[0])]
    frames += [frame(_CONTINUATION, 0, 1, piece) for piece in pieces[1:]]
    return await _say(address, _greeting(), *frames, frame(_CONTINUATION, _END_HEADERS, 1))


async def endless_continuation(_random: Random, address: str) -> int:
    more = frame(_CONTINUATION, 0, 1, headers({"x": "y" * 100}))
    return await _say(address, _greeting(), frame(_HEADERS, 0, 1), *[more] * 200)


async def wrong_streams(random: Random, address: str) -> int:
    block = call_headers(_STEP)
    wrong = (
        frame(_DATA, 0, 0, b"abc"),
        frame(_DATA, 0, 5, b"abc"),
        frame(_HEADERS, _END_HEADERS, 2, block),
        frame(_HEADERS, _END_HEADERS, 0, block),
        frame(_RESET, 0, 7, b"\0\0\0\x08"),
        frame(_RESET, 0, 0, b"\0\0\0\x08"),
        frame(_WINDOW, 0, 0, b"\0\0\0\0"),
        frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
        frame(_CONTINUATION, _END_HEADERS, 1, block),
        frame(_PUSH, _END_HEADERS, 1, b"\0\0\0\x02" + block),
        frame(_PRIORITY, 0, 1, b"\0\0\0\x01\x10"),
        frame(_DATA, 8, 1, b"\xff"),
    )
    return await _say(address, _greeting(), random.choice(wrong), frame(_PING, 0, 0, bytes(8)))


async def rapid_resets(random: Random, address: str) -> int:
    """Calls taken back as soon as they are made (CVE-2023-44487)."""
    path = random.choice((_STEP, _STREAM, "/cellar.v1.SessionService/Generate"))
    block = call_headers(path)
    calls = b"".join(
        frame(_HEADERS, _END_HEADERS, stream, block) + frame(_RESET, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 401, 2)
    )
    await _say(address, _greeting(), calls)
    return 400


async def goaway(random: Random, address: str) -> int:
    said = struct.pack(">II", random.choice((0, 1, 2**31 - 1)), random.choice((0, 2, 11, 99)))
    block = frame(_HEADERS, _END_HEADERS, 1, call_headers(_STREAM))
    return await _say(address, _greeting(), block, frame(_GOAWAY, 0, 0, said + MARK.encode() * 20))


async def floods(random: Random, address: str) -> int:
    """Frames that want an answer, and whose answers are not read."""
    settings = struct.pack(">HI", random.randrange(1, 9), random.choice((0, 1, 2**31, 2**32 - 1)))
    one = random.choice(
        (
            frame(_PING, 0, 0, bytes(8)),
            frame(_SETTINGS, 0, 0, settings),
            frame(_SETTINGS, 0, 0),
            frame(_DATA, 0, 1),
        )
    )
    call = frame(_HEADERS, _END_HEADERS, 1, call_headers(_STREAM))
    await _say(address, _greeting(), call, one * 300)
    return 300


async def wrong_calls(random: Random, address: str) -> int:
    """Calls whose headers, or whose framing of messages, are wrong."""
    path = random.choice((_STEP, _STREAM, "/", "", "/cellar.v1.SessionService/", "/x" * 1000,
                          "/cellar.v1.SessionService/Nothing", "*"))  # fmt: skip
    unusual: list[dict[str, str | bytes]] = [
        {},
        {"content_type": "application/json"},
        {"content_type": "application/grpc+json"},
        {"te": "x"},
        {":method": "GET"},
        {"grpc_timeout": random.choice(("0n", "-1S", "99999999999H", "1", "x", "1u"))},
        {"grpc_encoding": random.choice(("gzip", "br", MARK))},
        {"Upper": "case"},
        {"x_bin": "*not base64*"},
        {"x": b"\0\r\n\xff"},
        {"grpc_status": "0"},
    ]
    data = random.choice(
        (
            b"",
            b"\0\0\0\0\0",
            b"\0\0\0\0\5abc",
            b"\0\xff\xff\xff\xffabc",
            b"\1\0\0\0\3abc",
            b"\2\0\0\0\3abc",
            b"\0\0\0\0\1\xff" * 20,
        )
    )
    call = frame(_HEADERS, _END_HEADERS, 1, call_headers(path, **random.choice(unusual)))
    end = random.choice((frame(_DATA, _END_STREAM, 1, data), frame(_DATA, 0, 1, data)))
    return await _say(address, _greeting(), call, end)


async def slow(random: Random, address: str) -> int:
    """A call, a byte at a time; never ended."""
    said = _greeting() + frame(_HEADERS, _END_HEADERS, 1, call_headers(_STREAM))
    cut = random.randrange(1, len(said))
    async with _connection(address) as (_, writer):
        writer.write(said[:cut])
        for byte in said[cut : cut + 30]:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.02)
    return 1


async def gone_at_once(random: Random, address: str) -> int:
    """Connections that are reset, some within a call."""
    for _ in range(20):
        async with _connection(address) as (_, writer):
            taken = writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if random.random() < 0.5:
                block = call_headers(random.choice((_STEP, _STREAM)))
                writer.write(_greeting() + frame(_HEADERS, _END_HEADERS, 1, block))
                await asyncio.sleep(random.choice((0, 0.002)))
    return 20


async def at_the_metrics(random: Random, address: str) -> int:
    """Strange browsers of the metrics page."""
    said: Sequence[bytes] = random.choice(
        (
            [b"GET /" + MARK.encode() * 100 + b" HTTP/1.1\r\n\r\n"],
            [b"GET /metrics?name[]=%ff&name[]=" + MARK.encode() + b" HTTP/1.1\r\n\r\n"],
            [b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nabc"],
            [b"HEAD /metrics HTTP/1.0\r\n\r\n"],
            [b"GET /metrics HTTP/9.9\r\n\r\n"],
            [b"GET /metrics HTTP/1.1\r\nAccept: \xff\xfe" + MARK.encode() + b"\r\n\r\n"],
            [b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"],
            [b"X: y\r\n" * 300],
            [b"GET /metr"],
            [random.randbytes(1000)],
            [b"\r\n" * 100],
            [_greeting()],
        )
    )
    return await _say(address, *said)


async def gone_from_the_metrics(random: Random, address: str) -> int:
    """A browser that asks and does not wait."""
    for _ in range(10):
        async with _connection(address) as (_, writer):
            taken = writer.get_extra_info("socket")
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n" * random.choice((1, 5)))
            await asyncio.sleep(random.choice((0, 0.001, 0.005)))
    return 10


AT_GRPC: Mapping[str, Stranger] = {
    each.__name__: each
    for each in (
        garbage, http_1, tls, garbage_after_greeting, huge_headers, endless_continuation,
        wrong_streams, wrong_streams, rapid_resets, goaway, floods, wrong_calls, slow,
        gone_at_once,
    )
}  # fmt: skip
AT_METRICS: Mapping[str, Stranger] = {
    each.__name__: each for each in (at_the_metrics, gone_from_the_metrics)
}


async def meet(random: Random, name: str, address: str) -> int:
    """Let one of them in; returns how many messages it sent."""
    known = {**AT_GRPC, **AT_METRICS}
    try:
        return await known[name](random, address)
    except OSError:  # shown the door, as it should be
        return 1


__all__ = ["AT_GRPC", "AT_METRICS", "Stranger", "call_headers", "frame", "headers", "meet"]
