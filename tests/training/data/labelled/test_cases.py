"""Files that people had, where they are on this machine: they are no part of the project."""

from collections import Counter
from pathlib import Path

import pytest

from training.data.labelled.reading import read_labelled
from training.data.text.characters import read_texts
from training.errors import DataError

CASES = Path(__file__).parents[5] / "shared/cases/training"

pytestmark = pytest.mark.skipif(
    not CASES.exists(), reason="shared/cases is not on this machine; it is no part of the project"
)


def test_films() -> None:
    data = read_labelled(CASES / "aclImdb")
    counts = Counter((example.part, example.label) for example in data.examples)
    parts = [("train", "pos"), ("train", "neg"), ("test", "pos"), ("test", "neg")]
    assert counts == dict.fromkeys(parts, 30)
    assert {note.what: note.rows for note in data.notes} == {
        "ignored: train/unsup": 60,
        "ignored: files": 2,
    }


def test_messages() -> None:
    data = read_labelled(CASES / "spamlike.csv")
    assert Counter(example.label for example in data.examples) == {"ham": 40, "spam": 40}
    assert data.examples[0].sequence == "win ok cash ok ok win 0"


def test_ucr() -> None:
    data = read_labelled(CASES / "ucr.tsv")
    assert Counter(example.label for example in data.examples) == {"1": 40, "2": 40}
    assert {len(example.sequence) for example in data.examples} == {20}
    assert data.features == ("value",)


@pytest.mark.parametrize(
    ("name", "encoding", "begin"),
    [("ru1251.txt", "cp1251", "Мой дядя самых"), ("sjis.txt", "cp932", "吾輩は猫である。")],
)
def test_texts_in_other_encodings(name: str, encoding: str, begin: str) -> None:
    with pytest.raises(DataError, match=f"it looks like {encoding}, .*'{begin}"):
        read_texts([CASES / name])
    assert read_texts([CASES / name], encoding=encoding).characters.startswith(begin)
