"""What the calling principal may ask for a session that it opens."""

import unicodedata

from service.auth.principal import calling
from service.errors import BadInputError, QuotaExceededError
from service.settings import EngineSettings

_LEAST_RETRY_S = 0.05
LONGEST_RETRY_S = 10.0  # somebody may close one


def check_id(session_id: str, most: int) -> None:
    """Check an id that a client has chosen, of at most so many characters.

    Raises:
        BadInputError: it cannot be used.
    """
    if len(session_id) <= most and session_id.isprintable():
        return
    wish = f"use at most {most} printable characters"
    for number, character in enumerate(session_id[:most], 1):
        if not character.isprintable():
            is_control = unicodedata.category(character) == "Cc"
            what = "a control character" if is_control else "one that cannot be printed"
            raise BadInputError(
                "session_id", f"character {number}, {character!a}, is {what}: {wish}"
            )
    raise BadInputError("session_id", f"it has {len(session_id)} characters: {wish}")


def longest_timeout_s(settings: EngineSettings) -> float:
    """The longest idle timeout that the calling principal may ask for."""
    own, all_s = calling.get().grant.quota.max_idle_timeout_s, settings.max_idle_timeout_s
    return all_s if own is None else min(own, all_s)


def timeout_s(settings: EngineSettings, asked_s: float | None) -> float:
    """The idle timeout of a session; ``None`` asks for the server's, or the longest there may be.

    Raises:
        BadInputError: it is not above 0, or longer than that.
    """
    longest_s = longest_timeout_s(settings)
    found_s = min(settings.idle_timeout_s, longest_s) if asked_s is None else asked_s
    if not 0 < found_s <= longest_s:
        raise BadInputError(
            "idle_timeout", f"{found_s:g} s is not above 0 and at most {longest_s:g} s"
        )
    return found_s


def too_many(owner: str, *, count: int, most: int, next_s: float) -> QuotaExceededError:
    """Why a principal opens no more; the next one of its sessions expires in ``next_s``."""
    mend = "close some, or wait until idle ones expire" if most else "ask who runs the server"
    return QuotaExceededError(
        "max_sessions",
        f"'{owner}' has {count:,} sessions open and may have {most:,}: {mend}",
        retry_after_s=min(max(next_s, _LEAST_RETRY_S), LONGEST_RETRY_S),
    )
