"""Text as characters: read, checked, split and numbered.

A character is a Unicode code point. The text is taken as it stands but for byte order marks and
foreign line ends; what was changed or looks odd is in the notes.
"""

import codecs
import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.archives import is_archive, read_files
from training.data.files import decode, read_bytes, unpacked
from training.data.notes import Note
from training.errors import DataError

HELD_OUT = 0.1
"""The last tenth of a text is for validation."""
UNKNOWN = "\ufffd"
"""The symbol of every character that is too rare for the vocabulary: Unicode's own for it."""
MOST_SYMBOLS = 5000
"""A vocabulary has at most so many symbols unless told otherwise: enough for Chinese books."""
TEXT_ENDINGS = (".txt", ".text", ".md")
"""What names of texts in archives end in."""
NAMED = 12
"""A note names at most so many characters."""

Normalisation = Literal["none", "nfc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Characters and where they came from."""

    characters: str
    source: str
    """For people: file names without folders."""
    notes: tuple[Note, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the characters."""
        return hashlib.sha256(self.characters.encode("utf-8")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A text as token ids: the first nine tenths to train on, the rest to validate."""

    vocabulary: tuple[str, ...]
    unknown: int | None
    """The token of characters that the vocabulary lacks, if it has one."""
    train: Tensor
    """(characters,) int64"""
    validation: Tensor
    """(characters,) int64"""
    source: str
    sha256: str
    notes: tuple[Note, ...] = ()


def read_texts(
    paths: Sequence[Path],
    *,
    limit_characters: int | None = None,
    normalisation: Normalisation = "none",
    encoding: str | None = None,
) -> Text:
    """Read text files one after the other; UTF-8, unless ``encoding`` says otherwise.

    A file may be packed with gzip; of an archive, the texts are read in the order of their names.

    CR LF and lone CR become LF, a byte order mark goes. Letters and their combining marks are left
    as they are unless normalisation is asked for: a server takes characters one by one, as they
    come, and cannot put together what arrives in two steps.

    Raises:
        DataError: a file is missing, empty or in another encoding.
    """
    parts: list[str] = []
    marks = 0
    packed: list[Note] = []
    for path in paths:
        for place, data in _contents(path, encoding, packed):
            marks += data.startswith(codecs.BOM_UTF8)
            parts.append(decode(data, place, encoding))
            if not parts[-1]:
                raise DataError(f"{place}: the file is empty; give a file with text")
    characters, notes = _with_plain_line_ends("".join(parts))
    notes[:0] = packed
    if encoding is not None:
        notes.insert(0, Note(what="encoding", rows=len(parts), detail=f"files read as {encoding}"))
    if marks:
        notes.append(Note(what="dropped: byte order mark", rows=marks, detail="of UTF-8"))
    if normalisation == "nfc":
        composed = unicodedata.normalize("NFC", characters)
        if composed != characters:
            notes.append(
                Note(
                    what="normalised to NFC",
                    rows=len(characters) - len(composed),
                    detail="characters fewer; clients of the model must send NFC, too",
                )
            )
            characters = composed
    if limit_characters is not None and limit_characters < len(characters):
        notes.append(
            Note(
                what="left out",
                rows=len(characters) - limit_characters,
                detail=f"what follows the first {limit_characters:,} characters",
            )
        )
        characters = characters[:limit_characters]
    return Text(
        characters=characters,
        source=", ".join(path.name for path in paths),
        notes=(*notes, *_oddities(characters)),
    )


def split(
    text: Text, *, window: int, min_count: int = 1, most_symbols: int = MOST_SYMBOLS
) -> Corpus:
    """Number the characters and hold the last tenth out.

    Characters seen fewer than ``min_count`` times in the whole text, and the rarest beyond
    ``most_symbols``, become one symbol, `UNKNOWN`.

    Raises:
        DataError: too short for one training window and a validation of two characters, or no
            character is frequent enough.
    """
    count = len(text.characters)
    held_out = int(np.ceil(count * HELD_OUT))
    if count - held_out < window + 1 or held_out < 2:
        needed = max(int(np.ceil((window + 1) / (1 - HELD_OUT))) + 1, 11)
        raise DataError(
            f"{text.source}: {count} characters are too few: a window of {window} steps with a "
            f"tenth held out for validation needs {needed}; give more text or a smaller --window"
        )
    points = np.frombuffer(text.characters.encode("utf-32-le"), np.uint32)
    symbols, tokens, seen = np.unique(points, return_inverse=True, return_counts=True)
    kept = _kept(seen, min_count=min_count, most_symbols=most_symbols)
    if not kept.any():
        raise DataError(
            f"{text.source}: no character is seen {min_count} times, as --min-count wants; the "
            f"most frequent one is seen {seen.max()} times"
        )
    notes = list(text.notes)
    unknown = None
    if not kept.all():
        points = np.where(kept[tokens], points, ord(UNKNOWN)).astype(np.uint32)
        notes.append(_note_on_unknown(symbols[~kept], seen[~kept], points, held_out))
        symbols, tokens = np.unique(points, return_inverse=True)
        unknown = int(np.searchsorted(symbols, ord(UNKNOWN)))
    ids = torch.from_numpy(tokens.astype(np.int64))
    train, validation = ids[: count - held_out], ids[count - held_out :]
    if note := _note_on_strangers(train, validation, symbols, unknown):
        notes.append(note)
    return Corpus(
        vocabulary=tuple(chr(symbol) for symbol in symbols),
        unknown=unknown,
        train=train,
        validation=validation,
        source=text.source,
        sha256=text.sha256,
        notes=tuple(notes),
    )


def _contents(path: Path, encoding: str | None, notes: list[Note]) -> Iterator[tuple[Path, bytes]]:
    """The files that a path stands for; what was left out of an archive is noted."""
    if not is_archive(path):
        yield path, unpacked(read_bytes(path), path)
        return
    files = read_files(path, encoding)
    texts = sorted(parts for parts in files if _is_of_text(parts[-1]))
    if not texts:
        raise DataError(f"{path}: no text in it: no file ends in {' or '.join(TEXT_ENDINGS)}")
    first = "/".join(texts[0])
    detail = f"in the order of their names; first: {first}"
    notes.append(Note(what=f"unpacked: {path.name}", rows=len(texts), detail=detail))
    if others := ["/".join(parts) for parts in files if parts not in texts]:
        detail = f"no text by their names; first: {others[0]}"
        notes.append(Note(what="ignored: files", rows=len(others), detail=detail))
    for parts in texts:
        place = path / "/".join(parts)
        yield place, unpacked(files[parts], place)


def _is_of_text(name: str) -> bool:
    """By its name: a text, and none of those that speak of the others."""
    name = name.lower().removesuffix(".gz")
    return name.endswith(TEXT_ENDINGS) and not name.startswith(("readme", "license", "licence"))


def _with_plain_line_ends(text: str) -> tuple[str, list[Note]]:
    notes = []
    for foreign, name in (("\r\n", "CR LF"), ("\r", "lone CR")):
        if found := text.count(foreign):
            text = text.replace(foreign, "\n")
            notes.append(Note(what=f"{name} became LF", rows=found, detail="line ends"))
    return text, notes


def _oddities(text: str) -> list[Note]:
    """What is kept as it is, but that the reader may not expect in a text."""
    kinds: dict[str, dict[str, int]] = {}
    for symbol in sorted(set(text)):
        if (kind := _oddity(symbol)) is not None:
            kinds.setdefault(kind, {})[symbol] = text.count(symbol)
    notes = [
        Note(what=f"kept, but look: {kind}", rows=sum(found.values()), detail=_named(list(found)))
        for kind, found in kinds.items()
    ]
    if not unicodedata.is_normalized("NFC", text):
        marks = sum(text.count(symbol) for symbol in set(text) if unicodedata.combining(symbol))
        notes.append(
            Note(
                what="kept: letters not in NFC",
                rows=marks,
                detail="combining marks in all; each is a step of its own (--normalise nfc "
                "composes them)",
            )
        )
    if "\n" not in text:
        notes.append(Note(what="no line ends", rows=0, detail="the text is one line"))
    return notes


def _oddity(symbol: str) -> str | None:
    if symbol == UNKNOWN:
        return "signs of an earlier decoding error"
    if symbol == "\ufeff":
        return "byte order marks in mid-text"
    if symbol not in "\n\t\f" and unicodedata.category(symbol) == "Cc":
        return "control characters"
    if unicodedata.category(symbol) in ("Cn", "Co"):
        return "characters that Unicode does not define"
    return None


def _kept(seen: NDArray[np.intp], *, min_count: int, most_symbols: int) -> NDArray[np.bool_]:
    """Which symbols stay, given how often each was seen; one place is left for the unknown."""
    kept: NDArray[np.bool_] = seen >= min_count
    if kept.sum() + (not kept.all()) > most_symbols:
        by_count = np.argsort(-seen, kind="stable")
        kept[by_count[most_symbols - 1 :]] = False
    return kept


def _note_on_unknown(
    rare: NDArray[np.uint32], seen: NDArray[np.intp], points: NDArray[np.uint32], held_out: int
) -> Note:
    named = _named([chr(rare[place]) for place in np.argsort(-seen, kind="stable")])
    is_unknown = points == ord(UNKNOWN)
    share = float(is_unknown[-held_out:].mean())
    never = "" if is_unknown[:-held_out].any() else "; training never reads it"
    return Note(
        what="rare characters became <unk>",
        rows=int(seen.sum()),
        detail=f"{len(rare):,} kinds: {named}; {share:.2%} of the held-out text, where they count "
        f"as one symbol: the scores do not ask which{never}",
    )


def _note_on_strangers(
    train: Tensor, validation: Tensor, symbols: NDArray[np.uint32], unknown: int | None
) -> Note | None:
    """Characters that training never reads, other than the unknown one."""
    counts = torch.bincount(train, minlength=len(symbols))
    if unknown is not None:
        counts[unknown] = 1
    strangers = torch.nonzero(counts == 0).flatten()
    if not len(strangers):
        return None
    rows = int(torch.isin(validation, strangers).sum())
    return Note(
        what="kept, but look: only in the held-out tenth",
        rows=rows,
        detail=f"{_named([chr(symbols[place]) for place in strangers])}: training never reads "
        "them, and they count in the scores (a larger --min-count merges rare ones into <unk>)",
    )


def _named(symbols: Sequence[str]) -> str:
    """Characters for people: as they look, or by number where they do not show."""
    shown = [
        symbol
        if symbol.isprintable() and not unicodedata.combining(symbol) and symbol != " "
        else f"U+{ord(symbol):04X}"
        for symbol in symbols[:NAMED]
    ]
    more = f" and {len(symbols) - NAMED:,} more" if len(symbols) > NAMED else ""
    return " ".join(shown) + more
