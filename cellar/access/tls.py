"""TLS as a client speaks it: whom it trusts, and which certificate it shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc

from cellar.access.files import path_of, read
from cellar.access.pem import check_chain, check_key, check_roots
from cellar.errors import BadInputError
from cellar.values.arguments import unusable

_log = logging.getLogger("cellar")


@dataclass(frozen=True, slots=True)
class _Pem:
    """What the files hold; None where none is named."""

    ca: bytes | None = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)


class Tls:
    """Certificates and key, as their files were when they were read last.

    Attributes:
        has_certificate: whether the client shows one.
        server_name: the name that the server's certificate has to be for, empty: the address's.
    """

    def __init__(
        self, *, ca: str | None, cert: str | None, key: str | None, server_name: str
    ) -> None:
        """Reads the files.

        Raises:
            BadInputError: a file cannot be used.
        """
        self.has_certificate = cert is not None
        self.server_name = server_name
        self._ca, self._cert, self._key = ca, cert, key
        self._pem = self._read()
        self._check(self._pem)
        self._refused: _Pem | None = None

    @classmethod
    def chosen(
        cls, tls: object, ca: object, cert: object, key: object, server_name: object
    ) -> Tls | None:
        """What the arguments of these names ask for; None: the connection is in the clear.

        Raises:
            BadInputError: they contradict each other, or a file cannot be used.
        """
        if tls is not None and not isinstance(tls, bool):
            raise unusable("tls", f"{tls!r}: say True, False or None")
        named = {"ca": ca, "cert": cert, "key": key}
        paths = {name: path_of(name, value) for name, value in named.items() if value is not None}
        if tls is False and paths:
            raise unusable("tls", f"False contradicts {' and '.join(paths)}: leave one of them out")
        for one, other in (("cert", "key"), ("key", "cert")):
            if one in paths and other not in paths:
                raise unusable(other, f"{one} is named, and {other} is not: a client shows both")
        speaks = tls or bool(paths)
        if server_name is not None:
            if not isinstance(server_name, str) or not server_name.isascii() or not server_name:
                raise unusable("server_name", f"{server_name!r} is no host's name")
            if set(server_name) & set(":/@ ") or not server_name.isprintable():
                raise unusable("server_name", f"{server_name!r} is no host's name: no port, no URL")
            if not speaks:
                raise unusable(
                    "server_name", "without TLS no name is checked: add tls=True, or ca=FILE"
                )
        if not speaks:
            return None
        return cls(
            ca=paths.get("ca"),
            cert=paths.get("cert"),
            key=paths.get("key"),
            server_name=str(server_name or ""),
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC is given for a new channel."""
        return grpc.ssl_channel_credentials(self._pem.ca, self._pem.key, self._pem.cert)

    def renewed(self) -> bool:
        """Reads the files again; whether there is another content that can be used.

        What cannot be used is logged once, and what there was before stays: files are often
        written one after the other.
        """
        try:
            pem = self._read()
        except BadInputError as error:
            _log.warning("the certificates stay as they were: %s", error)
            return False
        if pem in (self._pem, self._refused):
            return False
        try:
            self._check(pem)
        except BadInputError as error:
            self._refused = pem
            _log.warning("the certificates stay as they were: %s", error)
            return False
        self._pem = pem
        return True

    def _read(self) -> _Pem:
        def maybe(name: str, path: str | None) -> bytes | None:
            return None if path is None else read(name, path)

        return _Pem(maybe("ca", self._ca), maybe("cert", self._cert), maybe("key", self._key))

    def _check(self, pem: _Pem) -> None:
        now = datetime.now(UTC)
        if self._ca is not None and pem.ca is not None:
            check_roots(self._ca, pem.ca, now)
        if self._cert is not None and pem.cert is not None:
            check_chain(self._cert, pem.cert, now)
        if self._key is not None and self._cert is not None and pem.key is not None:
            check_key(self._key, pem.key, self._cert)
