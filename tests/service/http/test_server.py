"""Strangers on bare sockets: slow, half, huge, deaf and many."""

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from service.endpoint import Endpoint
from service.http.connection import Limits
from service.http.messages import Request, Response, text
from service.http.server import HttpServer

LARGE = 8 << 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

REQUESTS = (
    GET,
    b"HEAD /a?b=%20 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
)
DAMAGE = st.one_of(st.binary(max_size=2), st.sampled_from([b"\r\n", b":", b"\0", b" " * 3]))


def answer(request: Request) -> Response:
    if request.path == "/large":
        return Response(status=200, body=bytes(LARGE))
    if request.path == "/of":
        return Response(status=200, body=bytes(int(request.query)))
    if request.path == "/headers":
        return text(200, request.headers.get("authorization", "none"))
    if request.path == "/fault":
        raise RuntimeError("the page is torn")
    return text(200, f"{request.method} {request.path}?{request.query}")


@contextmanager
def serving(host: str = "127.0.0.1", **limits: Any) -> Iterator[HttpServer]:
    server = HttpServer(answer, Endpoint(host, 0), limits=Limits(**limits))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpServer]:
    with serving(head_s=1, idle_s=1, linger_s=0.1) as server:
        yield server


def connect(server: HttpServer, data: bytes = b"") -> socket.socket:
    assert server.port is not None
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    peer.sendall(data)
    return peer


def deaf(server: HttpServer, data: bytes) -> socket.socket:
    """A connection that takes little until it is read from."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(10)
    peer.connect(("127.0.0.1", server.port))
    peer.sendall(data)
    return peer


def rest(peer: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    parts = []
    try:
        while part := peer.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def ends_within(peer: socket.socket, seconds: float) -> float:
    began = time.monotonic()
    rest(peer)
    took = time.monotonic() - began
    assert took < seconds
    return took


def get(server: HttpServer, path: str = "/", method: str = "GET") -> tuple[int, bytes]:
    assert server.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        found = connection.getresponse()
        return found.status, found.read()
    finally:
        connection.close()


def test_requests_follow_one_another_on_a_connection_and_all_at_once() -> None:
    with serving() as server, connect(server, GET) as peer:
        assert peer.recv(4096).endswith(b"\r\n\r\nGET /?\n")
        last = b"GET /b?c=d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        peer.sendall(GET * 50 + last)
        found = rest(peer)
    assert found.count(b"HTTP/1.1 200 OK\r\n") == 51
    assert found.endswith(b"GET /b?c=d\n")


def test_a_header_that_comes_twice_is_not_one_of_the_two() -> None:
    """A proxy may look at the first, and another at the last: who is let in by one alone?"""
    twice = b"Authorization: Bearer a\r\nX-Other: b\r\nauthorization: Bearer b\r\n\r\n"
    with (
        serving() as server,
        connect(server, GET.replace(b"/ ", b"/headers ")[:-2] + twice) as peer,
    ):
        assert peer.recv(4096).endswith(b"\r\n\r\nBearer a, Bearer b\n")


def test_head_is_get_without_a_body() -> None:
    with serving() as server:
        with connect(server, GET.replace(b"GET", b"HEAD") + GET) as peer:
            peer.shutdown(socket.SHUT_WR)
            heads, whole = rest(peer).split(b"\r\n\r\n", 1)
        assert b"Content-Length: 8" in heads.title()
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert get(server, method="HEAD") == (200, b"")


def test_200_half_sent_requests_do_not_hold_up_a_scrape() -> None:
    with serving() as server, ExitStack() as held:
        halves = [
            held.enter_context(connect(server, GET[: 1 + number % (len(GET) - 1)]))
            for number in range(200)
        ]
        for _ in range(20):
            began = time.monotonic()
            assert get(server)[0] == 200
            assert time.monotonic() - began < 1
        assert len(halves) == 200
        held.enter_context(connect(server))  # who says nothing


def test_who_is_slow_to_ask_is_let_go() -> None:
    with serving(head_s=0.3) as server, connect(server) as silent, connect(server, GET[:9]) as half:
        with connect(server) as slow:
            began = time.monotonic()
            with suppress(OSError):  # a byte of a header at a time
                while time.monotonic() - began < 3:
                    slow.sendall(GET[:1])
                    time.sleep(0.05)
            assert time.monotonic() - began < 2
        for peer in (silent, half):
            ends_within(peer, 1)


def test_who_has_been_answered_may_take_its_time_and_then_not() -> None:
    with serving(head_s=0.2, idle_s=0.8) as server, connect(server, GET) as peer:
        peer.recv(4096)
        time.sleep(0.4)
        peer.sendall(GET)
        assert peer.recv(4096).startswith(b"HTTP/1.1 200")
        assert ends_within(peer, 2) > 0.5
        with connect(server, GET) as another:
            another.recv(4096)
            another.sendall(b"G")
            ends_within(another, 0.7)


def test_who_does_not_read_its_answer_is_let_go() -> None:
    with serving(answer_s=0.3) as server:
        with deaf(server, GET.replace(b"/ ", b"/large ")) as peer:
            assert get(server)[0] == 200, "and nobody waits for it meanwhile"
            time.sleep(0.6)
            assert len(rest(peer)) < LARGE
        assert len(get(server, "/large")[1]) == LARGE


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000, 431),
        (b"G" * 20_000, 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 505),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nxxx", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /fault HTTP/1.1\r\nHost: a\r\n\r\n", 500),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_whatever_is_no_request_is_told_so_and_ends(sent: bytes, status: int) -> None:
    with serving(linger_s=0.2) as server, structlog.testing.capture_logs() as entries:
        with connect(server, sent) as peer:
            found = rest(peer)
        assert found.startswith(b"HTTP/1.1 %d " % status)
        assert found.count(b"\r\nDate: ") == 1
        assert b"xxx" not in found, "nobody's words are repeated"
        assert get(server)[0] == 200
    assert [entry["event"] for entry in entries] == (["page failed"] if status == 500 else [])


def test_an_answer_that_ends_the_connection_is_whole_for_slow_readers_too() -> None:
    ask = b"GET /of?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    # Of some, what does not fit into the system's buffers is a few KiB.
    sizes = range(0, 3 << 20, 48 << 10)
    with serving(linger_s=0.05, answer_s=60) as server, ExitStack() as held:
        peers = [held.enter_context(deaf(server, ask % size)) for size in sizes]
        time.sleep(0.4)
        for size, peer in zip(sizes, peers, strict=True):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # from here on, quickly
            assert len(rest(peer).partition(b"\r\n\r\n")[2]) == size


def test_an_answer_is_not_lost_to_a_body_that_comes_with_the_request() -> None:
    post = b"POST /of?%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    body, size = bytes(512 << 10), 2 << 20
    with serving() as server, deaf(server, post % (size, len(body))) as peer:
        peer.sendall(body)
        time.sleep(0.2)
        assert len(rest(peer).partition(b"\r\n\r\n")[2]) == size


def test_a_body_is_not_taken_whole() -> None:
    with serving(linger_s=0.3) as server:
        with connect(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n") as peer:
            sent = 0
            with suppress(OSError):
                for _ in range(200 << 4):  # 200 MiB
                    peer.sendall(bytes(1 << 16))
                    sent += 1 << 16
        assert sent < 100 << 20
        assert get(server)[0] == 200


@given(st.sampled_from(REQUESTS), st.lists(st.tuples(st.integers(0, 80), DAMAGE), max_size=4))
@settings(max_examples=150, deadline=None)
def test_damaged_requests_are_answered_or_ended_and_nobody_hears_of_it(
    shared: HttpServer, request: bytes, damage: list[tuple[int, bytes]]
) -> None:
    for place, put in damage:
        request = request[:place] + put + request[place + (len(put) == 1) :]
    with structlog.testing.capture_logs() as entries, connect(shared, request) as peer:
        peer.shutdown(socket.SHUT_WR)
        found = rest(peer)
    assert found == b"" or found.startswith(b"HTTP/1.1 ")
    assert get(shared)[0] == 200
    assert entries == []


def test_beyond_the_limit_who_has_waited_longest_goes() -> None:
    with serving(connections=4) as server, ExitStack() as held:
        first = [held.enter_context(connect(server, GET[:9])) for _ in range(4)]
        for _ in range(3):  # each is a connection
            assert get(server)[0] == 200
        ends_within(first[0], 1)
        many = [held.enter_context(connect(server)) for _ in range(1000)]
        assert get(server)[0] == 200
        ends_within(many[0], 1)


def test_those_who_do_not_read_their_answers_do_not_hold_up_a_scrape() -> None:
    with serving(connections=4) as server, ExitStack() as held:
        large = GET.replace(b"/ ", b"/large ")
        first = [held.enter_context(deaf(server, large * 50)) for _ in range(4)]
        for peer in first:
            assert peer.recv(10), "its answer is under way"
        for _ in range(3):
            assert get(server)[0] == 200
        assert len(rest(first[0])) < LARGE
        assert len(get(server, "/large")[1]) == LARGE


def test_it_ends_at_once_whoever_is_there() -> None:
    before = threading.active_count()
    server = HttpServer(answer, Endpoint("127.0.0.1", 0))
    with connect(server) as silent, connect(server, GET[:9]) as half:
        slow = deaf(server, GET.replace(b"/ ", b"/large "))
        slow.recv(10)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 0.6 + 0.5
        for peer in (silent, half, slow):
            rest(peer)
            peer.close()
        with pytest.raises(ConnectionRefusedError):
            connect(server)
    assert threading.active_count() == before


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    with serving() as server:
        assert server.port is not None
        with pytest.raises(OSError, match="in use"):
            HttpServer(answer, Endpoint("127.0.0.1", server.port))
    where = f"unix:{tmp_path / 'http'}"
    with serving(where), pytest.raises(OSError, match="another server"):
        HttpServer(answer, Endpoint(where, 0))
    (tmp_path / "file").write_text("of somebody")
    with pytest.raises(OSError, match="no socket"):
        HttpServer(answer, Endpoint(f"unix:{tmp_path / 'file'}", 0))


def test_it_can_listen_on_a_unix_socket_left_behind_too(tmp_path: Path) -> None:
    path = tmp_path / "http"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
    with serving(f"unix:{path}") as server, socket.socket(socket.AF_UNIX) as peer:
        assert server.port is None
        peer.connect(os.fspath(path))
        peer.sendall(GET)
        assert peer.recv(4096).endswith(b"GET /?\n")
    assert not path.exists()
