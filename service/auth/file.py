"""The file of tokens: principals by name, what each may do, and digests of their tokens.

It is JSON, described in docs/operations.md. It is read strictly: what a server does not understand
may be what was to keep somebody out.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
)

from service.auth.principal import Grant, Quota, Role
from service.auth.tokens import PRINCIPAL, TOKEN_ID

try:
    import fcntl
except ImportError:  # not on Windows, where two commands at once may lose one's change
    fcntl = None  # type: ignore[assignment]

VERSION = 1
LARGEST = 16 * 2**20
"""Bytes of a file: some 50,000 tokens."""
_SHOWN = 120  # characters of what somebody wrote
_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)


class TokenFileError(Exception):
    """The file cannot be read or written, or says what cannot be meant."""


# ---- what it says ----

_Count = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What is told of when to come again is reckoned from it, and has to be a time.
_Rate = Annotated[float, Field(ge=1e-6, le=1e12, allow_inf_nan=False)]
_Time = Annotated[AwareDatetime, PlainSerializer(lambda at: at.isoformat().replace("+00:00", "Z"))]
_Model = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class QuotaRecord(BaseModel):
    """See `Quota`; what is left out is not limited."""

    model_config = _STRICT

    max_sessions: _Count | None = None
    max_steps_per_s: _Rate | None = None
    max_pending_steps: _Count | None = None
    max_waiting_bytes: _Count | None = None
    max_idle_timeout_s: _Amount | None = None
    max_generations: _Count | None = None


class TokenRecord(BaseModel):
    """One token: its id, the digest of its secret, and when it was made and ends."""

    model_config = _STRICT

    id: Annotated[str, StringConstraints(pattern=f"^{TOKEN_ID.pattern}$")]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    created: _Time
    expires: _Time | None = None

    @property
    def expires_s(self) -> float:
        """Seconds since the epoch; infinity where it does not end."""
        return float("inf") if self.expires is None else self.expires.timestamp()

    def is_expired(self, at: datetime) -> bool:
        """Whether it is not valid any more."""
        return self.expires is not None and self.expires <= at


class PrincipalRecord(BaseModel):
    """One principal: what it may do, and its tokens."""

    model_config = _STRICT

    roles: tuple[Role, ...] = ()
    models: tuple[_Model, ...] | None = None
    quota: QuotaRecord = QuotaRecord()
    tokens: tuple[TokenRecord, ...] = ()

    @property
    def grant(self) -> Grant:
        """What it may do."""
        quota = Quota(**dict(self.quota))
        return Grant(roles=frozenset(self.roles), models=self.models, quota=quota)


class TokenFile(BaseModel):
    """All of a file."""

    model_config = _STRICT

    version: Literal[1] = 1
    principals: Mapping[
        Annotated[str, StringConstraints(pattern=f"^{PRINCIPAL.pattern}$")], PrincipalRecord
    ] = {}

    def tokens(self) -> Iterator[tuple[str, TokenRecord]]:
        """Each token, with the name of its principal."""
        for name, principal in self.principals.items():
            for token in principal.tokens:
                yield name, token


# ---- reading ----


def parse(data: bytes) -> TokenFile:
    """What a file says.

    Raises:
        TokenFileError: it cannot be meant; one line that names the place.
    """
    try:
        text = data.decode("utf-8-sig")
        known = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        found = None if _is_newer(known) else TokenFile.model_validate_json(text)
    except ValidationError as error:
        raise TokenFileError(_complaint(error)) from None
    except RecursionError:
        raise TokenFileError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise TokenFileError(f"it is no UTF-8, from byte {error.start}") from None
    except ValueError as error:
        raise TokenFileError(f"it is no JSON: {_shortened(str(error))}") from None
    if found is None:
        raise TokenFileError(
            f"version: {_shortened(known['version'])} was written by a newer version of Cellar: "
            f"this one reads {VERSION}"
        )
    owners: dict[str, str] = {}
    for name, token in found.tokens():
        if token.id in owners:
            raise TokenFileError(
                f"principals.{name}.tokens: {token.id!r} is a token of {owners[token.id]!r} "
                "already: an id names one token"
            )
        owners[token.id] = name
    return found


def format_file(file: TokenFile) -> bytes:
    """The bytes of a file; `parse` gives it back."""
    return (json.dumps(file.model_dump(mode="json", exclude_none=True), indent=2) + "\n").encode()


def read(path: Path) -> TokenFile:
    """Read a file.

    Raises:
        TokenFileError: it cannot be read, or cannot be meant.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        mend = f"; make it: cellar-serve token add NAME --role step --tokens {path}"
        raise TokenFileError(
            f"{path} cannot be read: {error.strerror}"
            + (mend if isinstance(error, FileNotFoundError) else "")
        ) from error
    if len(data) > LARGEST:
        raise TokenFileError(f"{path} has more than {LARGEST:,} bytes")
    try:
        return parse(data)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None
    except MemoryError as error:
        raise TokenFileError(f"{path}: there is no memory to read it") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names come once: of two, one reader takes the first, another the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TokenFileError(f"{_shortened(name)} comes twice in one object: keep one")
        found[name] = value
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _is_newer(known: object) -> bool:
    version = known.get("version") if isinstance(known, dict) else None
    return isinstance(version, int) and version > VERSION


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"])) or "file"
    more = error.error_count() - 1
    given = "" if first["type"] == "missing" else f", not {_shortened(first['input'])}"
    return f"{_shortened(place)}: {first['msg']}{given}" + (f" ({more} more)" if more else "")


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# ---- writing ----


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Alone with a file: two commands that change it at once do so one after the other.

    The lock is on a file beside it, as the file itself is replaced.

    Raises:
        TokenFileError: there is no such folder, or it may not be written.
    """
    path = path.resolve()  # by whatever link it is named, the lock is the same
    beside = path.with_name(f".{path.name}.lock")
    try:
        # Where others may write to the folder, a link of theirs would have a file made elsewhere.
        no_link = getattr(os, "O_NOFOLLOW", 0)
        lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | no_link, 0o600)
    except OSError as error:
        raise TokenFileError(f"{path} cannot be changed: {beside}: {error.strerror}") from error
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write(path: Path, file: TokenFile) -> None:
    """Replace a file, so that whoever reads it finds the old one or the new one, whole.

    It is for its owner alone; of one that was there, owner and mode stay where they can.

    Raises:
        TokenFileError: it cannot be written; the old one is as it was.
    """
    path = path.resolve()  # where a link leads, it stays a link
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    data = format_file(file)
    if len(data) > LARGEST:
        raise TokenFileError(f"{path} would have more than {LARGEST:,} bytes: remove tokens")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            _like_before(descriptor, path)
            out.write(data)
            out.flush()
            os.fsync(descriptor)
        new.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise TokenFileError(f"{path} cannot be written: {error.strerror}") from error


def _like_before(descriptor: int, path: Path) -> None:
    """Keep the group and the group's rights: the server may read it by them."""
    with suppress(OSError, AttributeError):
        before = path.stat()
        os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, before.st_mode & 0o640)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
