"""Japanese Vowels (UCI): nine speakers say two vowels; its files as tables that anyone can read.

In ``ae.train`` and ``ae.test`` a line holds the twelve numbers of a frame, and a line of twelve 1.0
ends an utterance. Nothing says whose it is: the speakers follow one another, so many utterances
each. The published files are meant: 30 per speaker to train on, and the counts below to test.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.files import read_text
from training.errors import DataError

COEFFICIENTS = 12
TRAIN_COUNTS = (30,) * 9
TEST_COUNTS = (31, 35, 88, 44, 29, 24, 40, 50, 29)


def write_tables(folder: Path, into: Path) -> tuple[Path, Path]:
    """Write ``train.csv`` and ``test.csv``, a row for each frame; return their paths.

    ``folder`` holds ``ae.train`` and ``ae.test``.

    Raises:
        DataError: a file is missing, or is not the published one.
    """
    found = []
    for name, counts in (("train", TRAIN_COUNTS), ("test", TEST_COUNTS)):
        path = folder / f"ae.{name}"
        utterances = read_utterances(path)
        if len(utterances) != sum(counts):
            raise DataError(
                f"{path}: {len(utterances)} utterances, the published file has {sum(counts)}; "
                "get it anew from archive.ics.uci.edu"
            )
        speakers = np.repeat(np.arange(1, len(counts) + 1), counts)
        table = into / f"{name}.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            coefficients = [f"coefficient_{n}" for n in range(1, COEFFICIENTS + 1)]
            writer.writerow(["sequence", "label", *coefficients])
            for number, (speaker, frames) in enumerate(zip(speakers, utterances, strict=True)):
                writer.writerows([number, speaker, *frame] for frame in frames.tolist())
        found.append(table)
    return found[0], found[1]


def read_utterances(path: Path) -> list[NDArray[np.float64]]:
    """The frames of each utterance of one file, ``(frames, 12)``.

    Raises:
        DataError: a line is no frame.
    """
    utterances: list[NDArray[np.float64]] = []
    frames: list[list[float]] = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            frame = [float(field) for field in text.split()]
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}; get the file anew") from error
        if len(frame) != COEFFICIENTS:
            raise DataError(f"{path}, line {line}: {len(frame)} numbers, not 12; get it anew")
        if frame == [1.0] * COEFFICIENTS:
            utterances.append(np.array(frames))
            frames = []
        else:
            frames.append(frame)
    if frames:
        raise DataError(f"{path}: the last utterance is not ended by a line of 1.0; get it anew")
    return utterances
