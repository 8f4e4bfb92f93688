"""What a snapshot is made of: a session's state at one position, and what it belongs to.

It is input like any other: every length is checked before memory is taken for it, and nothing in it
is believed. docs/snapshot-format.md has the whole. Knows nothing of engines.
"""

import hashlib
import hmac
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from zlib import crc32

import numpy as np

from service.engine.log.checking import check_facts
from service.engine.log.seeds import Seed
from service.engine.work.columns import Floats
from service.errors import SnapshotInvalidError
from service.store.records import DamagedError, NewerError, Section, header_of, pack, unpack

MAGIC = b"CELLSNAP"
VERSION = 1
UNSIGNED, HMAC_SHA256 = 0, 1
FARTHEST = 2**53
"""No session stands behind this: larger numbers are not whole in all languages."""

_HEAD = struct.Struct("<8sHHQ")  # magic, version, how it is signed, bytes of the record
_CHECKSUM = struct.Struct("<I")  # of these
_RECORD_AT = _HEAD.size + _CHECKSUM.size
_DIGEST_BYTES = 32  # SHA-256; a signature has as many
_MOST_HEADER, _MOST_COLUMNS = 2**16, 1024  # of the record
_MOST_STEPS = 2**31 - 1  # of one request
_TRANSFER = re.compile("[0-9a-f]{64}")
_LEAST_S = 1e-9  # what a caller can ask for
_NONSENSE = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, Warning,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a snapshot says of its session.

    Attributes:
        model: the name that it was served by.
        version: the same.
        fingerprint: of the model's file.
        arithmetic: digest of what its bits depend on beside that, see `ServedModel.arithmetic`.
        id: the session's.
        position: where it stands.
        idle_timeout_s: what was asked for.
        ephemeral: see `EphemeralSessions`.
        exported_s: when, in seconds since the epoch.
        transfer: of a session that moves, the SHA-256 of the receipt that lets it be imported, in
            hexadecimal digits; empty: it does not move.
    """

    model: str
    version: int
    fingerprint: str
    arithmetic: str
    id: str
    position: int
    idle_timeout_s: float
    ephemeral: bool
    exported_s: float
    transfer: str = ""

    @property
    def label(self) -> str:
        """The model, as people name it."""
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A session's state, and what it belongs to.

    Attributes:
        facts: what it says of the session.
        names: of the model's states, in their order, as the inputs of its file are called.
        states: of each its values, (*shape).
        prediction: the one that the session stands at, where the model keeps it, (width,).
        last_steps: of the last request; 0: none by this model; negative: its reply is lost.
        content: digest of its inputs.
        history: the predictions after each of its steps, if it asked for all, (steps, width).
    """

    facts: Facts
    names: Sequence[str]
    states: Sequence[Floats]
    prediction: Floats | None
    last_steps: int
    content: int
    history: Floats | None = None

    @property
    def seed(self) -> Seed:
        """What a session begins with that stands there; it is on no branch yet."""
        more = [] if self.prediction is None else [self.prediction]
        return Seed(
            branch=0,
            position=self.facts.position,
            last_steps=self.last_steps,
            content=self.content,
            states=[*self.states, *more],
            history=self.history,
        )

    def pack(self, key: bytes | None) -> bytes:
        """The bytes, signed where there is a key."""
        columns = dict(zip(self.names, self.states, strict=True))
        facts = asdict(self.facts)
        if not self.facts.transfer:  # a server that knows no moves reads it, too
            del facts["transfer"]
        sections = [
            Section("session", facts, {}),
            Section("states", {}, columns),
            Section("prediction", {}, {} if self.prediction is None else {"row": self.prediction}),
            Section(
                "request",
                {"steps": abs(self.last_steps), "reply_lost": self.last_steps < 0},
                {
                    "digest": np.array([self.content], np.int64),
                    **({} if self.history is None else {"history": self.history}),
                },
            ),
        ]
        return sealed(pack(sections), key)


def sealed(record: bytes, key: bytes | None) -> bytes:
    """A record as a snapshot: with its head, its checksum, and a signature where there is a key."""
    head = _HEAD.pack(MAGIC, VERSION, UNSIGNED if key is None else HMAC_SHA256, len(record))
    data = b"".join((head, _CHECKSUM.pack(crc32(head)), record))
    data += hashlib.sha256(data).digest()
    return data if key is None else data + _signature(key, data)


def read(data: bytes, key: bytes | None) -> Snapshot:
    """What `Snapshot.pack` made.

    Args:
        data: the bytes.
        key: that it must be signed with; ``None`` asks for no signature.

    Raises:
        SnapshotInvalidError: it is damaged or cut off, of a newer format, not signed with the key,
            or says what cannot be.
    """
    record = _record_of(data, key)
    with _told():
        columns, header_bytes = header_of(record)
        if columns > _MOST_COLUMNS or header_bytes > _MOST_HEADER:
            raise _invalid("it describes more than a session has")
        session, states, prediction, request = _sections(record)
        facts = Facts(**session.meta)  # type: ignore[arg-type]
        check_facts(facts)
        if facts.position > FARTHEST:
            raise ValueError(f"position {facts.position} is beyond 2^53")
        if facts.idle_timeout_s < _LEAST_S:
            raise ValueError(f"an idle timeout of {facts.idle_timeout_s} s")
        if facts.transfer and not _TRANSFER.fullmatch(facts.transfer):
            raise ValueError("what its move is known by is no SHA-256")
        last_steps, content = _request(request, facts.position)
        history = request.columns.get("history")
        return Snapshot(
            facts=facts,
            names=list(states.columns),
            states=[_floats(name, row) for name, row in states.columns.items()],
            prediction=_floats("prediction", row)
            if (row := prediction.columns.get("row")) is not None
            else None,
            last_steps=last_steps,
            content=content,
            history=None if history is None else _history(history, abs(last_steps)),
        )


def _record_of(data: bytes, key: bytes | None) -> bytes:
    """The record in a snapshot, once nothing about its bytes is in doubt."""
    if len(data) < _RECORD_AT or data[: len(MAGIC)] != MAGIC:
        raise _invalid("these bytes are none: send what ExportSession answered")
    (checksum,) = _CHECKSUM.unpack_from(data, _HEAD.size)
    if crc32(data[: _HEAD.size]) != checksum:
        raise _invalid("it is damaged: its head's checksum does not hold")
    _, version, how, length = _HEAD.unpack_from(data)
    if version != VERSION:
        raise _invalid(
            f"it has format version {version}, and this Cellar knows {VERSION}: import it with the "
            "Cellar that wrote it, or a newer one"
        )
    if how not in (UNSIGNED, HMAC_SHA256):
        raise _invalid(f"it is signed in a way that is not known here ({how})")
    end = _RECORD_AT + length
    whole = end + _DIGEST_BYTES * (1 if how == UNSIGNED else 2)
    if len(data) != whole:
        raise _invalid(f"it has {len(data):,} bytes, and says {whole:,}: it was cut off, or grew")
    signed = data[: end + _DIGEST_BYTES]
    if key is not None:
        if how == UNSIGNED:
            raise _invalid("it is not signed, and this server takes signed ones only")
        if not hmac.compare_digest(_signature(key, signed), data[end + _DIGEST_BYTES :]):
            raise _invalid("its signature is not by this server's key, or it was changed since")
    if hashlib.sha256(data[:end]).digest() != data[end : end + _DIGEST_BYTES]:
        raise _invalid("it is damaged: its checksum does not hold")
    return data[_RECORD_AT:end]


def _sections(record: bytes) -> list[Section]:
    found = unpack(record)
    kinds = [section.kind for section in found]
    if kinds != ["session", "states", "prediction", "request"]:
        raise ValueError(f"sections {kinds}")
    known = {"session": (), "prediction": ("row",), "request": ("digest", "history")}
    for section in found:
        if not set(section.columns) <= set(known.get(section.kind, section.columns)):
            raise ValueError(f"columns {list(section.columns)} of {section.kind}")
    return found


def _request(request: Section, position: int) -> tuple[int, int]:
    steps, is_lost = request.meta["steps"], request.meta["reply_lost"]
    if not isinstance(steps, int) or isinstance(steps, bool) or not isinstance(is_lost, bool):
        raise TypeError("the last request has no number of steps")
    if not 0 <= steps <= min(position, _MOST_STEPS):
        raise ValueError(f"a last request of {steps} steps at position {position}")
    digest = request.columns["digest"]
    if digest.dtype != np.int64 or digest.shape != (1,):
        raise ValueError("the digest of the last request is none")
    return -steps if is_lost else steps, int(digest[0])


def _floats(name: str, row: Floats) -> Floats:
    """Values on memory of their own."""
    if row.dtype != np.float32:
        raise ValueError(f"{name} is of {row.dtype}, not float32")
    if not np.isfinite(row).all():
        raise ValueError(f"a number of {name} is not finite")
    return np.array(row)


def _history(history: Floats, steps: int) -> Floats:
    if history.ndim != 2 or len(history) != steps:
        raise ValueError(f"predictions {history.shape} of {steps} steps")
    return _floats("history", history)


def _signature(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


@contextmanager
def _told() -> Iterator[None]:
    """Whatever goes wrong in making sense of a record is said of the snapshot."""
    try:
        yield
    except NewerError as error:
        raise _invalid(str(error)) from error
    except DamagedError as error:
        raise _invalid(f"it is damaged: {error}") from error
    except _NONSENSE as error:
        reason = str(error).encode("unicode_escape").decode()[:200]
        raise _invalid(f"it says what no session can have ({reason})") from error


def _invalid(why: str) -> SnapshotInvalidError:
    return SnapshotInvalidError(f"snapshot: {why}")
