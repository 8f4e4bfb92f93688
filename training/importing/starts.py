"""Where sessions start: what was found, what was taken, and what ``--initial`` says instead."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import State
from training.errors import ConfigError
from training.importing.options import ImportOptions

Initial = float | tuple[float, ...]
_OPTION = "--initial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a state starts, and how that is known."""

    initial: Initial = 0.0
    origin: str = "taken: the file does not say"

    @property
    def is_taken(self) -> bool:
        """Whether it is only a guess."""
        return self.origin.startswith("taken")

    def __str__(self) -> str:
        if isinstance(self.initial, tuple):
            low, high = min(self.initial), max(self.initial)
            return f"{len(self.initial)} numbers, {low:.4g} to {high:.4g} ({self.origin})"
        return f"{self.initial:g} ({self.origin})"


TAKEN = Start()
SAID = f"said by {_OPTION}"
ZERO = Start(origin="found: its operator starts from zeros")


def initial_of(array: NDArray[np.generic]) -> Initial:
    """One number where a tensor is filled with it, else all of them."""
    flat = array.astype(np.float64).ravel()
    same = bool((flat == flat[0]).all())
    return float(flat[0]) if same else tuple(map(float, flat))


def told_starts(
    options: ImportOptions, states: Sequence[State], starts: Mapping[str, Start]
) -> dict[str, Start]:
    """The start of each state, by name, with those that ``--initial`` says.

    Raises:
        ConfigError: an option names no state, or what it says does not fit the state.
    """
    shapes = {state.input: state.shape for state in states}
    told = {name: starts.get(name, TAKEN) for name in shapes}
    for text in options.initial:
        name, equals, value = text.partition("=")
        if not equals or name not in shapes:
            known = ", ".join(shapes) or "none: it reads whole sequences only"
            raise ConfigError(
                f"{_OPTION} {text}: give a state and its start as STATE=VALUE; the states are: "
                f"{known}"
            )
        initial = _value(text, value.strip(), shapes[name])
        told[name] = Start(initial=initial, origin=SAID)
    return told


def with_starts(states: Sequence[State], starts: Mapping[str, Start]) -> tuple[State, ...]:
    """The states, each with its start."""
    return tuple(
        State(**(state.model_dump() | {"initial": starts[state.input].initial})) for state in states
    )


def _value(text: str, value: str, shape: tuple[int, ...]) -> Initial:
    """What an option says: a number, numbers with commas, or a ``.npy`` file."""
    if value.endswith(".npy"):
        array = _read(text, Path(value))
    else:
        try:
            numbers = [float(part) for part in value.strip("[]").split(",")]
        except ValueError as error:
            raise ConfigError(
                f"{_OPTION} {text}: '{value}' is neither a number, numbers with commas, nor a .npy "
                "file"
            ) from error
        array = np.array(numbers[0] if len(numbers) == 1 and "," not in value else numbers)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ConfigError(f"{_OPTION} {text}: a start has to be finite in float32")
    if array.ndim == 0:
        return float(array)
    squeezed = [length for length in array.shape if length != 1]
    wanted = [length for length in shape if length != 1]
    flat = array.ndim == 1 and array.size == math.prod(shape)
    if squeezed != wanted and not flat:
        raise ConfigError(
            f"{_OPTION} {text}: it has shape {list(array.shape)}, and one session's state "
            f"{list(shape)}: give {math.prod(shape)} numbers, row after row, or one for all"
        )
    return initial_of(narrow)


def _read(text: str, file: Path) -> NDArray[np.generic]:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{_OPTION} {text}: {file} is no readable .npy file") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or not array.size:
        raise ConfigError(f"{_OPTION} {text}: {file} holds no numbers")
    found: NDArray[np.generic] = array
    return found
