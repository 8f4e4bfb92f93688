"""Where a server is, and why nothing may answer there. Knows nothing of gRPC's calls."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from cellar.errors import BadInputError
from cellar.values.arguments import unusable

DEFAULT_PORT = 8001

_UNIX = ("unix:", "unix-abstract:")
_OTHERS = ("xds:", "vsock:", "google-c2p:")
_UNRESOLVED = ("errors resolving", "DNS resolution failed")  # of gRPC 1.85, and of older ones
_UNUSABLE = ("Failed to create security handshaker", "empty address list")  # of 1.85, and of 1.76
_NO_CONNECTION = ("failed to connect", "timed out", *_UNRESOLVED, *_UNUSABLE)
_CLOSED = "Socket closed"
_SCHEME = re.compile(r"(https?|grpcs?|tcp|h2c?|wss?)://(?:[^/@]*@)?([^/?#]*)", re.IGNORECASE)
# In gRPC's order: the first that is set counts.
_PROXY_NAMES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_NAMES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server's address.

    Attributes:
        target: what gRPC is told.
        host: the host's name or number; empty for a socket file, or where gRPC alone can tell.
        port: None where none is named; gRPC then takes 443.
        is_secure: whether TLS is spoken there.
        has_certificate: whether this side shows a certificate.
    """

    target: str
    host: str = ""
    port: int | None = None
    is_secure: bool = False
    has_certificate: bool = False

    @classmethod
    def parse(
        cls, server: str, *, is_secure: bool = False, has_certificate: bool = False
    ) -> Address:
        """Reads host:port, [IPv6]:port, unix:PATH, or any other target of gRPC.

        Raises:
            BadInputError: it cannot be an address, and the message says what would be.
        """
        if not isinstance(server, str) or not server:
            raise _refused(f"{server!r} is no address: say host:port, or unix:PATH")
        if not server.isprintable() or (" " in server and not server.startswith(_UNIX)):
            raise _refused(f"{server!r} has a space or another character that no address has")
        make = partial(cls, target=server, is_secure=is_secure, has_certificate=has_certificate)
        scheme = _SCHEME.match(server)
        if scheme:
            secure = scheme[1].lower() in ("https", "grpcs", "wss")
            tls = "; TLS is spoken with tls=True"
            raise _refused(
                f"leave {scheme[1]}:// out: say {scheme[2] or 'host:port'!r}{tls if secure else ''}"
            )
        if server.startswith(("/", "./", "../")):
            raise _refused(f"a socket file is named 'unix:{server}'")
        if server.startswith(_UNIX):
            return make()
        plain = re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", server)
        if path := re.fullmatch(r"([^/,]*:\d+)(/.*)", plain):
            raise _refused(f"leave {path[2]!r} out: say {path[1]!r}")
        if "/" in plain or "," in plain or plain.startswith(_OTHERS):
            return make()  # of another kind: gRPC's business
        host, port = _split(plain)
        if port is not None and not 0 < port < 2**16:
            raise _refused(f"{port} is no port: in {server!r} say one of 1 to 65535")
        return make(host=host, port=port)

    @property
    def is_socket_file(self) -> bool:
        """Whether it is a socket of this machine that has a name, and no port."""
        return self.target.startswith(_UNIX)

    @property
    def is_local(self) -> bool:
        """Whether it can only be this machine."""
        if self.is_socket_file or self.host.lower().removesuffix(".") == "localhost":
            return True
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    def why(self, code: str, message: str, *, heard: bool) -> str:
        """What is likely to be wrong when a call fails without a word of a Cellar server.

        Args:
            code: the call's status code.
            message: what gRPC says.
            heard: whether the server has ever answered this client.

        Returns:
            a clause, or nothing where the message is all there is to say.
        """
        if code == "UNIMPLEMENTED":
            return "what answers there is no Cellar server, or one that does not know this method"
        if code == "DEADLINE_EXCEEDED" and not heard:
            return f"nothing has come from there yet: {self._silent()}"
        if code != "UNAVAILABLE" or not any(words in message for words in _NO_CONNECTION):
            return ""
        return self._no_connection(message)

    def _no_connection(self, message: str) -> str:
        named = self.port or 443
        proxy = self._proxy()
        unresolved = any(words in message for words in _UNRESOLVED)
        if tls := self._tls(message):
            return tls
        if "HTTP proxy" in message or (proxy and not unresolved):
            return self._through(proxy or "a proxy")
        if "http1" in message or "Failed parsing HTTP/2" in message:
            what = "an HTTP/1.1 server" if "http1" in message else "something that speaks no gRPC"
            return (
                f"{what} answers there: {named} may be the port of the metrics, or another "
                f"service's; gRPC is on {DEFAULT_PORT} unless --port says otherwise"
            )
        if self.is_socket_file:
            return (
                "is cellar-serve running with --host unix:PATH, and may you use its socket? It is "
                "for its owner, or for the group"
            )
        if self.port is None and self.host:
            return f"no port is named, so that 443 was tried: say {_join(self.host, DEFAULT_PORT)}"
        if unresolved:
            host = self.host or self.target
            return f"there is no host {host!r} that can be found: is it spelt right?"
        if "refused" in message:
            if self.host.lower() == "localhost" and (found := _listens(named)):
                # gRPC tries both of its numbers, and tells what the last one said.
                return (
                    f"what listens on {found} does not speak gRPC: {named} may be the port of the "
                    f"metrics, or another service's; gRPC is on {DEFAULT_PORT} unless --port says "
                    "otherwise"
                )
            return (
                f"nothing listens there: is cellar-serve running, and {named} its gRPC port "
                f"({DEFAULT_PORT} unless --port says otherwise)?"
            )
        return self._silent()

    def _tls(self, message: str) -> str:
        """What is wrong with TLS, if it is that; gRPC 1.76 has other words for it than 1.85."""
        if not self.is_secure:
            if _CLOSED in message:
                return (
                    "it closes connections at once: it may speak TLS (say tls=True, or ca=FILE), "
                    "or be another service's port"
                )
            return ""
        if "WRONG_VERSION_NUMBER" in message:
            return (
                "what answers there does not speak TLS: leave tls, ca, cert, key and credentials "
                "out, or name the port that does"
            )
        if "Hostname Verification" in message or "is not in peer certificate" in message:
            return (
                "the server's certificate is for another name: use that in the address, or say "
                "server_name=NAME"
            )
        if "certificate has expired" in message or "certificate is not yet valid" in message:
            return (
                "the server's certificate has expired, or is not valid yet; or this clock is wrong"
            )
        if "CERTIFICATE_VERIFY_FAILED" in message:
            return (
                "the server's certificate is not trusted: ca=FILE names the authority that has "
                "signed it"
            )
        if "PROTOCOL_VERSION" in message:
            return "client and server have no version of TLS in common"
        if any(words in message for words in _UNUSABLE):
            return "gRPC cannot use the certificates or the key that it was given"
        if "TLSV1_ALERT" in message or "SSLV3_ALERT" in message or _CLOSED in message:
            if self.has_certificate:
                return (
                    "the server breaks TLS off: it may not trust the client's certificate, or that "
                    "has expired"
                )
            return "the server breaks TLS off: it may want a client certificate (cert and key)"
        if "CERTIFICATE" in message or "handshake failed" in message or "SSL" in message:
            return "TLS fails"
        return ""

    def _silent(self) -> str:
        if proxy := self._proxy():
            return self._through(proxy)
        if self.is_secure:
            return "it may be another service's port, or one that does not speak TLS"
        return "it may be another service's port, or one that speaks TLS (tls=True, or ca=FILE)"

    def _proxy(self) -> str:
        return "" if self.is_local else proxy_of(self.host, os.environ)

    def _through(self, proxy: str) -> str:
        return f"the way leads through {proxy}; no_proxy={self.host or 'HOST'} leaves it out"


def proxy_of(host: str, environment: Mapping[str, str]) -> str:
    """The proxy that gRPC takes to a host, and the variable that names it; empty for none.

    A user's name and password in it are left out.
    """
    name = next((name for name in _PROXY_NAMES if environment.get(name)), "")
    if not name or _is_left_out(host, environment):
        return ""
    parts = urlsplit(environment[name])
    where = (parts.netloc or parts.path).rpartition("@")[2]
    return f"the proxy {where} that {name} names"


def _is_left_out(host: str, environment: Mapping[str, str]) -> bool:
    for name in _NO_PROXY_NAMES:
        if environment.get(name):
            entries = [entry.strip() for entry in environment[name].split(",")]
            return any(entry and _covers(entry, host) for entry in entries)
    return False


def _covers(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower().lstrip("*"))


def _listens(port: int) -> str:
    """The address of localhost where something listens; empty: nothing does."""
    for number in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((number, port), timeout=0.1):
            return _join(number, port).strip("'")
    return ""


def _split(plain: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[(.*)\](?::(\d+))?", plain)
    if bracketed:
        return bracketed[1], None if bracketed[2] is None else int(bracketed[2])
    if plain.count(":") > 1:
        return plain, None  # an IPv6 address alone
    host, colon, port = plain.partition(":")
    if not colon or port.isdecimal():
        return host, int(port) if port else None
    raise _refused(f"{port!r} is no port: say {_join(host or 'host', DEFAULT_PORT)}")


def _join(host: str, port: int) -> str:
    return f"'[{host}]:{port}'" if ":" in host else f"'{host}:{port}'"


def _refused(message: str) -> BadInputError:
    return unusable("server", message)
