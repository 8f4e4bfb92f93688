"""The token that tells a server who calls. No message and no ``repr`` has it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cellar.access.files import path_of, read, refused
from cellar.errors import BadInputError
from cellar.values.arguments import unusable

_log = logging.getLogger("cellar")

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
_MOST_CHARACTERS = 4096  # a server takes 8 KiB of metadata in all
_LOOK_EVERY_S = 1.0
_NEW_FOR_S = 30.0  # a call that ends now may have begun with the token before


class Token:
    """A token, or the file that has it, which is read again when it changes."""

    def __init__(
        self, given: str | os.PathLike[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes a token, or reads it from a file where a ``Path`` is given.

        Raises:
            BadInputError: it is no token, or the file has none.
        """
        self._clock = clock
        self._path: str | None = None
        self._looked = clock()
        self._changed: float | None = None
        self._stamp: tuple[int, int, int] | None = None
        if isinstance(given, str):
            self._value = _checked(given, _refused)
        elif isinstance(given, os.PathLike):
            self._path = path_of("token", given)
            self._stamp = self._look()
            self._value = self._read()
        else:
            raise _refused("give a text, or the pathlib.Path of a file that has it")

    def __repr__(self) -> str:
        """Where it is from, and never the token."""
        return f"<token from {self._path}>" if self._path else "<token>"

    @property
    def header(self) -> tuple[str, str]:
        """The metadata that a call brings; at most once a second the file is looked at."""
        if self._path is not None and self._clock() - self._looked >= _LOOK_EVERY_S:
            self._refresh()
        return "authorization", f"Bearer {self._value}"

    def is_new(self) -> bool:
        """Looks at the file; whether it is so new that a call may have brought the one before."""
        if self._path is None:
            return False
        self._refresh()
        return self._changed is not None and self._clock() - self._changed < _NEW_FOR_S

    def _refresh(self) -> None:
        """Reads the file again if it has changed; one that cannot be used changes nothing."""
        self._looked = self._clock()
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            value = self._read()
        except BadInputError as error:
            _log.warning("the token stays as it was: %s", error)
            return
        if value != self._value:
            self._value, self._changed = value, self._clock()

    def _look(self) -> tuple[int, int, int] | None:
        assert self._path is not None
        with suppress(OSError, ValueError):
            found = Path(self._path).stat()  # of the target, where it is a link
            return found.st_mtime_ns, found.st_size, found.st_ino
        return None

    def _read(self) -> str:
        path = self._path
        assert path is not None
        try:
            text = read("token", path).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise refused("token", path, "it is not UTF-8 text") from None
        return _checked(text, lambda message: refused("token", path, message))


def _checked(text: str, wrong: Callable[[str], BadInputError]) -> str:
    if not text:
        raise wrong("it is empty")
    if text[:7].lower() == "bearer ":
        raise wrong("leave 'Bearer' out: the token alone is wanted")
    if text.startswith(("/", "./", "../", "~/")):
        raise wrong("it looks like a path: a file is named by a pathlib.Path (or --token-file)")
    if os.path.isfile(text):
        raise wrong("it is the name of a file: say pathlib.Path(…) (or --token-file)")
    if len(text) > _MOST_CHARACTERS:
        raise wrong(f"it is longer than {_MOST_CHARACTERS} characters")
    if text != text.strip():
        raise wrong("it begins or ends with a blank or a line break: strip() it")
    if not _TOKEN.fullmatch(text):
        raise wrong("it has a character that no token has: letters, digits and -._~+/= make one")
    return text


def _refused(message: str) -> BadInputError:
    return unusable("token", message)
