"""Certificates and keys in PEM files: read, and checked before anything is sent.

A message names the argument and the file, and never what is in it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from cellar.access.files import refused

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ENCRYPTED = re.compile(rb"BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED", re.MULTILINE)
_SEQUENCE, _VERSION, _SHORT_TIME = 0x30, 0xA0, 0x17


def check_roots(path: str, data: bytes, now: datetime) -> None:
    """Checks that a file has certificates, and one at least that holds now.

    Raises:
        BadInputError: it has not.
    """
    ends = [end for _, end in _spans("ca", path, data)]
    if max(ends) < now:
        raise refused(
            "ca", path, f"all of its certificates have expired, the last on {max(ends):%F}"
        )


def check_chain(path: str, data: bytes, now: datetime) -> None:
    """Checks that a file has a certificate, with what stands between it and a root, all valid now.

    Raises:
        BadInputError: it has not.
    """
    for begin, end in _spans("cert", path, data):
        if end < now:
            raise refused("cert", path, f"the certificate has expired on {end:%F %H:%M} UTC")
        if begin > now:
            raise refused("cert", path, f"the certificate is not valid before {begin:%F %H:%M} UTC")


def check_key(path: str, data: bytes, cert_path: str) -> None:
    """Checks that a file has the key of a certificate. Both are read from their files once more.

    Raises:
        BadInputError: it has not.
    """
    if b"PRIVATE KEY-----" not in data:
        raise refused("key", path, _no_pem("private key", data))
    if _ENCRYPTED.search(data):
        raise refused("key", path, "it is encrypted: give one without a password")
    try:
        # The callback keeps OpenSSL from asking at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_path, path, lambda: b"")
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise refused(
                "key", path, f"it is not the key of the certificate in {cert_path}"
            ) from None
        raise refused("key", path, "its private key cannot be read") from None
    except OSError as error:
        raise refused("key", path, f"it cannot be read: {error.strerror}") from None


def _spans(field: str, path: str, data: bytes) -> list[tuple[datetime, datetime]]:
    """When each certificate of a file is valid."""
    found = []
    for number, block in enumerate(_CERTIFICATE.findall(data), 1):
        try:
            der = ssl.PEM_cert_to_DER_cert(block.decode("ascii"))
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
            found.append(_span(der))
        except (ValueError, IndexError, ssl.SSLError):
            raise refused(field, path, f"certificate {number} cannot be read") from None
    if not found:
        raise refused(field, path, _no_pem("certificate", data))
    return found


def _no_pem(what: str, data: bytes) -> str:
    if data[:1] == bytes([_SEQUENCE]):
        return f"it is DER, and not PEM: openssl x509, or openssl pkey, writes the {what} as PEM"
    if b"PRIVATE KEY-----" in data or _CERTIFICATE.search(data):
        other = "a private key" if what == "certificate" else "a certificate"
        return f"there is {other} in it, and no {what}"
    return f"there is no {what} in it, as PEM writes one (-----BEGIN …)"


def _span(der: bytes) -> tuple[datetime, datetime]:
    """From when to when a certificate is valid: RFC 5280, section 4.1."""
    ((_, certificate), *_) = _elements(der)
    ((_, signed), *_) = _elements(certificate)
    fields = _elements(signed)
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    (_, validity) = fields[3]  # behind serial number, algorithm and issuer
    begin, end = (_time(tag, text) for tag, text in _elements(validity))
    return begin, end


def _elements(der: bytes) -> Sequence[tuple[int, bytes]]:
    """Tags and contents, one after the other."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _time(tag: int, text: bytes) -> datetime:
    digits = text.decode("ascii")
    if tag == _SHORT_TIME:  # of two digits for the year, from 1950 on
        digits = ("19" if digits >= "5" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
