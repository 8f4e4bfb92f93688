"""Text that is not UTF-8: named, never guessed; and read as a person says."""

import gzip
import zipfile
from pathlib import Path

import pytest

from training.data.encodings import known_encoding, likely_encodings
from training.data.files import decode
from training.data.text.characters import read_texts
from training.errors import ConfigError, DataError
from training.families.char.settings import CharConfig
from training.families.parsing import parse_config

WHERE = Path("book.txt")
FRENCH = "Longtemps, je me suis couché de bonne heure. À peine ma bougie éteinte, je dormais.\n"
RUSSIAN = "Мой дядя самых честных правил, когда не в шутку занемог.\n"
POLISH = "Litwo! Ojczyzno moja! ty jesteś jak zdrowie. Ile cię trzeba cenić, piękność twą.\n"
CHINESE = "道可道。非常道。名可名。非常名。無名天地之始有名萬物之母。故常無欲以觀其妙\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        ("Schluß;Höhe\n1,5;2\n", "cp1252"),
        ("ham,Call now £1000 prize\n", "cp1252"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859_2"),
        (RUSSIAN, "cp1251"),
        ("Привет\n", "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (CHINESE, "gb18030"),
        (CHINESE, "big5"),
        ("나 보기가 역겨워 가실 때에는 말없이 고이 보내 드리우리다\n", "cp949"),
        ("Την είδα την ξανθούλα, την είδα ψες αργά\n", "cp1253"),
        (FRENCH, "utf_16"),
        (FRENCH, "utf_32"),
    ],
)
def test_the_likely_encoding_is_named_and_then_reads(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert known_encoding(likely_encodings(data)[0].encoding) == known_encoding(encoding)
    with pytest.raises(DataError, match=r"book.txt: not UTF-8: .*give --encoding "):
        decode(data, WHERE)
    assert decode(data, WHERE, encoding) == text


def test_the_letters_of_a_guess_are_shown_with_others_that_fit() -> None:
    with pytest.raises(DataError, match=r"'Мой дядя самых ч'.*less likely: koi8_r 'лНИ ДЪДЪ"):
        decode(RUSSIAN.encode("cp1251"), WHERE)


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (
            (FRENCH * 2).encode(),
            "cp1252",
            "it is UTF-8, .*cp1252 makes 'Ã©' of 'é'; leave",
        ),
        (FRENCH.encode(), "ascii", "not ascii: .*it is UTF-8: leave out --encoding"),
        (RUSSIAN.encode("cp1251"), "utf-16", "not utf-16: .*looks like cp1251"),
        (RUSSIAN.encode("cp1251"), "shift_jis", "not shift_jis: byte .*looks like cp1251"),
        ("“so”".encode("cp1252"), "latin-1", "0x93 at offset 0 is no letter .*--encoding cp1252"),
        (b"PK\x03\x04 a workbook", None, "a ZIP file, or a workbook; save a workbook as CSV"),
        (bytes(range(256)) * 4, None, "`file 'book.txt'` may tell"),
    ],
)
def test_what_cannot_be_right_is_refused(data: bytes, encoding: str | None, message: str) -> None:
    with pytest.raises(DataError, match=f"book.txt: .*{message}"):
        decode(data, WHERE, encoding)


def test_few_letters_may_be_utf8_by_accident() -> None:
    assert decode("Ã©".encode("cp1252"), WHERE, "cp1252") == "Ã©"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_is_no_text(encoding: str) -> None:
    assert decode("\ufeffhé".encode(encoding), WHERE, encoding).removeprefix("\ufeff") == "hé"
    assert decode("hé".encode(encoding), WHERE, encoding) == "hé"


@pytest.mark.parametrize(
    ("name", "message"),
    [("cp12511", "the nearest is 'cp1251'"), ("rot13", "write for example"), ("x", "write for")],
)
def test_an_encoding_that_there_is_not(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"encoding: there is no encoding '{name}': {message}"):
        parse_config({"task": "char", "text": ["a.txt"], "encoding": name})


def test_an_encoding_is_for_files() -> None:
    with pytest.raises(ConfigError, match="leave it out with stdlib"):
        parse_config({"task": "char", "stdlib": True, "encoding": "cp1251"})
    config = parse_config({"task": "char", "text": ["a.txt"], "encoding": "windows-1251"})
    assert isinstance(config, CharConfig)
    assert config.encoding == "cp1251"


def test_packed_texts_are_read_as_they_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(RUSSIAN.encode("cp1251")))
    text = read_texts([tmp_path / "a.txt.gz"], encoding="cp1251")
    assert text.characters == RUSSIAN
    assert ("encoding", "files read as cp1251") in [(n.what, n.detail) for n in text.notes]
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b and no more")
    with pytest.raises(DataError, match=r"broken.gz: broken gzip file"):
        read_texts([tmp_path / "broken.gz"])


def test_the_texts_of_an_archive_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "books.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("books/2.txt", "two\n")
        archive.writestr("books/1.txt", "one\n")
        archive.writestr("books/README.txt", "about")
        archive.writestr("books/cover.png", b"\x89PNG")
        archive.writestr("__MACOSX/books/._1.txt", b"\x00")
    text = read_texts([path])
    assert text.characters == "one\ntwo\n"
    notes = {note.what: (note.rows, note.detail) for note in text.notes}
    assert notes["unpacked: books.zip"][0] == 2
    assert notes["ignored: files"] == (2, "no text by their names; first: books/README.txt")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("cover.png", b"\x89PNG")
    with pytest.raises(DataError, match=r"none.zip: no text in it: no file ends in .txt"):
        read_texts([tmp_path / "none.zip"])
