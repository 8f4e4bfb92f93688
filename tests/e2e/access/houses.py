"""Servers that ask for tokens, without TLS, with it, or with certificates of clients."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme

from cellar.v1 import session_pb2 as pb
from cellar.v1.values_pb2 import Inputs, Outputs
from service.server import Server
from service.settings import Settings
from tests.certificates import Files, written
from tests.e2e.access.calls import Answer, ask
from tests.service.auth.tokens import Tokens, bearer

KINDS = ("plain", "tls", "mutual")
AUTHORITY, CLIENTS, STRANGE = trustme.CA(), trustme.CA(), trustme.CA()
_SMALL: dict[str, Any] = {
    "port": 0, "metrics_port": 0, "max_sessions": 256, "spare_slots": 64, "max_paths": 8,
    "default_paths": 8, "drain_timeout_s": 5,
}  # fmt: skip
SESSIONS = "/cellar.v1.SessionService/"


@dataclass
class House:
    """A server, its tokens, and channels to it as its clients have them.

    Attributes:
        kind: of its TLS.
        channel: for calls that are awaited as a whole.
        streams: for those that last.
        named: principals' tokens, by their names.
    """

    kind: str
    server: Server
    tokens: Tokens
    channel: grpc.Channel
    streams: grpc.aio.Channel
    files: Files | None = None
    named: dict[str, str] = field(default_factory=dict)

    def join(self, name: str, *roles: Any, **limits: Any) -> None:
        """A principal gets a token; `look` tells the server."""
        self.named[name] = self.tokens.add(name, *roles, **limits)

    async def look(self) -> None:
        """The server reads the file of tokens at once."""
        access: Any = self.server.access
        await access.look()

    @property
    def https(self) -> ssl.SSLContext | None:
        """What is trusted on the HTTP port."""
        if self.kind == "plain":
            return None
        return ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())

    async def ask(self, who: str, method: str, *messages: Any, **others: Any) -> Answer:
        """A call of a principal; a method of sessions may leave out where it is."""
        path = method if method.startswith("/") else SESSIONS + method
        sent = [message.SerializeToString() for message in messages]
        return await ask(self.channel, path, sent, bearer(self.named[who]), **others)

    async def open(self, who: str, name: str, model: str = "letters", **others: Any) -> pb.Session:
        """A principal opens a session."""
        request = pb.OpenSessionRequest(model=model, session_id=name, **others)
        answer = await self.ask(who, "OpenSession", request)
        assert answer.outcome == "OK", answer
        return pb.OpenSessionResponse.FromString(answer.messages[0]).session

    async def step(
        self, who: str, name: str, inputs: Inputs, *, commit: bool = True
    ) -> pb.StepResponse:
        """A principal steps a session; with all that the model tells."""
        request = pb.StepRequest(
            session_id=name, inputs=inputs, commit=commit, outputs=Outputs(raw=True)
        )
        answer = await self.ask(who, "Step", request)
        assert answer.outcome == "OK", answer
        return pb.StepResponse.FromString(answer.messages[0])

    async def listed(self, who: str, **wanted: Any) -> dict[tuple[str, str], pb.Session]:
        """What a principal is told that there is, by owner and id."""
        answer = await self.ask(who, "ListSessions", pb.ListSessionsRequest(**wanted))
        assert answer.outcome == "OK", answer
        page = pb.ListSessionsResponse.FromString(answer.messages[0])
        return {(each.owner, each.id): each for each in page.sessions}


def pem(issued: trustme.LeafCert) -> tuple[bytes, bytes]:
    """Key and chain of a certificate."""
    return issued.private_key_pem.bytes(), b"".join(e.bytes() for e in issued.cert_chain_pems)


def channel_to(
    port: int,
    kind: str,
    *,
    trusts: trustme.CA = AUTHORITY,
    shows: trustme.CA | None = CLIENTS,
    api: Any = grpc,
) -> Any:
    """A connection of its own; of a mutual kind with a certificate of this authority, or none.

    Args:
        port: of the server.
        kind: how it is spoken to.
        trusts: who has to have issued the server's certificate.
        shows: who has issued the client's.
        api: ``grpc`` or ``grpc.aio``, whose channel is wanted.
    """
    options = (("grpc.use_local_subchannel_pool", 1),)
    if kind == "plain":
        return api.insecure_channel(f"127.0.0.1:{port}", options)
    shown = pem(shows.issue_cert("client")) if kind == "mutual" and shows is not None else ()
    credentials = grpc.ssl_channel_credentials(trusts.cert_pem.bytes(), *shown)
    return api.secure_channel(f"127.0.0.1:{port}", credentials, options)


@asynccontextmanager
async def house(
    kind: str,
    models: Path,
    folder: Path,
    *,
    tokens: Tokens | None = None,
    asks: bool = True,
    **others: Any,
) -> AsyncIterator[House]:
    """A server of a kind, for the length of a block; it asks for tokens, or for none."""
    tokens = tokens or Tokens(folder / "tokens.json")
    files, tls = None, {}
    if kind != "plain":
        files = written(folder, AUTHORITY)
        tls = {"tls_cert": files.cert, "tls_key": files.key}
    if kind == "mutual":
        tls["tls_client_ca"] = folder / "clients.pem"
        tls["tls_client_ca"].write_bytes(CLIENTS.cert_pem.bytes())
    settings: dict[str, Any] = {**_SMALL, **tls, **others}
    server = Server(Settings(models=models, tokens=tokens.path if asks else None, **settings))
    await server.start()
    try:
        async with channel_to(server.port, kind, api=grpc.aio) as streams:
            with channel_to(server.port, kind) as channel:
                yield House(kind, server, tokens, channel, streams, files)
    finally:
        await server.stop()
