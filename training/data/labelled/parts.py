"""The parts that a published data set is split in, by the names people give them."""

import re
from typing import Literal

Part = Literal["train", "validation", "test"]

_WORDS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "devel": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "eval": "test",
}


def part_of(name: str) -> Part | None:
    """The part that a folder, a file (less its ending) or a field names; None: it names none.

    The word stands alone, or first or last in the name: ``train``, ``Coffee_TEST``, ``dev-set``.
    """
    words = re.split(r"[-_. ]+", name.strip().lower())
    if words[-1] in ("set", "data", "split") and len(words) > 1:
        words.pop()
    for word in (words[-1], words[0]):
        if word in _WORDS:
            return _WORDS[word]
    return None


def part_word(word: str) -> Part | None:
    """The part that a word is the name of; None: it is another word."""
    return _WORDS.get(word.strip().lower())


def rest_of(name: str) -> str:
    """What a name says besides the part: files with the same rest belong together."""
    words = re.split(r"[-_. ]+", name.strip().lower())
    for place in (-1, 0):
        if words and words[place] in _WORDS:
            words.pop(place)
            break
    return "_".join(words)
