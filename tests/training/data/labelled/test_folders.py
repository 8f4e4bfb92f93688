"""Labelled texts in folders and archives: parts, stray files, and what cannot be told."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from training.data.labelled.examples import Labelled
from training.data.labelled.parts import part_of
from training.data.labelled.reading import read_labelled
from training.data.labelled.tables.columns import Columns
from training.errors import DataError


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    return folder


def found(data: Labelled) -> set[tuple[str, str, str | None]]:
    return {(str(e.sequence), e.label, e.part) for e in data.examples}


def notes(data: Labelled) -> dict[str, int]:
    return {note.what: note.rows for note in data.notes}


FILMS = {
    "aclImdb/README": "about",
    "aclImdb/imdb.vocab": "the\na",
    "aclImdb/train/pos/0_9.txt": "good",
    "aclImdb/train/neg/0_2.txt": "bad",
    "aclImdb/train/unsup/0_0.txt": "nobody says",
    "aclImdb/train/urls_pos.txt": "http://",
    "aclImdb/test/pos/0_10.txt": "great",
    "aclImdb/test/neg/0_1.txt": "awful",
    "aclImdb/test/labeledBow.feat": "1 0:3",
}
EXPECTED = {
    ("good", "pos", "train"),
    ("bad", "neg", "train"),
    ("great", "pos", "test"),
    ("awful", "neg", "test"),
}


@pytest.mark.parametrize("form", ["aclImdb", ".", "zip", "tar.gz"])
def test_folders_of_parts_are_kept(tmp_path: Path, form: str) -> None:
    write(tmp_path / "in", FILMS)
    path = tmp_path / "in" / form
    if form in ("zip", "tar.gz"):
        path = tmp_path / f"films.{form}"
        pack(path, FILMS)
    data = read_labelled(path)
    assert found(data) == EXPECTED
    assert data.is_split
    assert notes(data) == {"ignored: train/unsup": 1, "ignored: files": 4}


def pack(path: Path, files: dict[str, str]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))


def test_parts_may_lie_within_the_labels(tmp_path: Path) -> None:
    files = {"pos/train/1.txt": "a", "pos/test/1.txt": "b", "neg/train/1.txt": "c"}
    assert found(read_labelled(write(tmp_path, files))) == {
        ("a", "pos", "train"),
        ("b", "pos", "test"),
        ("c", "neg", "train"),
    }


def test_one_folder_called_as_a_part_may_be_a_label(tmp_path: Path) -> None:
    files = {"train/1.txt": "rails", "car/1.txt": "wheels", "bus/1.txt": "seats"}
    assert {label for _, label, _ in found(read_labelled(write(tmp_path, files)))} == {
        "train",
        "car",
        "bus",
    }


def test_names_of_parts() -> None:
    assert part_of("20news-bydate-train") == part_of("TRAIN") == part_of("train_data") == "train"
    assert part_of("Coffee_TEST") == part_of("test") == "test"
    assert part_of("dev") == part_of("Validation Set") == "validation"
    assert part_of("contest") is part_of("trainer") is part_of("") is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"2020/pos/1.txt": "a", "2021/pos/2.txt": "b"}, "labels 2020, 2021 or .* such as pos?"),
        ({"train/a.txt": "a", "test/b.txt": "b"}, "every file holds one line"),
        ({"train_1/a/1.txt": "a", "train_2/a/1": "b", "test/a/1": "c"}, "which of them is for tr"),
        ({"a/1.csv": "1,2", "b/1.csv": "2,3"}, r"hold .csv files, which are not read"),
        (
            {"a/1.txt": "a", "a/2.html": "b", "b/1.txt": "c", "b/2.html": "d"},
            r"end in '.txt' and in '.html': which are the texts\?",
        ),
        ({"a/1.txt": "a", "unsup/2.txt": "b"}, "no two labels"),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path, files))


def test_files_that_speak_of_the_data_are_no_labels(tmp_path: Path) -> None:
    files = {"Greek.txt": "a\nb", "Irish.txt": "c\nd", "README.txt": "e\nf", "LICENSE.txt": "g"}
    data = read_labelled(write(tmp_path, files))
    assert data.labels == ("Greek", "Irish")
    assert notes(data) == {"ignored: files": 2}


def test_the_same_text_is_trained_on_or_tested(tmp_path: Path) -> None:
    files = {
        "train/a/1.txt": "same",
        "train/a/2.txt": "other",
        "train/b/1.txt": "b",
        "test/a/1.txt": "same",
        "test/b/1.txt": "c",
    }
    data = read_labelled(write(tmp_path, files))
    assert ("same", "a", "test") in found(data)
    assert ("same", "a", "train") not in found(data)
    assert notes(data) == {"dropped: also in the test": 1}


def test_groups_are_found_in_paths(tmp_path: Path) -> None:
    files = {"a/anna-1.txt": "1", "a/ben-1.txt": "2", "b/anna-2.txt": "3"}
    data = read_labelled(write(tmp_path, files), Columns(group=r"/(\w+)-"))
    assert [example.group for example in data.examples] == ["anna", "ben", "anna"]
    with pytest.raises(DataError, match=r"--group 'z\+' finds nothing in a/anna-1.txt"):
        read_labelled(tmp_path, Columns(group="z+"))
    with pytest.raises(DataError, match="not a regular expression"):
        read_labelled(tmp_path, Columns(group="("))


def test_names_in_old_archives_need_their_encoding(tmp_path: Path) -> None:
    path = tmp_path / "old.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("A/1.txt", "a")
        archive.writestr("XXX/1.txt", "b")
    name = "Бык"
    path.write_bytes(path.read_bytes().replace(b"XXX", name.encode("cp866")))
    with pytest.raises(DataError, match=r"the name '\\x81\\xeb\\xaa/1.txt' .* with --encoding"):
        read_labelled(path)
    assert read_labelled(path, encoding="cp866").labels == ("A", name)
    path.write_bytes(path.read_bytes().replace(name.encode("cp866"), "é0".encode()))
    assert read_labelled(path).labels == ("A", "é0")  # macOS writes UTF-8, and does not say so


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"x.zip: not a readable archive"):
        read_labelled(tmp_path / "x.zip")
    with pytest.raises(DataError, match="there is no such file"):
        read_labelled(tmp_path / "no.zip")
