"""Vocabularies, labels and names of features, as people have them."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import ConfigError

IDS = "ids"
_LIKELY_KEYS = (
    "vocabulary", "vocab", "symbols", "characters", "chars", "itos", "stoi", "char2idx",
    "idx2char", "char_to_id", "id_to_char", "char_to_ix", "ix_to_char", "alphabet",
)  # fmt: skip


def read_vocabulary(given: str, *, size: int) -> tuple[str, ...]:
    """The symbols for ids 0 … size - 1, from a file or from the word ``ids``.

    A text file holds the characters one after the other, or one symbol a line.

    Raises:
        ConfigError: the file is not readable, or holds another number of symbols.
    """
    if given == IDS:
        return tuple(str(number) for number in range(size))
    return _listed(given, "--vocabulary", "symbols", size)


def read_labels(given: str, *, size: int) -> tuple[str, ...]:
    """The labels of ``size`` columns, from a file or from words with commas.

    Raises:
        ConfigError: the file is not readable, or there is another number of labels.
    """
    if Path(given).is_file():
        return _listed(given, "--labels", "labels", size)
    return split_names(given, option="--labels", size=size, of="the prediction has")


def split_names(given: str, *, option: str, size: int, of: str) -> tuple[str, ...]:
    """Cut names at their commas.

    Raises:
        ConfigError: there are not ``size`` different ones.
    """
    names = tuple(name.strip() for name in given.split(","))
    if len(names) != size or len(set(names)) != size or not all(names):
        raise ConfigError(
            f"{option}: {len(names)} names ({', '.join(names)}) where {of} {size}: "
            "give one different name for each, with commas between"
        )
    return names


def vocabulary_among(entries: Mapping[str, Any], *, size: int) -> tuple[str, ...] | None:
    """A vocabulary of that size among the things kept beside the weights, if there is one."""
    for key in _LIKELY_KEYS:
        if key in entries:
            value = entries[key]
            if isinstance(value, str) and value[:1] in ("[", "{"):
                with contextlib.suppress(json.JSONDecodeError):
                    value = json.loads(value)
            symbols = _ordered(value)
            if symbols is not None and len(symbols) == size == len(set(symbols)):
                return symbols
    return None


def _listed(given: str, option: str, what: str, size: int) -> tuple[str, ...]:
    """The symbols or labels in a file."""
    try:
        text = Path(given).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {given}: not readable as UTF-8 text: {error}") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    found = _ordered(content) if isinstance(content, (list, dict)) else None
    if isinstance(content, dict) and found is None:
        raise ConfigError(
            f"{option}: {given}: a JSON object must give {what} ids from 0 on, each once: "
            '{"a": 0, "b": 1}'
        )
    readings = [found] if found is not None else _readings(text)
    for symbols in readings:
        if len(symbols) == size:
            if len(set(symbols)) != size:
                twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
                raise ConfigError(f"{option}: {given}: {twice!r} is in it twice")
            return symbols
    if found is not None:
        held = f"{len(found)} {what}"
    else:
        held = f"{len(readings[1])} characters on {len(readings[2])} line(s)"
    raise ConfigError(f"{option}: {given} holds {held}, the network has {size} {what}")


def _readings(text: str) -> list[tuple[str, ...]]:
    """What a text file may mean: its characters, those without the last line end, its lines."""
    return [tuple(text), tuple(text.removesuffix("\n")), tuple(text.splitlines())]


def _ordered(value: Any) -> tuple[str, ...] | None:
    """Symbols in the order of their ids; ``None`` where it is no vocabulary."""
    if isinstance(value, str):
        return tuple(value)
    if isinstance(value, Sequence):
        return tuple(value) if all(isinstance(symbol, str) for symbol in value) else None
    if not isinstance(value, Mapping) or not value:
        return None
    pairs: dict[int, str] = {}
    for key, entry in value.items():
        match key, entry:
            case str(), int():
                pairs[entry] = key
            case int(), str():
                pairs[key] = entry
            case str(), str() if key.isdecimal():
                pairs[int(key)] = entry
            case _:
                return None
    if sorted(pairs) != list(range(len(value))):
        return None
    return tuple(pairs[number] for number in range(len(value)))
