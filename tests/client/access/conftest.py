"""An authority, and servers under TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.client.access.certificates import Authority, Pair, server_credentials
from tests.client.fake import FakeServer

Start = Callable[[grpc.ServerCredentials | None], FakeServer]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests."""
    for name in ("TLS", "CA", "CERT", "KEY", "SERVER_NAME", "TOKEN", "TOKEN_FILE", "SERVER"):
        monkeypatch.delenv(f"CELLAR_{name}", raising=False)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom client and server trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="session")
def local(authority: Authority) -> Pair:
    """The certificate of a server here."""
    return authority.pair("local", "localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def alice(authority: Authority) -> Pair:
    """The certificate of a client."""
    return authority.pair("alice", "alice@cellar.example")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which end with the test."""
    started = []

    def starts(credentials: grpc.ServerCredentials | None) -> FakeServer:
        started.append(FakeServer(credentials=credentials))
        return started[-1]

    yield starts
    for each in started:
        each.end()


@pytest.fixture
def secure(start: Start, local: Pair) -> FakeServer:
    """A server that speaks TLS."""
    return start(server_credentials(local))


@pytest.fixture
def mutual(start: Start, local: Pair, authority: Authority) -> FakeServer:
    """A server that wants certificates of its clients."""
    return start(server_credentials(local, authority))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token."""
    path = tmp_path / "token"
    path.write_text("one.SECRET1\n")
    return path
