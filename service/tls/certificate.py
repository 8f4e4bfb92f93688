"""What a certificate says of itself: names and validity (RFC 5280, of which this is a part).

Python's ``ssl`` tells that of the certificates of others, and not of those that one serves with.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s*(.*?)-----END CERTIFICATE-----", re.DOTALL)
_OID, _SEQUENCE, _SET, _OCTETS = 0x06, 0x30, 0x31, 0x04
_UTC_TIME, _VERSION, _EXTENSIONS = 0x17, 0xA0, 0xA3
_DNS, _IP = 0x82, 0x87
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")  # 2.5.29.17
_COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3
_MOST_NAMES = 1000
_PRINTED = 200  # characters of a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate.

    Attributes:
        names: whom it is for, such as "cellar.example" or "10.0.0.1"; its common name where it has
            no other.
        begins: it is valid from then on.
        ends: and until then.
    """

    names: tuple[str, ...]
    begins: datetime
    ends: datetime


def certificates(pem: bytes) -> list[Certificate]:
    """All certificates of a PEM file, in its order.

    Raises:
        ValueError: one of them is none.
    """
    found = []
    for block in _BLOCK.findall(pem):
        try:
            found.append(_certificate(base64.b64decode(b"".join(block.split()), validate=True)))
        except (binascii.Error, IndexError, OverflowError) as error:
            raise ValueError("it is no certificate") from error
    return found


def _certificate(der: bytes) -> Certificate:
    (whole,) = _of(_SEQUENCE, der)
    signed = list(_fields(next(_of(_SEQUENCE, whole), b"")))
    if signed and signed[0][0] == _VERSION:
        signed = signed[1:]
    if len(signed) < 6:
        raise ValueError("it is no certificate")
    # serial number, algorithm, issuer, validity, subject, key, ...
    (begins, ends) = (_time(kind, value) for kind, value in _fields(signed[3][1]))
    names = [
        name
        for kind, value in signed[6:]
        if kind == _EXTENSIONS
        for name in _alternative_names(value)
    ]
    return Certificate(
        names=tuple((names or list(_common_names(signed[4][1])))[:_MOST_NAMES]),
        begins=begins,
        ends=ends,
    )


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What a value consists of: tags and contents.

    Raises:
        ValueError: it is no DER.
    """
    at = 0
    while at < len(data):
        kind, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4:
                raise ValueError("it is no certificate")
            length, at = int.from_bytes(data[at : at + count]), at + count
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield kind, data[at : at + length]
        at += length


def _of(wanted: int, data: bytes) -> Iterator[bytes]:
    return (value for kind, value in _fields(data) if kind == wanted)


def _time(kind: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _alternative_names(extensions: bytes) -> Iterator[str]:
    for extension in (
        each for every in _of(_SEQUENCE, extensions) for each in _of(_SEQUENCE, every)
    ):
        if next(_of(_OID, extension), b"") != _ALTERNATIVE_NAMES:
            continue
        for octets in _of(_OCTETS, extension):
            for names in _of(_SEQUENCE, octets):
                for kind, value in _fields(names):
                    if kind == _DNS:
                        yield _printable(value)
                    elif kind == _IP and len(value) in (4, 16):
                        yield str(ip_address(value))


def _common_names(subject: bytes) -> Iterator[str]:
    for names in _of(_SET, subject):
        for name in _of(_SEQUENCE, names):
            fields = list(_fields(name))
            if len(fields) == 2 and fields[0][1] == _COMMON_NAME:
                yield _printable(fields[1][1])


def _printable(value: bytes) -> str:
    """A name for logs: it moves no cursor."""
    text = value.decode("utf-8", "replace")[:_PRINTED]
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
