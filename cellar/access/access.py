"""How a client comes to its server: the address, TLS, and the metadata of every call."""

from __future__ import annotations

import os
from collections.abc import Mapping

import grpc

from cellar.access.tls import Tls
from cellar.access.token import Token
from cellar.connection.address import Address
from cellar.connection.connection import (
    Metadata,
    Options,
    WireMetadata,
    call_metadata,
    wire_metadata,
)
from cellar.values import arguments
from cellar.values.arguments import unusable

# What gRPC, HTTP/2 and the client itself say; a caller's own would be lost, or contradict them.
_RESERVED = frozenset(
    {"connection", "content-type", "host", "te", "transfer-encoding", "user-agent", "x-session-id"}
)
_AUTHORIZATION = "authorization"


class Access:
    """What a client shows its server, and what it asks of it.

    Attributes:
        address: where the server is.
        token: who calls, if anybody says so.
        options: of the gRPC channel.
    """

    def __init__(
        self,
        server: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tls: bool | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        token: str | os.PathLike[str] | None = None,
        allow_plaintext_token: bool = False,
        metadata: Metadata = (),
        headers: Mapping[str, str | bytes] | None = None,
    ) -> None:
        """Takes the arguments of ``connect``; reads the files that they name.

        Raises:
            BadInputError: an argument or a file cannot be used, or two contradict each other.
        """
        if not isinstance(credentials, grpc.ChannelCredentials | None):
            raise arguments.refused(
                "credentials", "a grpc.ChannelCredentials, or None", credentials
            )
        self._credentials = credentials
        self._tls = Tls.chosen(tls, ca, cert, key, server_name)
        if credentials is not None and (self._tls is not None or tls is False):
            raise unusable("credentials", "they say all of TLS: leave tls, ca, cert and key out")
        self.address = Address.parse(
            server,
            is_secure=credentials is not None or self._tls is not None,
            has_certificate=self._tls is not None and self._tls.has_certificate,
        )
        own = _headers(headers)
        self._metadata = (*wire_metadata(metadata), *own)
        self.token = None if token is None else Token(token)
        names = {name for name, _ in self._metadata}
        if self.token is not None and _AUTHORIZATION in names:
            raise unusable("token", "authorization is among headers or metadata: leave one out")
        allow_plaintext_token = arguments.flag("allow_plaintext_token", allow_plaintext_token)
        secret = "token" if self.token else "headers" if _AUTHORIZATION in dict(own) else ""
        if secret and not (self.is_private or allow_plaintext_token):
            raise unusable(
                secret,
                "whoever is on the way to another machine reads it without TLS: add tls=True, or "
                "ca=FILE; or allow_plaintext_token=True where something else encrypts",
            )

    def __repr__(self) -> str:
        """Where to, and nothing secret."""
        return f"<access to {self.address.target}>"

    @property
    def is_private(self) -> bool:
        """Whether nobody can read on the way."""
        return self.address.is_secure or self.address.is_local

    @property
    def options(self) -> Options:
        """Of the gRPC channel."""
        if self._tls is None or not self._tls.server_name:
            return ()
        return (("grpc.ssl_target_name_override", self._tls.server_name),)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a new channel; None: in the clear."""
        return self._credentials if self._tls is None else self._tls.credentials()

    def renewed(self) -> bool:
        """Whether a new channel would have other certificates than the last one."""
        return self._tls is not None and self._tls.renewed()

    def metadata(self, session_id: str = "") -> WireMetadata:
        """The metadata of a call."""
        own = self._metadata if self.token is None else (*self._metadata, self.token.header)
        return call_metadata(own, session_id)


def _headers(headers: object) -> WireMetadata:
    if headers is None:
        return ()
    if not isinstance(headers, Mapping):
        raise unusable("headers", "give a mapping of names and values")
    pairs = wire_metadata(list(headers.items()), "headers")
    for name, value in pairs:
        if name in _RESERVED or name.startswith("grpc-"):
            raise unusable("headers", f"{name!r} is said by gRPC or by the client itself")
        given = next(own for each, own in headers.items() if each.lower() == name)
        if isinstance(given, str) and not given.isascii():
            raise unusable("headers", f"the value of {name!r} has characters other than ASCII")
        if isinstance(value, str) and value != value.strip():
            raise unusable("headers", f"the value of {name!r} begins or ends with a space")
    if len({name for name, _ in pairs}) < len(pairs):
        raise unusable("headers", "two names differ in their case alone")
    return pairs
