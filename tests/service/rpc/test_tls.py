"""gRPC by TLS: who may connect, with which certificates, and what happens when they change."""

import asyncio
import http.client
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc
from service.healthcheck import is_serving
from service.server import Server
from service.settings import Settings
from tests.certificates import Files, written

SMALL: dict[str, Any] = {
    "port": 0, "metrics_port": 0, "max_sessions": 8, "spare_slots": 8, "max_paths": 8,
    "default_paths": 8,
}  # fmt: skip
AUTHORITY, STRANGE = trustme.CA(), trustme.CA()


@dataclass
class Made:
    server: Server
    files: Files


@asynccontextmanager
async def serving(repository: Path, folder: Path, **others: Any) -> AsyncIterator[Made]:
    files = written(folder, AUTHORITY)
    server = Server(
        Settings(models=repository, tls_cert=files.cert, tls_key=files.key, **SMALL, **others)
    )
    await server.start()
    try:
        yield Made(server, files)
    finally:
        await server.stop()


def pem(issued: trustme.LeafCert) -> tuple[bytes, bytes]:
    return issued.private_key_pem.bytes(), b"".join(e.bytes() for e in issued.cert_chain_pems)


def channel(
    server: Server, *, trusts: trustme.CA = AUTHORITY, shows: trustme.LeafCert | None = None
) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        trusts.cert_pem.bytes(), *(pem(shows) if shows is not None else ())
    )
    # A pool of its own: gRPC would share one connection between channels that are alike.
    options = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, options)


async def opens(channel: grpc.aio.Channel, name: str) -> bool:
    stub: Any = session_pb2_grpc.SessionServiceStub(channel)
    request = pb.OpenSessionRequest(model="letters", session_id=name)
    try:
        await stub.OpenSession(request, timeout=5)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_only_who_speaks_tls_and_trusts_it_is_served(
    repository: Path, tmp_path: Path
) -> None:
    async with serving(repository, tmp_path) as made:
        async with channel(made.server) as trusting:
            assert await opens(trusting, "a")
        async with channel(made.server, trusts=STRANGE) as distrusting:
            assert not await opens(distrusting, "b")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{made.server.port}") as plain:
            assert not await opens(plain, "c")
        assert made.server.engine.directory.describe("a").id == "a"
        expiry = made.server.metrics.registry.get_sample_value(
            "cellar_tls_certificate_expiry_timestamp_seconds", {"certificate": "server"}
        )
        assert expiry is not None


async def test_mutual_tls_wants_a_certificate_of_the_authority_of_clients(
    repository: Path, tmp_path: Path
) -> None:
    clients = trustme.CA()
    ca = tmp_path / "clients.pem"
    ca.write_bytes(clients.cert_pem.bytes())
    async with serving(repository, tmp_path, tls_client_ca=ca) as made:
        for shows, is_served in (
            (None, False),
            (STRANGE.issue_cert("somebody"), False),
            (AUTHORITY.issue_cert("somebody"), False),
            (clients.issue_cert("somebody"), True),
        ):
            async with channel(made.server, shows=shows) as each:
                assert await opens(each, "a") is is_served
        # Probes have no certificates.
        assert await asyncio.to_thread(page, made.server, "/readyz") == 200
        asked = f"https://127.0.0.1:{made.server.metrics_port}"
        assert await asyncio.to_thread(is_serving, asked)
        assert not await asyncio.to_thread(is_serving, f"https://127.0.0.1:{made.server.port}")
        # Another authority takes the place of that one: for new connections, from now on.
        async with channel(made.server, shows=clients.issue_cert("old")) as old:
            assert await opens(old, "b")
            ca.write_bytes(STRANGE.cert_pem.bytes())
            certificates: Any = made.server._certificates
            certificates.look()
            assert await opens(old, "c"), "who is connected stays"
            async with channel(made.server, shows=clients.issue_cert("new")) as new:
                assert not await opens(new, "d")
            async with channel(made.server, shows=STRANGE.issue_cert("new")) as new:
                assert await opens(new, "d")


def page(server: Server, path: str) -> int:
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.metrics_port, timeout=10, context=context
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def shown(port: int, version: ssl.TLSVersion | None = None) -> tuple[str, str, str | None]:
    """The first name of the certificate on a port, the cipher, and the protocol over it."""
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as peer:
        found: Any = peer.getpeercert()
        cipher = peer.cipher()
        assert cipher is not None
        return found["subjectAltName"][0][1], cipher[0], peer.selected_alpn_protocol()


async def test_a_new_certificate_is_shown_to_who_comes_and_nobody_is_cut_off(
    repository: Path, tmp_path: Path
) -> None:
    async with serving(repository, tmp_path) as made, channel(made.server) as old:
        server = made.server
        assert await opens(old, "a")
        stream: Any = session_pb2_grpc.SessionServiceStub(old)
        call = stream.Stream()
        await call.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
        await call.read()
        written(tmp_path, AUTHORITY, "new.example", "127.0.0.1")
        async with asyncio.timeout(10):  # as the server looks by itself
            for port in (server.port, server.metrics_port or 0):
                while (await asyncio.to_thread(shown, port))[0] != "new.example":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        async with channel(server) as new:
            assert await opens(new, "b")
        assert await opens(old, "c")
        await call.write(pb.StreamRequest(attach=pb.StreamAttach(session_ids=["a"], channels=[0])))
        await call.read()
        call.cancel()


async def test_tls_1_2_and_newer_with_forward_secrecy_alone(
    repository: Path, tmp_path: Path
) -> None:
    async with serving(repository, tmp_path) as made:
        for port, protocol in ((made.server.port, "h2"), (made.server.metrics_port, "http/1.1")):
            assert port is not None
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                _, cipher, spoken = await asyncio.to_thread(shown, port, version)
                assert cipher.startswith(("ECDHE-", "TLS_AES_", "TLS_CHACHA20_"))
                assert spoken == protocol
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.to_thread(shown, port, ssl.TLSVersion.TLSv1_1)
            for weak in ("AES256-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"):
                assert not await asyncio.to_thread(takes, port, weak), weak


def takes(port: int, cipher: str) -> bool:
    context = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        with raw, context.wrap_socket(raw, server_hostname="127.0.0.1"):
            return True
    except OSError:
        return False
