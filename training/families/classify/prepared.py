"""Labelled sequences made ready to train on: split, numbered, and laid end to end in tensors."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.reading import read_labelled
from training.data.labelled.splits import Split
from training.data.notes import Note
from training.data.text.characters import UNKNOWN
from training.families.classify.network import Encoder, Measurements, Symbols
from training.families.classify.settings import ClassifyConfig
from training.families.classify.splitting import kept_apart, split_of
from training.families.meaning import Meaning, require_same, translation

SHOWN_LABELS = 12
"""So many labels are shown with their counts."""
FEW = 3
"""A label with fewer sequences to train on is told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences side by side; what follows the end of one repeats its last step."""

    x: Tensor
    """(rows, time) tokens or (rows, time, features) values"""
    lengths: Tensor
    """(rows,) int64"""
    targets: Tensor
    """(rows,) int64: numbers of labels"""

    @property
    def last(self) -> tuple[Tensor, Tensor]:
        """The index of each row's last valid step."""
        return torch.arange(len(self.lengths), device=self.lengths.device), self.lengths - 1

    @property
    def valid(self) -> Tensor:
        """Which steps lie within their sequence, (rows, time) bool."""
        places = torch.arange(self.x.shape[1], device=self.lengths.device)
        return places < self.lengths[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Sequences of different lengths, one after the other."""

    steps: Tensor
    """(all steps,) tokens or (all steps, features) values"""
    starts: Tensor
    """(sequences,) int64"""
    lengths: Tensor
    targets: Tensor

    def batch(self, rows: Tensor) -> Batch:
        """The sequences with these numbers."""
        rows = rows.to(self.starts.device)
        lengths = self.lengths[rows]
        places = torch.arange(int(lengths.max()), device=rows.device)
        index = self.starts[rows, None] + torch.minimum(places, lengths[:, None] - 1)
        return Batch(x=self.steps[index], lengths=lengths, targets=self.targets[rows])

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(
            steps=self.steps.to(device),
            starts=self.starts.to(device),
            lengths=self.lengths.to(device),
            targets=self.targets.to(device),
        )


class ClassifyData:
    """Everything a classifier trains and is scored on."""

    sequences: Sequences
    split: Split
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    source: str
    sha256: str
    notes: tuple[Note, ...]

    def __init__(self, config: ClassifyConfig) -> None:
        """Read, split and number.

        Raises:
            DataError: the data cannot be used.
        """
        data = _read(config.data, config)
        test = None if config.test is None else _read(config.test, config)
        data, test = kept_apart(data, test, config)
        self.labels, self.source = data.labels, data.source
        self.sha256 = data.sha256 if test is None else f"{data.sha256}+{test.sha256}"
        self.examples = data.examples + (() if test is None else test.examples)
        self._notes = list(data.notes) + ([] if test is None else list(test.notes))
        number = {label: place for place, label in enumerate(self.labels)}
        targets = np.array([number[example.label] for example in self.examples])
        self.split = split_of(config, targets, self.examples, own=len(data.examples))
        self._note_split()
        self._note_labels(targets)
        read = [example.sequence for example in self.examples]
        if data.is_text:
            texts = [text for text in read if isinstance(text, str)]
            self._vocabulary = self._choose_vocabulary(config, texts)
            parts = _numbered(texts, self._vocabulary)
        else:
            parts = [torch.from_numpy(rows) for rows in read if not isinstance(rows, str)]
            self._vocabulary = ()
        lengths = torch.tensor([len(part) for part in parts])
        self.sequences = Sequences(
            steps=torch.cat(parts),
            starts=torch.cumsum(lengths, 0) - lengths,
            lengths=lengths,
            targets=torch.from_numpy(targets),
        )
        self._features = data.features
        self.notes = tuple(self._notes)

    def meaning(self) -> Meaning:
        """Labels, and symbols or columns, in the order of their numbers."""
        return {
            "labels": list(self.labels),
            "vocabulary": list(self._vocabulary),
            "features": list(self._features),
        }

    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Number labels and symbols as a network of the run ``of`` does.

        Raises:
            DataError: there are labels that it does not know, or other columns.
        """
        features, vocabulary = meaning["features"], tuple(meaning["vocabulary"])
        kinds = ["texts" if symbols else "numbers" for symbols in (self._vocabulary, vocabulary)]
        require_same(*kinds, what="the steps are", source=self.source, of=of)
        require_same(list(self._features), features, what="columns", source=self.source, of=of)
        labels = translation(
            self.labels,
            meaning["labels"],
            unknown=None,
            what="labels",
            source=self.source,
            of=of,
        )
        steps = self.sequences.steps
        if vocabulary:
            texts = [example.sequence for example in self.examples]
            steps = torch.cat(_numbered([t for t in texts if isinstance(t, str)], vocabulary))
            kept = (note for note in self.notes if not note.what.startswith("taken for unknown"))
            strange = int((steps == vocabulary.index(UNKNOWN)).sum())
            what = f"taken for unknown: characters that {of} does not know"
            note = Note(what=what, rows=strange, detail="its vocabulary is kept")
            self.notes = (*kept, note) if strange else tuple(kept)
        targets = labels[self.sequences.targets]
        self.sequences = dataclasses.replace(self.sequences, steps=steps, targets=targets)
        self.labels, self._vocabulary = tuple(meaning["labels"]), vocabulary

    def encoder(self, config: ClassifyConfig) -> Encoder:
        """What turns steps into what the cells see; fitted on the training part alone."""
        if self._vocabulary:
            return Symbols(
                self._vocabulary,
                unknown=self._vocabulary.index(UNKNOWN),
                embedding=config.embedding,
                dropout=config.dropout,
            )
        batch = self.sequences.batch(torch.from_numpy(self.split.train))
        rows = batch.x[batch.valid].double()  # (steps, features)
        scale = rows.std(dim=0, correction=0)
        constant = scale <= 1e-12 * rows.abs().amax(dim=0).clamp(min=1e-300)
        return Measurements(
            self._features,
            mean=rows.mean(dim=0),
            scale=torch.where(constant, torch.ones_like(scale), scale),
            noise=config.noise,
        )

    def _choose_vocabulary(self, config: ClassifyConfig, texts: list[str]) -> tuple[str, ...]:
        counts: Counter[str] = Counter()
        for row in self.split.train:
            counts.update(texts[row])
        kept = {symbol for symbol, count in counts.items() if count >= config.rare} - {UNKNOWN}
        others: Counter[str] = Counter()
        for text in texts:
            others.update(symbol for symbol in text if symbol not in kept)
        if others:
            shown = " ".join(repr(symbol) for symbol, _ in others.most_common(8))
            self._notes.append(
                Note(
                    what="taken for unknown: rare characters",
                    rows=others.total(),
                    detail=f"{len(others)} different ones seen fewer than {config.rare} times in "
                    f"training, such as {shown}",
                )
            )
        return (*sorted(kept), UNKNOWN)

    def _note_split(self) -> None:
        """How many sequences each part has, and whether somebody else had made it."""
        shown = [
            f"{len(rows):,} to {use}"
            for rows, use in (
                (self.split.train, "train on"),
                (self.split.validation, "choose the weights by"),
                (self.split.test, "score on"),
            )
            if len(rows)
        ]
        came = {example.part for example in self.examples} & {"validation", "test"}
        detail = ", ".join(shown)
        if came and "validation" not in came and len(self.split.validation):
            detail += "; the second is a share of what came for training"
        if groups := len({example.group for example in self.examples} - {""}):
            detail += f"; no one of {groups:,} groups is in two of them"
        what = "split: as it came" if came else "split"
        self._notes.append(Note(what=what, rows=len(self.examples), detail=detail))

    def _note_labels(self, targets: np.ndarray) -> None:
        """The labels and their counts; those that are not tested or hardly trained on."""
        counts = np.bincount(targets, minlength=len(self.labels))
        trained = np.bincount(targets[self.split.train], minlength=len(self.labels))
        order = np.argsort(-counts, kind="stable")
        shown = [f"{_short(self.labels[n])}: {counts[n]:,}" for n in order[:SHOWN_LABELS]]
        more = len(order) - len(shown)
        detail = ", ".join(shown) + (
            f" and {more} more, of {counts.min():,} at least" if more else ""
        )
        self._notes.append(Note(what=f"labels: {len(order)}", rows=len(targets), detail=detail))
        tested = set(targets[self.split.test].tolist())
        missing = [label for place, label in enumerate(self.labels) if place not in tested]
        if missing:
            self._notes.append(
                Note(
                    what="labels that are not tested",
                    rows=len(missing),
                    detail=f"too few sequences of {', '.join(map(_short, missing[:8]))}",
                )
            )
        few = [label for place, label in enumerate(self.labels) if trained[place] < FEW]
        if few:
            self._notes.append(
                Note(
                    what=f"labels with fewer than {FEW} to train on",
                    rows=len(few),
                    detail=", ".join(map(_short, few[:8])),
                )
            )


def _read(path: Path, config: ClassifyConfig) -> Labelled:
    return read_labelled(path, config.columns, longest=config.longest, encoding=config.encoding)


def _short(label: str) -> str:
    return label if len(label) <= 30 else f"{label[:29]}…"


def _numbered(texts: list[str], vocabulary: tuple[str, ...]) -> list[Tensor]:
    """The tokens of each text, (characters,)."""
    token = {symbol: place for place, symbol in enumerate(vocabulary)}
    unknown = token[UNKNOWN]
    return [torch.tensor([token.get(s, unknown) for s in text]) for text in texts]
