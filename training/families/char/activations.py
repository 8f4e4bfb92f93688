"""What single units of a character network do, told by what their activation goes along with.

A unit's activation is what it passes on: tanh(c) of an LSTM's cell, h of the others; of the last
layer. Units are chosen on one half of the text that was read, and the correlations reported are
those on the other half, so that the best of many units is not the luckiest.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.families.char.network import CharNetwork
from training.settings import Cell

STREAMS = 12
"""Places of the text that are read side by side."""
WARM_UP = 64
"""Steps after a cold start that are not looked at."""
SHOWN = 360
"""Characters of coloured text."""
MOST_UNITS = 6
CLEAR = 0.4
"""A correlation below this is not shown."""
SLOW_LAG = 20
LEVELS = 9

Floats = NDArray[np.float64]
_OPENING, _CLOSING = "([{“«「『（", ")]}”»」』）"  # noqa: RUF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Text that a network read, and what its units did after each character."""

    texts: tuple[Sequence[str], ...]
    """Symbols: characters, and labels where there are."""
    activations: NDArray[np.float32]
    """(texts, characters, units) in -1 … 1; a relu's are divided by their largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit worth looking at."""

    number: int
    reason: str


def read(network: CharNetwork, tokens: Tensor) -> Reading:
    """Run a network over parts of a text, each from the initial state, step by step."""
    length = min(WARM_UP + SHOWN, len(tokens) // 2)
    count = max(2, min(STREAMS, len(tokens) // length))
    starts = torch.linspace(0, len(tokens) - length, count).long()
    rows = tokens.cpu()[starts[:, None] + torch.arange(length)]  # (count, length)
    kind = "c" if network.cells.cell is Cell.LSTM else "h"
    last = list(network.state_shapes).index(f"{kind}_{len(network.cells.layers) - 1}")
    state = network.initial_state(count)
    found = []
    with torch.no_grad():
        for step in range(length):
            _, state = network(rows[:, step : step + 1], state)
            found.append(state[last].clone())
    path = torch.stack(found, dim=1)  # (count, length, units)
    path = torch.tanh(path) if kind == "c" else path / path.abs().max().clamp(min=1.0)
    skipped = min(WARM_UP, length // 2)
    symbols = network.vocabulary
    return Reading(
        texts=tuple([symbols[token] for token in row[skipped:].tolist()] for row in rows),
        activations=path[:, skipped:].numpy(),
    )


def choose(reading: Reading) -> list[Unit]:
    """The units that go along best with a simple property of the text, and the slowest ones.

    A property is left out where it does not vary, or where no unit follows it clearly.
    """
    half = len(reading.texts) // 2
    fit, check = reading.activations[::2], reading.activations[1::2]
    assert half, "a reading has two texts or more"
    chosen: list[tuple[float, Unit]] = []
    taken: set[int] = set()
    for name, measure in PROPERTIES.items():
        values = [measure(text) for text in reading.texts]
        first, second = np.stack(values[::2]), np.stack(values[1::2])  # (texts, characters)
        if not (first.std() > 0 and second.std() > 0):
            continue
        found = _correlations(fit, first)
        found[list(taken)] = 0.0
        number = int(np.abs(found).argmax())
        r = float(_correlations(check[..., number : number + 1], second)[0])
        if abs(r) >= CLEAR and r * found[number] > 0:
            taken.add(number)
            reason = f"{name} (r = {r:+.2f})"
            chosen.append((-abs(r), Unit(number=number, reason=reason)))
    units = [unit for _, unit in sorted(chosen, key=lambda pair: pair[0])][: MOST_UNITS - 1]
    slowest = _slowness(fit)
    slowest[list(taken)] = -1.0
    number = int(slowest.argmax())
    memory = float(_slowness(check[..., number : number + 1])[0])
    reason = f"the slowest (r = {memory:+.2f} with itself {SLOW_LAG} characters ago)"
    return [*units, Unit(number=number, reason=reason)]


def coloured(text: Sequence[str], activation: NDArray[np.float32]) -> str:
    """Text as HTML, the background of each character by an activation ``(characters,)``."""
    pieces = []
    run, run_kind = "", ""
    for symbol, value in zip(text, activation, strict=True):
        level = min(LEVELS, round(abs(float(value)) * LEVELS))
        kind = "" if level == 0 else f"{'p' if value > 0 else 'n'}{level}"
        if kind != run_kind:
            pieces.append(_span(run, run_kind))
            run, run_kind = "", kind
        run += "↵\n" if symbol == "\n" else _visible(symbol)
    pieces.append(_span(run, run_kind))
    return f"<pre>{''.join(pieces)}</pre>"


def _span(text: str, kind: str) -> str:
    escaped = html.escape(text)
    return f"<i class={kind}>{escaped}</i>" if kind and text else escaped


def _visible(symbol: str) -> str:
    """A control character as its picture."""
    if len(symbol) > 1:
        return symbol
    return chr(0x2400 + ord(symbol)) if ord(symbol) < 0x20 and symbol != "\t" else symbol


def _correlations(activations: NDArray[np.float32], values: Floats) -> Floats:
    """Pearson's r of each unit ``(texts, characters, units)`` with values: ``(units,)``."""
    units = activations.reshape(-1, activations.shape[-1]).astype(np.float64)
    wanted = values.reshape(-1)
    units = units - units.mean(axis=0)
    wanted = wanted - wanted.mean()
    spread = np.sqrt((units**2).sum(axis=0) * (wanted**2).sum())
    r: Floats = (units * wanted[:, None]).sum(axis=0) / np.maximum(spread, 1e-12)
    return r


def _slowness(activations: NDArray[np.float32]) -> Floats:
    """Each unit's correlation with itself some characters ago, within each text: ``(units,)``."""
    lag = min(SLOW_LAG, activations.shape[1] // 2)
    units = activations.astype(np.float64)
    units = units - units.mean(axis=(0, 1))
    variance = (units**2).mean(axis=(0, 1))
    slow: Floats = (units[:, lag:] * units[:, :-lag]).mean(axis=(0, 1)) / np.maximum(variance, 1e-4)
    return slow


def _is(test: Callable[[str], bool]) -> Callable[[Sequence[str]], Floats]:
    def measure(text: Sequence[str]) -> Floats:
        return np.array([float(test(symbol)) for symbol in text])

    return measure


def _since(test: Callable[[str], bool], *, most: int) -> Callable[[Sequence[str]], Floats]:
    """Characters since the last one of a kind, logarithmic and limited."""

    def measure(text: Sequence[str]) -> Floats:
        count, path = 0, []
        for symbol in text:
            count = 0 if test(symbol) else min(count + 1, most)
            path.append(math.log1p(count))
        return np.array(path)

    return measure


def _inside_brackets(text: Sequence[str]) -> Floats:
    depth, path = 0, []
    for symbol in text:
        depth += (symbol in _OPENING) - (symbol in _CLOSING)
        depth = max(depth, 0)
        path.append(float(depth > 0))
    return np.array(path)


def _inside_quotes(text: Sequence[str]) -> Floats:
    inside, path = False, []
    for symbol in text:
        if symbol == '"':
            inside = not inside
        elif symbol == "\n":
            inside = False
        path.append(float(inside))
    return np.array(path)


def _indentation(text: Sequence[str]) -> Floats:
    """Spaces that the current line began with."""
    depth, counting, path = 0, True, []
    for symbol in text:
        if symbol == "\n":
            depth, counting = 0, True
        elif counting and symbol == " ":
            depth += 1
        else:
            counting = False
        path.append(float(depth))
    return np.array(path)


PROPERTIES: dict[str, Callable[[Sequence[str]], Floats]] = {
    "inside double quotes": _inside_quotes,
    "inside brackets": _inside_brackets,
    "indentation of the line": _indentation,
    "characters since the line began": _since(lambda s: s == "\n", most=200),
    "characters since the sentence ended": _since(lambda s: s in ".!?。！？", most=200),  # noqa: RUF001
    "characters since the word began": _since(lambda s: not s.isalnum(), most=20),
    "a space was read": _is(lambda s: s == " "),
    "a line end was read": _is(lambda s: s == "\n"),
    "a capital was read": _is(str.isupper),
    "a vowel was read": _is(lambda s: s in "aeiouAEIOU"),
    "a digit was read": _is(str.isdigit),
    "punctuation was read": _is(lambda s: not (s.isalnum() or s.isspace())),
}


def pictures(network: CharNetwork, tokens: Tensor) -> str:
    """Held-out text coloured by the units that `choose` finds, as HTML."""
    reading = read(network, tokens)
    text = reading.texts[-1]
    parts = [
        f"<div><h3>Unit {unit.number}: {html.escape(unit.reason)}</h3>"
        f"{coloured(text, reading.activations[-1, :, unit.number])}</div>"
        for unit in choose(reading)
    ]
    return f'<div class="columns">{"".join(parts)}</div>'
