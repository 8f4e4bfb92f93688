"""Licences as SPDX expressions: what a package declares, and which of them may be in an image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "OLDAP-2.8",
        "PSF-2.0",
        "Zlib",
    }
)
"""What any package may have."""
EXCEPTIONS: Mapping[str, tuple[str, str]] = {
    "shtab": (
        "MPL-2.0",
        "Copyleft of single files: it is used as it is, and what is installed is its source.",
    ),
    "nvidia-*": (
        "LicenseRef-NVIDIA-Proprietary",
        (
            "In the CUDA image alone. NVIDIA's licence lets these libraries be passed on with a "
            "program that uses them, on its conditions; read it before you publish such an image."
        ),
    ),
}
"""What one package may have, by its name, and why; no other licence is let in."""

# As packages write them that have no expression.
_WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: MIT License": "MIT",
}
_NAME = re.compile(r"[A-Za-z0-9.+-]+")


def declared(expression: str | None, text: str | None, classifiers: Sequence[str]) -> str:
    """The licence that a package's metadata names.

    Args:
        expression: its field License-Expression.
        text: its field License.
        classifiers: all of them.

    Raises:
        ValueError: it names none in words that are known.
    """
    if expression:
        return expression
    text = (text or "").strip()
    if text in _WORDS or _NAME.fullmatch(text):
        return _WORDS.get(text, text)
    named = [each for each in classifiers if each.startswith("License :: ")]
    if not named or not set(named) <= set(_WORDS):
        raise ValueError(f"no licence in known words: {text[:60]!r}, {named}")
    return " AND ".join(sorted({_WORDS[each] for each in named}))


def permitted(package: str, licence: str) -> bool:
    """Whether a package with a licence may be in an image.

    Raises:
        ValueError: the licence is no SPDX expression.
    """
    return _Reader(licence, PERMISSIVE | _of_its_own(package)).holds()


def exception(package: str) -> str | None:
    """The name under which a package has an exception, if it has one."""
    for name in EXCEPTIONS:
        if package == name or (name.endswith("*") and package.startswith(name[:-1])):
            return name
    return None


def _of_its_own(package: str) -> set[str]:
    name = exception(package)
    return set() if name is None else {EXCEPTIONS[name][0]}


class _Reader:
    """Reads ``OR`` of ``AND`` of names and brackets; ``WITH`` is no name that is known."""

    def __init__(self, text: str, allowed: frozenset[str]) -> None:
        self._text = text
        self._words = re.findall(r"[()]|[^\s()]+", text)
        self._allowed = allowed

    def holds(self) -> bool:
        """Whether what is allowed is enough."""
        result = self._any()
        if self._words:
            raise ValueError(f"{self._text!r} is no licence expression")
        return result

    def _any(self) -> bool:
        result = self._all()
        while self._next("OR"):
            result = self._all() or result
        return result

    def _all(self) -> bool:
        result = self._one()
        while self._next("AND"):
            result = self._one() and result
        return result

    def _one(self) -> bool:
        if self._next("("):
            result = self._any()
            if not self._next(")"):
                raise ValueError(f"{self._text!r} is no licence expression")
            return result
        if not self._words or not _NAME.fullmatch(self._words[0]):
            raise ValueError(f"{self._text!r} is no licence expression")
        name = self._words.pop(0)
        if self._next("WITH"):
            name += " WITH " + (self._words.pop(0) if self._words else "")
        return name in self._allowed

    def _next(self, word: str) -> bool:
        if self._words and self._words[0] == word:
            self._words.pop(0)
            return True
        return False
