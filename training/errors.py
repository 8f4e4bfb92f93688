"""What can go wrong in a training run, in the words of the person who started it."""

from collections.abc import Iterable

NAMED = 8
"""A message names at most so many things of a kind."""
LONGEST = 600
"""Characters of a message, at most."""


def listed(names: Iterable[object], *, most: int = NAMED) -> str:
    """Names for a message: all of a few, the first of many and how many more there are."""
    every = [str(name) for name in names]
    if len(every) <= most + 1:
        return ", ".join(every)
    return f"{', '.join(every[:most])} and {len(every) - most:,} more"


def shortened(text: str, *, most: int = LONGEST) -> str:
    """A text of at most some ``most`` characters: of a longer one the start and the end."""
    if len(text) <= most:
        return text
    head, tail = text[: most * 2 // 3], text[-most // 3 :]
    return f"{head} … ({len(text) - len(head) - len(tail):,} characters left out) … {tail}"


class TrainingError(Exception):
    """A run cannot go on; the message says what to mend."""


class ConfigError(TrainingError):
    """A setting is wrong; the message names it."""


class DataError(TrainingError):
    """The data cannot be used; the message names the file, the place in it and the fix."""


class RunError(TrainingError):
    """A run folder cannot be read or resumed."""


class StorageError(TrainingError):
    """A disk or a folder did not take what a run writes; the message says how to go on."""


class StoppedError(TrainingError):
    """Somebody stopped what had not come to its end; the message says how to go on."""


class ParityError(TrainingError):
    """The exported graph does not compute what the network computes."""
