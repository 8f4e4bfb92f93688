"""Addresses, options and metadata; and what is said when nothing answers."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socket
from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cellar
from cellar.connection.address import Address, proxy_of
from cellar.connection.connection import Metadata, call_metadata, channel_options, wire_metadata
from tests.client.conftest import QUICK
from tests.client.fake import FakeServer
from tests.client.front import Front, is_silent, is_web_server

ONCE = cellar.RetryPolicy(attempts=1)
PRINTABLE = st.text(st.characters().filter(str.isprintable), min_size=1, max_size=30)
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("server", "host", "port", "is_local"),
    [
        ("localhost:8001", "localhost", 8001, True),
        ("LOCALHOST.", "LOCALHOST.", None, True),
        ("127.1.2.3:1", "127.1.2.3", 1, True),
        ("[::1]:8001", "::1", 8001, True),
        ("::1", "::1", None, True),
        ("[fe80::1%eth0]:8001", "fe80::1%eth0", 8001, False),
        ("unix:/run/cellar.sock", "", None, True),
        ("unix:run/my cellar.sock", "", None, True),
        ("dns:///cellar.example:443", "cellar.example", 443, False),
        ("ipv4:127.0.0.1:8001", "127.0.0.1", 8001, True),
        ("xds:///cellar", "", None, False),
        ("cellar.example", "cellar.example", None, False),
    ],
)
def test_addresses(server: str, host: str, port: int | None, is_local: bool) -> None:
    address = Address.parse(server)
    assert (address.host, address.port, address.is_local) == (host, port, is_local)
    assert dict(channel_options(address, None, ())).get("grpc.enable_http_proxy") == (
        0 if is_local else None
    )


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("http://localhost:8001", "leave http:// out: say 'localhost:8001'"),
        (
            "https://me:secret@cellar.example:443/path",
            "'cellar.example:443'; TLS is spoken with tls=True",
        ),
        ("grpc://cellar:1", "leave grpc:// out"),
        ("localhost:web", "'web' is no port: say 'localhost:8001'"),
        ("localhost:70000", "70000 is no port"),
        ("localhost:0", "0 is no port"),
        ("localhost:8001/metrics", "leave '/metrics' out: say 'localhost:8001'"),
        ("/run/cellar.sock", "'unix:/run/cellar.sock'"),
        ("local host:8001", "a space"),
        ("localhost:8001\n", "another character"),
        ("", "'' is no address"),
    ],
)
def test_what_is_no_address(server: str, says: str) -> None:
    for connect in (cellar.connect, cellar.aio.connect):
        with pytest.raises(cellar.BadInputError, match=says) as caught:
            connect(server)
        assert caught.value.field == "server"
        assert "secret" not in str(caught.value)


@given(PRINTABLE)
def test_ids_are_percent_encoded(session_id: str) -> None:
    [(name, value)] = call_metadata((), session_id)
    assert name == "x-session-id"
    assert isinstance(value, str)
    assert value.isascii()
    assert value.replace("%", "").isprintable()
    assert unquote(value, errors="strict") == session_id


@pytest.mark.parametrize("session_id", ["ñandú", "100 %", "a/b?c#d", "日本語 の", "%20"])
async def test_ids_of_any_character(session_id: str, server: FakeServer) -> None:
    with cellar.connect(server.address, retry=QUICK) as client:
        session = client.session("char", id=session_id)
        session.step("a")
        assert unquote(server.metadata["x-session-id"]) == session_id
        assert client.attach(session_id).position == 1
        with client.stream("char") as stream:
            [channel] = stream.attach([session_id])
            assert stream.step([channel], "b").positions.tolist() == [2]
    async with cellar.aio.connect(server.address, retry=QUICK) as aclient:
        assert (await aclient.attach(session_id)).position == 2
        await (await aclient.session("char", id=session_id + "2")).step("a")
        assert unquote(server.metadata["x-session-id"]) == session_id + "2"


@pytest.mark.parametrize(
    ("session_id", "says"),
    [
        ("tab\t", r"character 4, '\\t', is a control character"),
        ("\x00", r"character 1, '\\x00', is a control character"),
        ("two\nlines", r"character 4, '\\n', is a control character"),
        ("\ud800", r"character 1, '\\ud800', is one that cannot be printed"),
    ],
)
async def test_ids_that_cannot_be(session_id: str, says: str, server: FakeServer) -> None:
    says = "id: " + says
    with cellar.connect(server.address, retry=ONCE) as client:
        with pytest.raises(cellar.BadInputError, match=says):
            client.session("char", id=session_id)
        with pytest.raises(cellar.BadInputError, match=says):
            client.attach(session_id)
        with client.stream("char") as stream, pytest.raises(cellar.BadInputError, match=says):
            stream.attach(["good", session_id])
    async with cellar.aio.connect(server.address, retry=ONCE) as aclient:
        with pytest.raises(cellar.BadInputError, match=says):
            await aclient.session("char", id=session_id)
    assert set(server.calls) <= {"GetModel"}


def test_metadata_that_is_sent(server: FakeServer) -> None:
    pairs: list[tuple[str, str | bytes]] = [
        ("X-Trace", "1"),
        ("owner", "Ñandú 100%"),
        ("plain", "50%"),
        ("raw-bin", b"\x00\xff"),
    ]
    as_pairs: list[Metadata] = [pairs, dict(pairs)]
    for given_ in as_pairs:
        with cellar.connect(server.address, metadata=given_) as client:
            client.session("char").close()
    sent: dict[str, str | bytes] = dict(server.metadata)
    assert (sent["x-trace"], sent["plain"], sent["raw-bin"]) == ("1", "50%", b"\x00\xff")
    assert sent["owner"] == "%C3%91and%C3%BA 100%25"
    assert unquote(str(sent["owner"])) == "Ñandú 100%"


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("two words", "x"), "'two words' is no name"),
        (("", "x"), "'' is no name"),
        ((":path", "x"), "':path' is no name"),
        (("token", "secret\n"), r"metadata 'token': character 7, '\\n', is a control character"),
        (("token", b"secret"), "the value of 'token' is no text"),
        (("token-bin", "secret"), "'token-bin' ends in -bin: give bytes"),
        (("alone",), "pairs of a name and a value"),
    ],
)
def test_metadata_that_cannot_be_sent(pair: tuple[str, str], says: str) -> None:
    for connect in (cellar.connect, cellar.aio.connect):
        with pytest.raises(cellar.BadInputError, match=says) as caught:
            connect("localhost:8001", metadata=[pair])
        assert "secret" not in str(caught.value)


@given(PRINTABLE, PRINTABLE)
def test_any_value_can_be_sent(one: str, two: str) -> None:
    sent = dict(wire_metadata([("one", one), ("two", two)]))
    for value, before in ((sent["one"], one), (sent["two"], two)):
        assert isinstance(value, str)
        assert value.isascii()
        assert before.isascii() or unquote(value, errors="strict") == before


def test_keepalive_and_options_of_the_caller() -> None:
    address = Address.parse("localhost:8001")
    chosen = dict(channel_options(address, 12.5, [("grpc.keepalive_timeout_ms", 7)]))
    assert chosen["grpc.keepalive_time_ms"] == 12500
    assert chosen["grpc.keepalive_timeout_ms"] == 7
    assert "grpc.keepalive_time_ms" not in dict(channel_options(address, None, ()))
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(cellar.BadInputError, match="keepalive_s"):
            cellar.connect("localhost:8001", keepalive_s=wrong)


def test_a_vanished_server_is_noticed(front: Front) -> None:
    with cellar.connect(front.address, keepalive_s=0.5, retry=ONCE, timeout_s=60) as client:
        session = client.session("char")
        front.vanish()
        with pytest.raises(cellar.ConnectionLostError, match="ping timeout"):
            session.step("a")


def test_proxies_are_for_elsewhere(
    server: FakeServer, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.turn(is_web_server)
    monkeypatch.setenv("http_proxy", f"http://me:secret@{front.address}")
    with cellar.connect(server.address, retry=ONCE) as client:
        assert client.models()
    with (
        cellar.connect("192.0.2.1:8001", retry=ONCE, timeout_s=5) as client,
        pytest.raises(cellar.ConnectionLostError) as caught,
    ):
        client.models()
    assert f"the proxy {front.address} that http_proxy names" in str(caught.value)
    assert "no_proxy=192.0.2.1 leaves it out" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "environment", "names"),
    [
        ("a.example", {"http_proxy": "http://p:1"}, "http_proxy"),
        ("a.example", {"http_proxy": "http://p:1", "https_proxy": "http://q:1"}, "https_proxy"),
        ("a.example", {"grpc_proxy": "p:1", "https_proxy": "http://q:1"}, "grpc_proxy"),
        ("a.example", {"http_proxy": "http://p:1", "no_proxy": "b.example, .example"}, ""),
        ("10.1.2.3", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, ""),
        ("a.example", {"http_proxy": "http://p:1", "no_grpc_proxy": "b", "no_proxy": "*"}, "http"),
        ("a.example", {"HTTP_PROXY": "http://p:1"}, ""),
    ],
)
def test_which_proxy_is_taken(host: str, environment: dict[str, str], names: str) -> None:
    assert names in proxy_of(host, environment)
    assert bool(names) == bool(proxy_of(host, environment))


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("localhost", "no port is named, so that 443 was tried: say 'localhost:8001'"),
        ("nowhere.invalid:8001", "there is no host 'nowhere.invalid'"),
        ("unix:/nowhere/cellar.sock", "with --host unix:PATH"),
    ],
)
def test_what_is_likely(server: str, says: str) -> None:
    with (
        cellar.connect(server, retry=ONCE, timeout_s=10) as client,
        pytest.raises(cellar.CellarError, match=says),
    ):
        client.models()


def test_the_port_of_the_metrics_at_localhost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:  # and not on ::1, which is tried as well
        port = web.getsockname()[1]
        why = Address.parse(f"localhost:{port}").why
        refused = "failed to connect to all addresses; last error: Connection refused"
        assert f"what listens on 127.0.0.1:{port} does not" in why(
            "UNAVAILABLE", refused, heard=False
        )
    assert "nothing listens there" in why("UNAVAILABLE", refused, heard=False)


def test_a_port_where_nothing_is_ever_said(front: Front) -> None:
    front.turn(is_silent)
    with (
        cellar.connect(front.address, retry=ONCE, timeout_s=0.3) as client,
        pytest.raises(cellar.DeadlineExceededError, match="nothing has come from there yet"),
    ):
        client.models()


def test_a_server_that_refused_has_answered(server: FakeServer, front: Front) -> None:
    with cellar.connect(front.address, retry=ONCE, timeout_s=0.5) as client:
        with pytest.raises(cellar.ModelUnknownError):
            client.model("nobody", timeout_s=5)
        server.fail("ListModels", delay_s=2.0)
        with pytest.raises(cellar.DeadlineExceededError) as caught:
            client.models()
    assert "nothing has come from there" not in str(caught.value)


def test_tls_where_none_is_spoken(server: FakeServer) -> None:
    credentials = grpc.ssl_channel_credentials()
    with (
        cellar.connect(server.address, credentials=credentials, retry=ONCE) as client,
        pytest.raises(cellar.ConnectionLostError, match="does not speak TLS: leave tls, ca"),
    ):
        client.models()


async def test_connections_stay_where_they_are(server: FakeServer) -> None:
    with cellar.connect(server.address) as client:
        stream, session = client.stream("char"), client.session("char")
        for each in (client, stream, session):
            for send in (pickle.dumps, copy.deepcopy):
                with pytest.raises(cellar.CellarError, match="connect there"):
                    send(each)
    async with cellar.aio.connect(server.address) as aclient:
        for other in (aclient, await aclient.stream("char"), await aclient.session("char")):
            with pytest.raises(cellar.CellarError, match="connect there"):
                pickle.dumps(other)


def test_errors_can_be_sent_to_another_process() -> None:
    error = cellar.UnansweredError([1, 2])
    again = pickle.loads(pickle.dumps(error))
    assert (again.frames, str(again)) == ((1, 2), str(error))


def test_another_event_loop(server: FakeServer) -> None:
    async def begin() -> tuple[cellar.aio.Client, cellar.aio.Stream]:
        client = await cellar.aio.connect(server.address)
        stream = await client.stream("char")
        await stream.open(1)
        return client, stream

    async def go_on(client: cellar.aio.Client, stream: cellar.aio.Stream) -> None:
        for step in (client.models, lambda: stream.step([0], "a"), stream.close):
            with pytest.raises(cellar.ClosedError, match="another event loop"):
                await step()

    async def end(client: cellar.aio.Client, stream: cellar.aio.Stream) -> None:
        await stream.close()
        await client.close()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        client, stream = first.run(begin())
        second.run(go_on(client, stream))
        first.run(end(client, stream))
