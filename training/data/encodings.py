"""The encodings of text: their names, and the likely one of bytes that are not UTF-8."""

import codecs
import difflib
import encodings.aliases
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

GUESSED_BYTES = 100_000
"""As much of a file is looked at to guess its encoding."""
MOST_GUESSES = 3
SHOWN = 16
"""Characters of a guess that are shown."""
RUN_OF_LETTERS = 2.0
FOREIGN_SHARE = 0.5
"""Accented letters stand alone among ASCII; those of other scripts stand in runs longer than this,
on average, or make up more of the text."""
_LATIN = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257")
_OTHER = (
    "cp1251",
    "cp932",
    "gb18030",
    "big5",
    "euc_jp",
    "cp949",
    "koi8_r",
    "cp1253",
    "cp1255",
    "cp1256",
    "cp866",
    "iso8859_5",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """An encoding that bytes may have."""

    encoding: str
    reads: str
    """What the first letters beyond ASCII would be; empty where the bytes leave no doubt."""


def known_encoding(name: str) -> str:
    """Python's name of an encoding.

    Raises:
        ValueError: it has none of that name; the message names the nearest.
    """
    if _is_of_text(name):
        return codecs.lookup(name).name
    every = {*encodings.aliases.aliases, *encodings.aliases.aliases.values()}
    wanted = name.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, sorted(filter(_is_of_text, every)), n=1)
    advice = f"the nearest is '{near[0]}'" if near else "write for example cp1251 or shift_jis"
    raise ValueError(f"there is no encoding '{name}': {advice}")


def _is_of_text(name: str) -> bool:
    """Whether a codec of that name makes text of bytes."""
    try:
        b"xy".decode(name)
    except UnicodeDecodeError:  # so few bytes are too few for it
        return True
    except (LookupError, ValueError):
        return False
    return True


EncodingName = Annotated[str, AfterValidator(known_encoding)]
"""A setting: the name of an encoding."""


def likely_encodings(data: bytes) -> tuple[Guess, ...]:
    """What bytes that are not UTF-8 may be, likeliest first; nothing where they look like no text.

    A guess, never to be relied on: short texts read well in several encodings.
    """
    if (marked := _marked(data)) is not None:
        return (Guess(encoding=marked, reads=""),)
    head = _foreign_part(data)
    if b"\0" in data[:GUESSED_BYTES] or not head:
        return ()
    found: dict[str, Guess] = {}
    for name in _ranked(head):
        text = _decoded(head, name)
        if text is None:
            continue
        shown = _shown(text)
        found.setdefault(shown, Guess(encoding=name, reads=shown))
    return tuple(itertools.islice(found.values(), MOST_GUESSES))


def _marked(data: bytes) -> str | None:
    """The encoding where a mark or zeros at every other byte tell it."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return wide_encoding(data)


def wide_encoding(data: bytes) -> str | None:
    """The encoding of ASCII in two bytes each, without a mark: as UTF-8 it is full of NUL."""
    head = data[:GUESSED_BYTES]
    if len(head) < 8 or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[first::2].count(0), head[1 - first :: 2].count(0)
        if zeros > 0.8 * (len(head) // 2) and others == 0:
            return encoding
    return None


def _foreign_part(data: bytes) -> bytes:
    """The lines that are not ASCII, as many as are looked at, cut between words."""
    head = b"\n".join(_until(GUESSED_BYTES, (x for x in data.split(b"\n") if not x.isascii())))
    if len(head) <= GUESSED_BYTES:
        return head
    cut = re.split(rb"[ \t\r\n,;]+", head[:GUESSED_BYTES])
    return b" ".join(cut[:-1]) if len(cut) > 1 else head[:GUESSED_BYTES]


def _until(count: int, lines: Iterable[bytes]) -> Iterator[bytes]:
    taken = 0
    for line in lines:
        yield line
        taken += len(line) + 1
        if taken > count:
            return


def _ranked(head: bytes) -> list[str]:
    """Names of encodings, likeliest first."""
    from charset_normalizer import from_bytes  # only where reading has failed

    runs = re.findall(rb"[\x80-\xff]+", head)
    foreign = sum(map(len, runs))
    latin = foreign <= RUN_OF_LETTERS * len(runs) and foreign <= FOREIGN_SHARE * len(head)
    candidates = list(_LATIN if latin else _OTHER)
    # Of encodings that fit as well, the more common one comes first: the sort keeps their order.
    fits = {
        name: match
        for match in from_bytes(head, cp_isolation=candidates)
        for name in match.could_be_from_charset
    }
    ranked = sorted(
        (name for name in candidates if name in fits),
        key=lambda name: (round(fits[name].chaos, 2), -round(fits[name].coherence, 1)),
    )
    return ranked or candidates


def _decoded(head: bytes, name: str) -> str | None:
    try:
        text = head.decode(name)
    except UnicodeDecodeError:
        return None
    return None if any(symbol < "\t" or "\x7f" <= symbol < "\xa0" for symbol in text) else text


def _shown(text: str) -> str:
    first = next(place for place, symbol in enumerate(text) if not symbol.isascii())
    start = max(text.rfind(" ", 0, first), text.rfind("\n", 0, first)) + 1
    start = max(start, first - SHOWN // 2)
    return " ".join(text[start : start + SHOWN].split())
