"""The parts of a report that only a character model has."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.families.char.activations import pictures
from training.families.char.evaluation import COLD_WINDOW
from training.families.char.network import CharNetwork
from training.reports.numbers import percent
from training.reports.plots import Picture, legend_above, number_axis, panel
from training.reports.sections import Section, grid

MOST_WINDOWS = 192
MOST_LOGITS = 4_000_000
"""As many numbers are computed at once."""
HARDEST = 12
EARLY, LATE = slice(4, 16), slice(128, None)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdLosses:
    """Loss of every character in windows from the initial state."""

    nats: Floats
    """(windows, positions)"""
    tokens: NDArray[np.int64]
    """(windows, positions): what came."""
    guesses: NDArray[np.int64]
    """(windows, positions): what was the likeliest."""


@torch.no_grad()
def cold_losses(network: CharNetwork, tokens: Tensor) -> ColdLosses:
    """The losses behind `cold256`, over windows spread evenly over a text ``(characters,)``."""
    width = min(COLD_WINDOW, len(tokens) - 1)
    count = min(MOST_WINDOWS, (len(tokens) - 1) // width)
    starts = torch.linspace(0, len(tokens) - 1 - width, count).long()
    at_once = max(1, MOST_LOGITS // (width * len(network.vocabulary)))
    nats, came, guesses = [], [], []
    for first in range(0, count, at_once):
        index = starts[first : first + at_once, None] + torch.arange(width + 1)
        rows = tokens[index]  # (windows, width + 1)
        logits, _ = network(rows[:, :-1], network.initial_state(len(rows)))
        nats.append(cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none"))
        guesses.append(logits.argmax(-1))
        came.append(rows[:, 1:])
    return ColdLosses(
        nats=torch.cat(nats).double().numpy(),
        tokens=torch.cat(came).numpy(),
        guesses=torch.cat(guesses).numpy(),
    )


def sections(
    network: CharNetwork, held_out: Tensor, samples: Sequence[tuple[float, str]]
) -> list[Section]:
    """Samples by temperature, what memory buys, the hardest characters, coloured text."""
    losses = cold_losses(network, held_out)
    return [
        samples_section(samples),
        _memory(losses),
        _hardest(losses, network.vocabulary),
        Section(
            title="What single units do",
            text="Held-out text, each character's background by the activation of one unit of "
            "the last layer after it was read: orange is positive, blue negative, the stronger "
            "the further from zero. Shown are the units that follow a simple property of the "
            "text most closely, with its correlation r on text they were not chosen on.",
            html=pictures(network, held_out),
        ),
    ]


def samples_section(samples: Sequence[tuple[float, str]]) -> Section:
    """What the network writes at each temperature."""
    parts = [
        f"<div><h3>Temperature {temperature:g}</h3><pre>{html.escape(text)}</pre></div>"
        for temperature, text in samples
    ]
    return Section(
        title="What it writes",
        text="Drawn character by character. A temperature below 1 prefers the likely, 1 draws "
        "from the network's own probabilities.",
        html=f'<div class="columns">{"".join(parts)}</div>',
    )


def _memory(losses: ColdLosses) -> Section:
    mean = losses.nats.mean(axis=0)  # (positions,)
    figure, axes = panel("characters read since the start", "nats per character")
    read = np.arange(1, len(mean) + 1)
    axes.plot(read, mean, linewidth=0.8, alpha=0.45, label="each place")
    axes.plot(*_smoothed(mean), linewidth=1.8, color="C0", label="smoothed")
    axes.axhline(mean.mean(), color="grey", linestyle="--", label="mean")
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128, 256) if tick <= len(mean)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    number_axis(axes.yaxis)
    legend_above(axes)
    text = "Loss on held-out text by how much the network has read before. "
    if len(mean) > LATE.start:
        early, late = mean[EARLY].mean(), mean[LATE].mean()
        text += (
            f"After 4 to 16 characters it needs {early:.3f} nats, after more than {LATE.start} "
            f"{late:.3f}: memory is worth {early - late:.3f}."
        )
    picture = Picture(figure=figure, caption="Loss by the characters read before")
    return Section(title="What memory buys", text=text, pictures=(picture,))


def _smoothed(mean: Floats) -> tuple[Floats, Floats]:
    """Means over stretches that grow with the position: places and values."""
    edges = np.unique(np.geomspace(1, len(mean) + 1, 24).astype(int)) - 1
    stretches = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    places = np.array([np.sqrt((a + 1) * b) for a, b in stretches])
    return places, np.array([mean[a:b].mean() for a, b in stretches])


def _hardest(losses: ColdLosses, vocabulary: Sequence[str]) -> Section:
    size = len(vocabulary)
    tokens = losses.tokens.reshape(-1)
    counts = np.bincount(tokens, minlength=size)
    total = np.bincount(tokens, weights=losses.nats.reshape(-1), minlength=size)
    rows = []
    for token in np.argsort(-total)[:HARDEST]:
        if not counts[token]:
            break
        guesses = losses.guesses.reshape(-1)[tokens == token]
        right = float((guesses == token).mean())
        wrong = np.bincount(guesses[guesses != token], minlength=size)
        taken_for = shown(vocabulary[int(wrong.argmax())]) if wrong.any() else ""
        rows.append(
            (
                shown(vocabulary[token]),
                percent(counts[token] / len(tokens)),
                f"{total[token] / counts[token]:.2f}",
                percent(total[token] / total.sum()),
                percent(right, digits=0),
                taken_for,
            )
        )
    heads = (
        "character",
        "share of the text",
        "nats each",
        "share of the loss",
        "guessed",
        "most often taken for",
    )
    return Section(
        title="The hardest characters",
        text="Where the loss on held-out text comes from, most first.",
        table=grid(heads, rows, numbers=(1, 2, 3, 4)),
    )


def shown(symbol: str) -> str:
    """A character for people: by name or number where it does not show."""
    names = {" ": "space", "\n": "line end", "\t": "tab"}
    if symbol in names:
        return names[symbol]
    return symbol if len(symbol) > 1 or symbol.isprintable() else f"U+{ord(symbol):04X}"
