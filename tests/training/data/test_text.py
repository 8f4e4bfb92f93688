"""Text as people have it: marks, line ends, rare characters, other encodings."""

import codecs
from pathlib import Path
from typing import Any

import pytest

from models.manifest import TokensInput
from models.repository import ModelRepository
from service.engine.served.inputs import InputReader
from training.data.text.characters import Corpus, read_texts, split
from training.errors import DataError
from training.families.parsing import parse_config
from training.run.fit import train

ENGLISH = "It is a truth universally acknowledged, that text has line ends.\n" * 4


def corpus_of(tmp_path: Path, content: str | bytes, **settings: Any) -> Corpus:
    path = tmp_path / "book.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = {key: settings.pop(key) for key in ("normalisation",) if key in settings}
    return split(read_texts([path], **reading), window=8, **settings)


def text_of(corpus: Corpus) -> str:
    tokens = [*corpus.train.tolist(), *corpus.validation.tolist()]
    return "".join(corpus.vocabulary[token] for token in tokens)


def notes_of(corpus: Corpus) -> dict[str, int]:
    return {note.what: note.rows for note in corpus.notes}


def test_marks_and_line_ends_of_every_kind_become_plain_ones(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, codecs.BOM_UTF8 + b"one\r\ntwo\rthree\n" * 5)
    assert text_of(corpus) == "one\ntwo\nthree\n" * 5
    assert notes_of(corpus) == {
        "CR LF became LF": 5,
        "lone CR became LF": 5,
        "dropped: byte order mark": 1,
    }


@pytest.mark.parametrize(
    "text", ["Ἐν ἀρχῇ ἦν ὁ λόγος\n", "道可道、非常道\n", "हिन्दी में\n", "🙂 שלום\n"]
)
def test_any_script_is_read_as_it_stands(tmp_path: Path, text: str) -> None:
    corpus = corpus_of(tmp_path, text * 20)
    assert text_of(corpus) == text * 20
    assert set(corpus.vocabulary) == set(text)
    assert corpus.unknown is None


def test_combining_marks_stay_unless_asked(tmp_path: Path) -> None:
    text = "cafe\u0301 " * 12
    kept = corpus_of(tmp_path, text)
    assert "\u0301" in kept.vocabulary
    assert notes_of(kept)["kept: letters not in NFC"] == 12
    composed = corpus_of(tmp_path, text, normalisation="nfc")
    assert text_of(composed) == "café " * 12
    assert notes_of(composed)["normalised to NFC"] == 12


def test_rare_characters_become_one_symbol(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "xyz" + "abba\n" * 30 + "qq", min_count=3)
    assert corpus.vocabulary == ("\n", "a", "b", "\ufffd")
    assert corpus.unknown == 3
    assert text_of(corpus) == "\ufffd" * 3 + "abba\n" * 30 + "\ufffd" * 2
    (note,) = [note for note in corpus.notes if "<unk>" in note.what]
    assert note.rows == 5
    assert "4 kinds: q x y z" in note.detail
    assert "12.50% of the held-out text" in note.detail


def test_an_unknown_symbol_that_training_never_reads_is_told(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "abba\n" * 30 + "qz", min_count=2)
    (note,) = corpus.notes
    assert note.detail.endswith("the scores do not ask which; training never reads it")


def test_vocabulary_never_outgrows_its_limit(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + n) * (n + 1) for n in range(40))
    corpus = corpus_of(tmp_path, text, most_symbols=10)
    frequent = [chr(0x4E00 + n) for n in range(31, 40)]
    assert list(corpus.vocabulary) == [*frequent, "\ufffd"]
    whole = corpus_of(tmp_path, text, most_symbols=40)
    assert len(whole.vocabulary) == 40
    assert whole.unknown is None


def test_what_looks_odd_is_kept_and_told(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, "a\0b\x07c\ufffd" * 20 + "Z")
    assert "\0" in corpus.vocabulary
    assert notes_of(corpus) == {
        "kept, but look: control characters": 40,
        "kept, but look: signs of an earlier decoding error": 20,
        "no line ends": 0,
        "kept, but look: only in the held-out tenth": 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENGLISH.encode("utf-16"), "byte 0xff at offset 0; it is utf-16: give --encoding utf-16$"),
        (ENGLISH.encode("utf-16-le"), "every other byte is 0; give --encoding utf-16-le"),
        (ENGLISH.encode("utf-16-be"), "every other byte is 0; give --encoding utf-16-be"),
        (ENGLISH.encode("utf-32"), "byte 0xff at offset 0; it is utf-32: give --encoding utf-32"),
        ((ENGLISH + "déjà").encode("latin-1"), "byte 0xe9 at offset 261; .* cp1252, .*'déjà'"),
        ((ENGLISH + "“so”").encode("cp1252"), "byte 0x93 at offset 260; .* cp1252, .*'“so”'"),
        ("Привет, мир\n".encode("cp1251"), "byte 0xcf at offset 0; .* cp1251, .*'Привет, мир'"),
        (
            bytes(range(256)) * 9,
            "byte 0x80 at offset 128; save the file as UTF-8 .`file 'book.txt'` may tell",
        ),
    ],
)
def test_other_encodings_are_told_with_a_way_out(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=f"book.txt: not UTF-8: {message}"):
        corpus_of(tmp_path, content)


def test_a_minimum_that_nothing_reaches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no character is seen 99 times.*--min-count.* 20 times"):
        corpus_of(tmp_path, "abc" * 20, min_count=99)


def test_a_model_with_an_unknown_symbol_takes_any_character(tmp_path: Path) -> None:
    path = tmp_path / "one-line.txt"
    path.write_text("no line end at all " * 20 + "§")
    settings = {"hidden": 8, "embedding": 4, "batch": 4, "window": 8, "device": "cpu"}
    run = train(
        parse_config(
            {
                "task": "char",
                "text": [path],
                "min_count": 2,
                "steps": 3,
                "publish": True,
                "models": tmp_path / "models",
                "runs": tmp_path / "runs",
                **settings,
            }
        )
    )
    served = ModelRepository(tmp_path / "models").load("char").manifest
    assert isinstance(served.input, TokensInput)
    unknown = served.input.unknown
    assert unknown is not None
    reader = InputReader(served)
    checked = reader.text("no §🙂")
    assert checked.require()[3:].tolist() == [unknown, unknown]
    assert "".join(reader.symbols[token] for token in [unknown]) == "\ufffd"
    assert len((run.folder / "sample.txt").read_text(encoding="utf-8")) == 600
