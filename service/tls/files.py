"""Certificate, key and the authority of clients, read from their files and checked together."""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.tls.certificate import Certificate, certificates
from service.watched import is_open_to_all

_MOST_BYTES = 1 << 20
_SOON = timedelta(days=14)
_HTTP = ["http/1.1"]


class TlsError(Exception):
    """Files that TLS cannot be served with; says which, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where what TLS is served with lies.

    Attributes:
        cert: the certificate, and those between it and its authority, as PEM.
        key: its key, as PEM, not encrypted.
        client_ca: where clients have to show a certificate, the authorities of theirs.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.cert, self.key, *(() if self.client_ca is None else (self.client_ca,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """What was in the files: it fits together.

    Attributes:
        chain: the certificate and those above it, as PEM.
        key: as PEM; never shown.
        client_ca: as PEM, or ``None``.
        certificate: the first of the chain.
        ends: the first of the chain to end does so then.
        client_ca_ends: and the last of the clients' authorities, then.
        key_is_open: everybody on this machine may read the key.
        context: for HTTP: the same certificate, and no client is asked for one.
    """

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    certificate: Certificate
    ends: datetime
    client_ca_ends: datetime | None
    key_is_open: bool
    context: ssl.SSLContext = field(repr=False, compare=False)

    @property
    def ends_soon(self) -> bool:
        """Whether it is time for a new certificate."""
        return self.ends - datetime.now(UTC) <= _SOON

    @property
    def fault(self) -> str | None:
        """Why nobody would accept the certificate now, or ``None``."""
        now = datetime.now(UTC)
        if now >= self.ends:
            return f"it expired at {self.ends:%Y-%m-%d %H:%M} UTC"
        if now < self.certificate.begins:
            begins = f"{self.certificate.begins:%Y-%m-%d %H:%M} UTC"
            return f"it is valid from {begins} on only: is the clock right?"
        return None


def read(files: TlsFiles) -> TlsMaterial:
    """Read the files.

    Raises:
        TlsError: one cannot be read, or they do not fit together. Whether the certificate is valid
            now is not looked at.
    """
    chain = _read(files.cert, "--tls-cert")
    key, is_open = _read(files.key, "--tls-key"), is_open_to_all(files.key)
    of_chain = _certificates(chain, files.cert, "--tls-cert")
    client_ca, of_clients = None, []
    if files.client_ca is not None:
        client_ca = _read(files.client_ca, "--tls-client-ca")
        of_clients = _certificates(client_ca, files.client_ca, "--tls-client-ca")
    return TlsMaterial(
        chain=chain,
        key=key,
        client_ca=client_ca,
        certificate=of_chain[0],
        ends=min(each.ends for each in of_chain),
        client_ca_ends=max((each.ends for each in of_clients), default=None),
        key_is_open=is_open,
        context=_context(files, chain, key),
    )


def _read(path: Path, flag: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TlsError(f"{flag}: {path} cannot be read: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise TlsError(f"{flag}: {path} is too large: a PEM file is wanted")
    return data


def _certificates(pem: bytes, path: Path, flag: str) -> list[Certificate]:
    try:
        found = certificates(pem)
    except ValueError as error:
        raise TlsError(f"{flag}: a certificate in {path} cannot be read: {error}") from None
    if not found:
        raise TlsError(f"{flag}: {path} has no certificate: a PEM file is wanted, with BEGIN lines")
    return found


def _context(files: TlsFiles, chain: bytes, key: bytes) -> ssl.SSLContext:
    """What HTTP is served with.

    Raises:
        TlsError: the key is none, or another's.
    """
    if b"PRIVATE KEY-----" not in key:
        raise TlsError(f"--tls-key: {files.key} has no private key: a PEM file is wanted")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_HTTP)
    try:
        with _file_of(chain) as cert_path, _file_of(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise TlsError(
                f"--tls-key: {files.key} is the key of another certificate than {files.cert}"
            ) from None
        if b"ENCRYPTED" in key:
            raise TlsError(
                f"--tls-key: {files.key} is encrypted: decrypt it, and let only this user read it"
            ) from None
        reason = (error.reason or "unknown").lower().replace("_", " ")
        raise TlsError(
            f"--tls-cert, --tls-key: {files.cert} and {files.key} cannot be used: {reason}"
        ) from None
    return context


@contextmanager
def _file_of(data: bytes) -> Iterator[str]:
    """A file with these bytes, which ``ssl`` wants: the one on the disk may have changed by now."""
    if hasattr(os, "memfd_create"):  # in memory alone
        descriptor = os.memfd_create("pem")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
    else:
        with tempfile.TemporaryDirectory() as folder:  # which nobody else may look into
            path = Path(folder) / "pem"
            path.write_bytes(data)
            yield str(path)
