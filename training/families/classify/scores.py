"""How good labels are: accuracy, what is taken for what, and how soon the label is known."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.reports.numbers import percent
from training.reports.plots import Picture, count_axis, legend_above, panel, share_axis, wrapped
from training.reports.sections import Grid, grid

LABELS_WITH_NUMBERS = 25
"""A confusion matrix of more labels shows colours only."""
CELL_IN, LETTER_IN, MOST_SIDE_IN = 0.3, 0.1, 16.0
"""Inches of a confusion matrix for a label and for a letter of its name, and of it all at most."""
MOST_CONFUSIONS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a network said of sequences whose labels are known."""

    labels: tuple[str, ...]
    logits: Tensor
    """(sequences, labels) float64, after whole sequences"""
    targets: Tensor
    """(sequences,) int64"""
    commonest: int
    """The label that training saw most."""
    so_far: tuple[tuple[Tensor, Tensor], ...] = ()
    """Batches of labels after each step, (rows, time), and lengths, (rows,)."""

    @property
    def said(self) -> Tensor:
        """The likeliest label of each sequence, (sequences,)."""
        return self.logits.argmax(dim=-1)

    @property
    def scores(self) -> dict[str, float]:
        """Scores for the manifest."""
        three = self.logits.topk(min(3, len(self.labels)), dim=-1).indices
        return {
            "accuracy": _share(self.said == self.targets),
            "top3_accuracy": _share((three == self.targets[:, None]).any(dim=-1)),
            "nats": float(cross_entropy(self.logits, self.targets)),
            "commonest.accuracy": _share(self.targets == self.commonest),
        }

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Sequences by label and by what was said, (labels, labels)."""
        width = len(self.labels)
        places = self.targets * width + self.said
        return np.asarray(torch.bincount(places, minlength=width * width)).reshape(width, width)

    @property
    def by_steps(self) -> NDArray[np.float64]:
        """Accuracy of the label so far after 1, 2, … steps."""
        longest = max(said.shape[1] for said, _ in self.so_far)
        right = np.zeros(longest)
        first = 0
        for said, lengths in self.so_far:
            targets = self.targets[first : first + len(said)]
            places = torch.minimum(torch.arange(longest), lengths[:, None] - 1)  # (rows, longest)
            right += (said.gather(1, places) == targets[:, None]).sum(dim=0).numpy()
            first += len(said)
        return right / first


def verdict(scores: dict[str, float]) -> str:
    """Say plainly whether the network was worth training."""
    own, blind = scores["accuracy"], scores["commonest.accuracy"]
    if own > blind:
        return (
            f"It is right for {percent(own)}; always saying the commonest label is for "
            f"{percent(blind)}."
        )
    return (
        f"It is right for {percent(own)} and does NOT beat always saying the commonest label, "
        f"which is for {percent(blind)}."
    )


def confusion_matrix(judged: Judged) -> Picture:
    """Labels by what was said; colours are shares of the row."""
    counts, labels = judged.confusion, judged.labels
    names = [wrapped(label, most=14) for label in labels]
    side = min(max(CELL_IN * len(labels), 2.5), MOST_SIDE_IN)
    margin = LETTER_IN * min(max(map(len, labels)), 14) + 0.6  # of the names
    figure, axes = panel("said", "label", width_in=side + margin, height_in=side + margin)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    every = math.ceil(CELL_IN * len(labels) / side)  # of many labels, not each has room
    places = range(0, len(labels), every)
    axes.set_xticks(places, names[::every], rotation=90)
    axes.set_yticks(places, names[::every])
    if len(labels) <= LABELS_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = str(counts[row, column])
            axes.text(
                column, row, number, ha="center", va="center", color=colour, fontsize="x-small"
            )
    caption = "Sequences by their label and what was said; the darker, the more of the label's"
    return Picture(figure=figure, caption=caption)


def confusions(judged: Judged) -> Grid:
    """The labels that are most often taken for another one."""
    counts = judged.confusion.copy()
    there = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    rows = []
    for place in np.argsort(-counts, axis=None, kind="stable")[:MOST_CONFUSIONS]:
        label, said = divmod(int(place), len(judged.labels))
        if not counts[label, said]:
            break
        share = percent(counts[label, said] / there[label])
        rows.append((judged.labels[label], judged.labels[said], f"{counts[label, said]:,}", share))
    return grid(("label", "taken for", "sequences", "of the label"), rows, numbers=(2, 3))


def progress(judged: Judged) -> Picture:
    """Accuracy by the number of steps read, over the commonest label's."""
    figure, axes = panel("steps read", "accuracy so far")
    accuracy = judged.by_steps
    axes.plot(
        np.arange(1, len(accuracy) + 1),
        accuracy,
        marker="." if len(accuracy) < 60 else "",
        label="this network",
    )
    axes.axhline(
        judged.scores["commonest.accuracy"],
        color="grey",
        linestyle="--",
        label="the commonest label",
    )
    axes.set_ylim(0, 1.02)
    count_axis(axes.xaxis)
    share_axis(axes.yaxis)
    legend_above(axes, columns=2)
    return Picture(figure=figure, caption="Accuracy by the steps read")


def by_label(judged: Judged) -> Grid:
    """Precision, recall and count of every label."""
    counts = judged.confusion
    rows = []
    for place, label in enumerate(judged.labels):
        right = counts[place, place]
        said, there = counts[:, place].sum(), counts[place].sum()
        rows.append((label, _part(right, said), _part(right, there), f"{there:,}"))
    return grid(("label", "precision", "recall", "sequences"), rows, numbers=(1, 2, 3))


def _part(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "–"


def _share(right: Tensor) -> float:
    return float(right.double().mean())
