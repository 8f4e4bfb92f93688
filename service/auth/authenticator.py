"""Holds tokens against those that are valid. Knows nothing of files, gRPC or HTTP."""

import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.auth.principal import Principal
from service.auth.principals import NOTHING
from service.auth.tokens import LONGEST, digest, split
from service.errors import UnauthenticatedError

_SCHEME = "bearer"
_NONE = "a token is wanted: send the header authorization: Bearer ID.SECRET"
_NOT_VALID = "the token is not valid"
_NO_BEARER = "the header authorization is not of the form Bearer ID.SECRET"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """A token as it is held against.

    Attributes:
        id: of the token.
        sha256: digest of its secret.
        expires_s: seconds since the epoch, or infinity.
        principal: whose it is.
    """

    id: str
    sha256: bytes
    expires_s: float
    principal: Principal


_UNKNOWN = KnownToken(
    id="",
    sha256=secrets.token_bytes(32),
    expires_s=float("inf"),
    principal=Principal("", NOTHING),
)


class Authenticator:
    """Tells whom a call comes from, by its header ``authorization``.

    Nothing is remembered from call to call: one digest takes a microsecond, and what was valid a
    moment ago need not be now. Whoever guesses learns nothing: an unknown id costs the same work as
    a wrong secret and is told the same, as are a revoked and an expired token.

    Any thread may ask; the tokens are replaced as a whole.

    Args:
        tokens: those that are valid or have expired, by their ids.
        counts: of attempts, by the port and what became of them; see `Authentications`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        tokens: Mapping[str, KnownToken],
        *,
        counts: Counter[tuple[str, str]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._counts: Counter[tuple[str, str]] = Counter() if counts is None else counts

    def replace(self, tokens: Mapping[str, KnownToken]) -> None:
        """From now on these are valid, by their ids."""
        self._tokens = tokens

    def admit(self, headers: Sequence[str | bytes], *, port: str) -> KnownToken:
        """The token of a call.

        Args:
            headers: the values of its headers ``authorization``.
            port: where it came in, for the counts; each has one thread.

        Raises:
            UnauthenticatedError: there is none, or it is not valid.
        """
        if not headers:
            self._counts[port, "none"] += 1
            raise UnauthenticatedError(_NONE)
        found = self._known(headers)
        if found is _UNKNOWN:
            self._counts[port, "wrong"] += 1
            raise UnauthenticatedError(_NOT_VALID if _is_bearer(headers) else _NO_BEARER)
        if found.expires_s <= self._clock():
            self._counts[port, "expired"] += 1
            raise UnauthenticatedError(_NOT_VALID)
        self._counts[port, "ok"] += 1
        return found

    def recheck(self, token: KnownToken) -> None:
        """Check that a token that was admitted once is valid still.

        Raises:
            UnauthenticatedError: it was revoked since, or has expired.
        """
        now = self._tokens.get(token.id)
        is_same = now is not None and now.sha256 == token.sha256
        if now is None or not is_same or now.expires_s <= self._clock():
            raise UnauthenticatedError(_NOT_VALID)

    def _known(self, headers: Sequence[str | bytes]) -> KnownToken:
        """The token of these headers, expired or not; `_UNKNOWN` if there is no such."""
        header = headers[0]
        if len(headers) > 1 or not isinstance(header, str) or len(header) > LONGEST:
            return _UNKNOWN
        if not _is_bearer(headers):
            return _UNKNOWN
        token = header.partition(" ")[2]
        token_id, secret = split(token.strip())
        found = self._tokens.get(token_id, _UNKNOWN)
        is_right = hmac.compare_digest(digest(secret), found.sha256)
        return found if is_right else _UNKNOWN


def _is_bearer(headers: Sequence[str | bytes]) -> bool:
    """Whether the first header has our form, whatever its token: this gives nothing away."""
    header = headers[0]
    return isinstance(header, str) and header.partition(" ")[0].lower() == _SCHEME
