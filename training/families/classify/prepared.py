"""Labelled sequences made ready to train on: split, numbered, and laid end to end in tensors."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.reading import read_labelled, without
from training.data.labelled.splits import Split, stratified
from training.data.labelled.tables import Columns
from training.data.notes import Note
from training.data.text.characters import UNKNOWN
from training.errors import DataError
from training.families.classify.network import Encoder, Measurements, Symbols
from training.families.classify.settings import ClassifyConfig


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
        columns = Columns(
            text=config.text_column,
            label=config.label_column,
            sequence=config.sequence_column,
            step=config.step_column,
            features=config.feature,
        )
        data = read_labelled(config.data, columns, longest=config.longest)
        test = (
            None
            if config.test is None
            else read_labelled(config.test, columns, longest=config.longest)
        )
        if test is not None:
            data = without(data, test)
            _check_alike(data, test, config)
        self.labels, self.source = data.labels, data.source
        self.sha256 = data.sha256 if test is None else f"{data.sha256}+{test.sha256}"
        self.examples = data.examples + (() if test is None else test.examples)
        self._notes = list(data.notes) + ([] if test is None else list(test.notes))
        number = {label: place for place, label in enumerate(self.labels)}
        targets = np.array([number[example.label] for example in self.examples])
        self.split = _split(config, targets, len(data.examples), data)
        self._note_labels_without_test(targets)
        read = [example.sequence for example in self.examples]
        if data.is_text:
            texts = [text for text in read if isinstance(text, str)]
            self._vocabulary = self._choose_vocabulary(config, texts)
            token = {symbol: place for place, symbol in enumerate(self._vocabulary)}
            unknown = token[UNKNOWN]
            parts = [torch.tensor([token.get(s, unknown) for s in text]) for text in texts]
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

    def _note_labels_without_test(self, targets: np.ndarray) -> None:
        tested = set(targets[self.split.test].tolist())
        missing = [label for place, label in enumerate(self.labels) if place not in tested]
        if missing:
            self._notes.append(
                Note(
                    what="labels that are not tested",
                    rows=len(missing),
                    detail=f"too few sequences of {', '.join(missing[:8])}",
                )
            )


def _split(config: ClassifyConfig, targets: np.ndarray, own: int, data: Labelled) -> Split:
    if len(np.unique(targets[:own])) < 2:
        raise DataError(f"{config.data}: all sequences have the label '{data.labels[0]}'; give two")
    split = stratified(
        targets[:own],
        validation=config.validation_share,
        test=0.0 if config.test is not None else config.test_share,
        seed=config.seed,
    )
    if config.test is not None:
        test = np.arange(own, len(targets))
        split = Split(train=split.train, validation=split.validation, test=test)
    parts = {"test": split.test}
    if config.validation_share:
        parts["validation"] = split.validation
    for name, rows in parts.items():
        if not len(rows):
            raise DataError(
                f"{config.data}: {own} sequences with {len(data.labels)} labels leave none for "
                f"the {name}: give at least ten for each label"
            )
    return split


def _check_alike(data: Labelled, test: Labelled, config: ClassifyConfig) -> None:
    if data.features != test.features:
        raise DataError(
            f"{config.test}: its columns of numbers are {', '.join(test.features) or 'none'}, but "
            f"those of {config.data} are {', '.join(data.features) or 'none'}; make them alike"
        )
    known = set(data.labels)
    for example in test.examples:
        if example.label not in known:
            raise DataError(
                f"{config.test}, {example.place}: label '{example.label}' is not in {config.data}; "
                "a label must be trained on to be tested"
            )
