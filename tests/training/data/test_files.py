"""Readers: what they forgive, what they refuse, and the words they refuse it in."""

from pathlib import Path
from typing import Any

import pytest

from training.data.text.characters import read_texts, split
from training.data.text.stdlib import read_stdlib
from training.errors import ConfigError, DataError
from training.families.parsing import parse_config
from training.run.fit import train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt: the file is empty"),
        (b"short", "text.txt: 5 characters are too few: a window of 64 .* needs 74"),
        (b"fine so far \xff\xfe", "not UTF-8: byte 0xff at offset 12; it looks like cp1252"),
        (None, "there is no such file"),
    ],
)
def test_text_that_cannot_be_used(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    config = parse_config(
        {"task": "char", "text": [path], "models": tmp_path / "m", "runs": tmp_path / "r"}
    )
    with pytest.raises(DataError, match=message):
        train(config)
    assert {child.name for child in tmp_path.iterdir()} <= {"text.txt"}


def test_text_of_several_files_with_foreign_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "b").write_text("trois: ça, 🙂\n" * 20)
    text = read_texts([tmp_path / "a", tmp_path / "b"])
    assert text.characters.startswith("one\ntwo\ntrois: ça, 🙂")
    corpus = split(text, window=16)
    assert "🙂" in corpus.vocabulary
    assert "\r" not in corpus.vocabulary
    letters = [corpus.vocabulary[token] for token in corpus.train[:8]]
    assert "".join(letters) == "one\ntwo\n"
    assert len(corpus.validation) == -(-len(text.characters) // 10)


def test_smallest_text_that_the_message_promises(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("x" * 74)
    assert len(split(read_texts([path]), window=64).train) >= 65


def test_standard_library_is_plain_repeatable_text() -> None:
    text = read_stdlib(limit_characters=200_000)
    assert len(text.characters) == 200_000
    assert set(text.characters) <= {"\n", *map(chr, range(32, 127))}
    assert text.sha256 == read_stdlib(limit_characters=200_000).sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "char"}, "give one of text files, stdlib and labelled texts"),
        ({"task": "char", "stdlib": True, "hidden": 0}, "hidden: .* greater than or equal to 1"),
        ({"task": "char", "stdlib": True, "budget_s": "soon"}, "budget: 'soon' is no duration"),
        ({"task": "char", "stdlib": True, "cell": "tree"}, "cell: .*'rnn', 'lstm' or 'gru'"),
        ({"task": "char", "stdlib": True, "steps": 5, "epochs": 2}, "only one of budget, steps"),
        ({"task": "char", "stdlib": True, "name": "A b"}, "name: "),
        ({"task": "series"}, "give either a csv file or a number of synthetic rows"),
        ({"task": "series", "csv": "x.csv", "value": ["a", "a"]}, "column 'a' is given twice"),
        ({"task": "series", "synthetic": 200, "feature": "b"}, "choose columns of a csv file"),
        (
            {"task": "series", "csv": "x.csv", "value": ["a", "b"], "series_column": "c"},
            "several values are several series already",
        ),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(settings)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_config({"task": "char", "stdlib": True, "budget_s": text}).budget_s == seconds
