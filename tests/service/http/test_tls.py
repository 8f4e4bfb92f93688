"""HTTP by TLS: the same pages and the same limits, and strangers who do not finish handshakes."""

import http.client
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.endpoint import Endpoint
from service.http.connection import Limits
from service.http.server import HttpServer
from service.tls.files import TlsFiles, read
from tests.certificates import written
from tests.service.http.test_server import GET, LARGE, answer, connect, deaf, ends_within, rest

AUTHORITY = trustme.CA()
HELLO = bytes.fromhex("160301010001")  # the beginning of one that never goes on


def trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@contextmanager
def serving(folder: Path, **limits: Any) -> Iterator[HttpServer]:
    made = written(folder, AUTHORITY)
    material = read(TlsFiles(cert=made.cert, key=made.key))
    server = HttpServer(
        answer,
        Endpoint("127.0.0.1", 0),
        limits=Limits(**limits),
        tls=lambda: material.context,
    )
    try:
        yield server
    finally:
        server.close()


def get(server: HttpServer, path: str, context: ssl.SSLContext | None = None) -> bytes:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.port, timeout=10, context=context or trusting()
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_pages_come_whole_and_the_connection_ends_well(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    with serving(tmp_path) as server:
        assert get(server, "/a?b", trusting(version)) == b"GET /a?b\n"
        assert len(get(server, "/large", trusting(version))) == LARGE
        raw = connect(server)
        with trusting(version).wrap_socket(raw, server_hostname="localhost") as peer:
            assert peer.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
            peer.sendall(GET * 20 + GET.replace(b"Host", b"Connection: close\r\nHost"))
            # Were the end not told, `suppress_ragged_eofs` aside, this would be an error.
            assert rest(peer).count(b"HTTP/1.1 200 OK") == 21


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    with serving(tmp_path) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = trusting(ssl.TLSVersion.TLSv1_1)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(server, "/", old)


def test_who_speaks_plain_http_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, linger_s=0.1) as server, connect(server, GET) as peer:
        said = rest(peer)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"https" in body


@pytest.mark.parametrize("said", [b"", HELLO, HELLO[:1], b"\0" * 64])
def test_handshakes_that_stop_are_ended(tmp_path: Path, said: bytes) -> None:
    with serving(tmp_path, head_s=0.5) as server, connect(server, said) as peer:
        ends_within(peer, 2)


def test_handshakes_that_drip_are_ended(tmp_path: Path) -> None:
    with serving(tmp_path, head_s=0.5) as server, connect(server) as peer:
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in HELLO + bytes(100):
                peer.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 3


def test_an_answer_that_nobody_reads_is_ended(tmp_path: Path) -> None:
    with serving(tmp_path, answer_s=0.5) as server:
        raw = deaf(server, b"")
        with trusting().wrap_socket(raw, server_hostname="localhost") as peer:
            peer.sendall(GET.replace(b"GET / ", b"GET /large "))
            time.sleep(1.5)
            began, came = time.monotonic(), 0
            with suppress(ConnectionError, ssl.SSLError):
                while part := peer.recv(1 << 20):
                    came += len(part)
            assert came < LARGE
            assert time.monotonic() - began < 5


def test_a_page_is_had_beside_300_that_stop_in_their_handshakes(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        stopped = [connect(server, HELLO[: number % 7]) for number in range(300)]
        began = time.monotonic()
        assert get(server, "/a") == b"GET /a?\n"
        assert time.monotonic() - began < 2
        for peer in stopped:
            peer.close()


def test_what_is_served_with_is_asked_for_each_connection(tmp_path: Path) -> None:
    served = []
    for name in ("a.example", "b.example"):
        made = written(tmp_path / name, AUTHORITY, name, "127.0.0.1")
        served.append(read(TlsFiles(cert=made.cert, key=made.key)).context)
    server = HttpServer(answer, Endpoint("127.0.0.1", 0), tls=lambda: served[0])
    try:
        names = []
        for _ in range(2):
            raw = socket.create_connection(("127.0.0.1", server.port or 0), timeout=10)
            with trusting().wrap_socket(raw, server_hostname="127.0.0.1") as peer:
                found: Any = peer.getpeercert()
                names.append(found["subjectAltName"][0][1])
            served.reverse()
        assert names == ["a.example", "b.example"]
    finally:
        server.close()
