"""Authorities and certificates, made for a test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import trustme

Span = tuple[datetime | None, datetime | None]
NOW: Span = (None, None)
LONG_AGO: Span = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 2, 3, 4, 5, tzinfo=UTC))
TO_COME: Span = (datetime(2070, 1, 1, tzinfo=UTC), datetime(2071, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, and writes them where it is told."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """A new authority; its own certificate is in a file of the folder."""
        self._folder = folder
        self._ca = trustme.CA(organization_name=name)
        self.pem = self._ca.cert_pem.bytes()
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def pair(self, file: str, *names: str, valid: Span = NOW) -> Pair:
        """A certificate for names, in files that are called so."""
        issued = self._ca.issue_cert(*names, not_before=valid[0], not_after=valid[1])
        pair = Pair(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        pair.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair


def server_credentials(pair: Pair, clients: Authority | None = None) -> grpc.ServerCredentials:
    """Those of a server; with ``clients`` it wants certificates of that authority."""
    shown = [(pair.key.read_bytes(), pair.cert.read_bytes())]
    roots = None if clients is None else clients.pem
    return grpc.ssl_server_credentials(shown, roots, clients is not None)
