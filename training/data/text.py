"""Text as characters: read, checked, split and numbered."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.files import read_text
from training.errors import DataError

HELD_OUT = 0.1
"""The last tenth of a text is for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Characters and where they came from."""

    characters: str
    source: str
    """For people: file names without folders."""

    @property
    def sha256(self) -> str:
        """Hash of the characters."""
        return hashlib.sha256(self.characters.encode("utf-8")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A text as token ids: the first nine tenths to train on, the rest to validate."""

    vocabulary: tuple[str, ...]
    train: Tensor
    """(characters,) int64"""
    validation: Tensor
    """(characters,) int64"""
    source: str
    sha256: str


def read_texts(paths: Sequence[Path], *, limit_characters: int | None = None) -> Text:
    """Read UTF-8 files one after the other; CR LF becomes LF, a byte order mark goes.

    Raises:
        DataError: a file is missing, empty or not UTF-8.
    """
    parts = [_read(path) for path in paths]
    return Text(
        characters="".join(parts)[:limit_characters],
        source=", ".join(path.name for path in paths),
    )


def split(text: Text, *, window: int) -> Corpus:
    """Number the characters and hold the last tenth out.

    Raises:
        DataError: too short for one training window and a validation of two characters.
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
    symbols, tokens = np.unique(points, return_inverse=True)
    ids = torch.from_numpy(tokens.astype(np.int64))
    return Corpus(
        vocabulary=tuple(chr(symbol) for symbol in symbols),
        train=ids[: count - held_out],
        validation=ids[count - held_out :],
        source=text.source,
        sha256=text.sha256,
    )


def _read(path: Path) -> str:
    text = read_text(path)
    text = text.replace("\r\n", "\n")
    if not text:
        raise DataError(f"{path}: the file is empty; give a file with text")
    return text
