"""What every connection to a server has: gRPC's options, and the metadata of calls."""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cellar.connection.address import DEFAULT_PORT, Address
from cellar.errors import BadInputError
from cellar.values import arguments
from cellar.values.arguments import unusable

Metadata = Sequence[tuple[str, str | bytes]] | Mapping[str, str | bytes]
WireMetadata = tuple[tuple[str, str | bytes], ...]
Options = Sequence[tuple[str, Any]]

DEFAULT_SERVER = f"localhost:{DEFAULT_PORT}"

CHANNEL_OPTIONS: Options = (
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.max_metadata_size", 64 * 2**10),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
)
"""Room for large frames, and for long ids in errors; and a lost server is looked for often, since
retries are bounded.

They are ours alone: with those of gRPC (1.85) a call that begins as its server goes away has its
status at times, and never its end, so that who reads its answers waits without end.
"""

KEEPALIVE_S = 30.0
"""After so long without a word a server that owes an answer is asked whether it is there.

Cellar's server speaks up more often than that, so it is asked only when it has vanished; and gRPC
asks twice at most before data flows again, which every server bears.
"""
_ANSWER_S = 20.0  # for the answer to that, at most
_MOST_INT = 2**31 - 1  # of a channel's option
_ASCII = "".join(map(chr, range(0x20, 0x7F)))


def channel_options(address: Address, keepalive_s: float | None, options: Options) -> Options:
    """The options of a channel; the caller's own ones go before ours.

    Raises:
        BadInputError: the time is none, or not above 0.
    """
    chosen = dict(CHANNEL_OPTIONS)
    if keepalive_s is not None:
        keepalive_s = arguments.seconds("keepalive_s", keepalive_s)
        chosen["grpc.keepalive_time_ms"] = max(1, min(round(1000 * keepalive_s), _MOST_INT))
        answer_ms = max(1, round(1000 * min(keepalive_s, _ANSWER_S)))
        chosen["grpc.keepalive_timeout_ms"] = answer_ms
        chosen["grpc.http2.ping_timeout_ms"] = answer_ms  # of pings that go with data
    if address.is_local:
        chosen["grpc.enable_http_proxy"] = 0  # a proxy would look for the server on its own side
    return tuple({**chosen, **dict(options)}.items())


def call_metadata(metadata: WireMetadata, session_id: str = "") -> WireMetadata:
    """The metadata of a call; a proxy may route by the session's id, percent-encoded."""
    if not session_id:
        return metadata
    return (*metadata, ("x-session-id", quote(session_id, safe="")))


def check_session_id(session_id: object, name: str = "session_id") -> str:
    """An id that a session may have; whether it is too long, the server tells.

    Raises:
        BadInputError: it is no text, or a character in it cannot be printed.
    """
    session_id = arguments.text(name, session_id)
    if not session_id.isprintable():
        raise _unprintable(name, session_id)
    return session_id


def new_session_id() -> str:
    """An id that no other session has: the client chooses, so that it can ask once more."""
    return str(uuid.uuid4())


def wire_metadata(metadata: Metadata, field: str = "metadata") -> WireMetadata:
    """The caller's own metadata as gRPC sends them.

    Names are in lower case, as HTTP/2 has them. Values of other than ASCII characters are
    percent-encoded; names that end in -bin have bytes. ``field`` is what the argument is called.

    Raises:
        BadInputError: a name or a value that cannot be sent.
    """
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    if not isinstance(pairs, Iterable):
        raise unusable(field, "give pairs of a name and a value")
    return tuple(_pair(pair, field) for pair in pairs)


def _pair(pair: Any, field: str) -> tuple[str, str | bytes]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise unusable(field, "give pairs of a name and a value")
    name, value = pair
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z_.-]+", name):
        raise unusable(field, f"{name!r} is no name: use letters, digits, '-', '_' and '.'")
    name = name.lower()
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise unusable(field, f"{name!r} ends in -bin: give bytes")
        return name, value
    if not isinstance(value, str):
        raise unusable(
            field, f"the value of {name!r} is no text: bytes need a name that ends in -bin"
        )
    if not value.isprintable():
        raise _unprintable(f"{field} {name!r}", value)
    return name, value if value.isascii() else quote(value, safe=_ASCII.replace("%", ""))


def _unprintable(where: str, text: str) -> BadInputError:
    """Names the character, and not the text, which may be a secret."""
    number, character = next((n, each) for n, each in enumerate(text, 1) if not each.isprintable())
    control = unicodedata.category(character) == "Cc"
    what = "a control character" if control else "one that cannot be printed"
    return BadInputError(
        f"{where}: character {number}, {character!a}, is {what}: leave it out",
        metadata={"field": where.partition(" ")[0]},
    )
