"""How good labels are: accuracy, what is taken for what, and how soon the label is known."""

import html
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

LABELS_WITH_NUMBERS = 25
"""A confusion matrix of more labels shows colours only."""


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
        return f"It is right for {own:.1%}; always saying the commonest label is for {blind:.1%}."
    return (
        f"It is right for {own:.1%} and does NOT beat always saying the commonest label, "
        f"which is for {blind:.1%}."
    )


def draw_confusion(judged: Judged) -> Figure:
    """A matrix of labels by what was said; colours are shares of the row."""
    counts, labels = judged.confusion, judged.labels
    side = min(3 + 0.35 * len(labels), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the label's sequences", shrink=0.8)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    axes.set_xlabel("said")
    axes.set_ylabel("label")
    if len(labels) <= LABELS_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = str(counts[row, column])
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8)
    return figure


def draw_progress(judged: Judged) -> Figure:
    """Accuracy by the number of steps read, over the commonest label's."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    accuracy = judged.by_steps
    axes.plot(np.arange(1, len(accuracy) + 1), accuracy, marker="." if len(accuracy) < 60 else "")
    axes.axhline(judged.scores["commonest.accuracy"], color="grey", linestyle="--", linewidth=0.8)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("steps read")
    axes.set_ylabel("accuracy so far\n(dashed: the commonest label)")
    return figure


def html_by_label(judged: Judged) -> str:
    """A table with precision, recall and count of every label."""
    counts = judged.confusion
    rows = []
    for place, label in enumerate(judged.labels):
        right = counts[place, place]
        said, there = counts[:, place].sum(), counts[place].sum()
        cells = (_percent(right, said), _percent(right, there), f"{there:,}")
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><th>{html.escape(label)}</th>{numbers}</tr>")
    head = "<tr><th>label</th><th>precision</th><th>recall</th><th>sequences</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _share(right: Tensor) -> float:
    return float(right.double().mean())
