"""One input, many outputs: a label, then the characters of a sequence that has it.

Each sequence is written as the symbol of its label, its characters and a line end. Read as the
first step, the symbol puts a fresh state where sequences with that label begin; what the network
then writes is one.
"""

from pathlib import Path

import numpy as np
import torch

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.reading import read_labelled
from training.data.notes import Note
from training.data.text.characters import HELD_OUT, Corpus
from training.errors import DataError

END = "\n"


def symbol_of(label: str) -> str:
    """The symbol that stands for a label."""
    return f"<{label}>"


def read_prompted(path: Path, *, window: int, seed: int, encoding: str | None = None) -> Corpus:
    """Read labelled texts, in the forms that `cellar-train classify` reads.

    They are shuffled by the seed; the last tenth of them is held out, or the part that came as a
    test. A text that stands there twice with one label is taken once, so that nothing held out has
    been trained on.

    Raises:
        DataError: it is not labelled text, a text has a line break in it, or there is too little.
    """
    data = read_labelled(path, encoding=encoding)
    if not data.is_text:
        raise DataError(f"{path}: it holds sequences of numbers; give labelled texts")
    for example in data.examples:
        if END in str(example.sequence):
            raise DataError(
                f"{path}, {example.place}: a text with a line break in it, which ends a text here; "
                "give one text per line"
            )
    characters = {character for example in data.examples for character in str(example.sequence)}
    vocabulary = (*sorted({END, *characters}), *(symbol_of(label) for label in data.labels))
    order = np.random.default_rng(seed).permutation(len(data.examples))
    held_out = int(np.ceil(len(order) * HELD_OUT))
    trained, validated = order[:-held_out], order[-held_out:]
    if data.is_split:
        is_trained = np.array([data.examples[row].part == "train" for row in order])
        trained, validated = order[is_trained], order[~is_trained]
        if not len(trained) or not len(validated):
            raise DataError(f"{path}: it is one part of a data set; give all of its parts")
    parts = [_tokens(data, trained, vocabulary), _tokens(data, validated, vocabulary)]
    if len(parts[0]) <= window:
        raise DataError(
            f"{path}: {len(parts[0])} characters to train on are too few for a window of {window} "
            "steps; give more texts or a smaller --window"
        )
    return Corpus(
        vocabulary=vocabulary,
        unknown=None,
        train=parts[0],
        validation=parts[1],
        source=data.source,
        sha256=data.sha256,
        notes=(
            *data.notes,
            Note(
                what="labels that a sequence begins with",
                rows=len(data.labels),
                detail=f"for example {symbol_of(data.labels[0])}, one symbol each",
            ),
        ),
    )


def _tokens(data: Labelled, rows: np.ndarray, vocabulary: tuple[str, ...]) -> torch.Tensor:
    token = {symbol: place for place, symbol in enumerate(vocabulary)}

    def written(example: Example) -> list[int]:
        return [
            token[symbol_of(example.label)],
            *(token[character] for character in str(example.sequence)),
            token[END],
        ]

    return torch.tensor([t for row in rows.tolist() for t in written(data.examples[row])])
