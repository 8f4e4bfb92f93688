"""Labelled sequences as people have them: what is read, what is dropped, what is refused."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import archives, files
from training.data.archives import read_files
from training.data.files import read_text
from training.data.labelled.cleaning import without
from training.data.labelled.examples import Labelled
from training.data.labelled.japanese_vowels import TEST_COUNTS, write_tables
from training.data.labelled.reading import read_labelled
from training.data.labelled.splits import stratified
from training.data.labelled.tables.columns import Columns
from training.errors import DataError

SHARED = Path(__file__).parents[4] / "shared/data"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    return folder


def pairs(data: Labelled) -> list[tuple[Any, str]]:
    return [(example.sequence, example.label) for example in data.examples]


def notes(data: Labelled) -> dict[str, int]:
    """What was done, but for the columns that were taken."""
    return {note.what: note.rows for note in data.notes if note.what != "columns"}


def test_a_folder_per_label_has_a_sequence_per_file(tmp_path: Path) -> None:
    files = {"ham/1.txt": "hi\r\nyou\n", "ham/2.txt": "", "spam/1.txt": "win!", "README": "x"}
    data = read_labelled(write(tmp_path, {**files, "spam/.DS_Store": "\x00"}))
    assert pairs(data) == [("hi\nyou", "ham"), ("win!", "spam")]
    assert data.labels == ("ham", "spam")
    assert notes(data) == {"ignored: files": 1, "dropped: empty": 1}


LINES = {"names/Irish.txt": "Adam\n Quinn \n\nAdam\n", "names/Greek.txt": "Adam\nZográfos"}


@pytest.mark.parametrize("archive", [None, "names.tar.gz", "names.tar"])
def test_a_file_per_label_has_a_sequence_per_line(tmp_path: Path, archive: str | None) -> None:
    path = write(tmp_path / "data", LINES)
    if archive is not None:
        path = tmp_path / archive
        with tarfile.open(path, "w:gz" if archive.endswith("gz") else "w") as file:
            file.add(tmp_path / "data/names", "names")
    data = read_labelled(path)
    assert sorted(pairs(data)) == [
        ("Adam", "Greek"),
        ("Adam", "Irish"),
        ("Quinn", "Irish"),
        ("Zográfos", "Greek"),
    ]
    assert notes(data) == {
        "dropped: empty": 1,
        "dropped: duplicates": 1,
        "kept: one sequence, several labels": 2,
    }
    assert "Irish.txt, line 4" in data.notes[1].detail
    assert data.sha256 == read_labelled(path).sha256


def test_an_archive_writes_nothing_and_follows_no_links(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as file:
        for name in ("/out/A.txt", "/out/B.txt", "../out/D.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            file.addfile(entry, io.BytesIO(b"x\ny\n"))
        link = tarfile.TarInfo("/out/C.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    assert read_labelled(path).labels == ("A", "B")
    assert [child.name for child in tmp_path.iterdir()] == ["bad.tar"]


def tar_of(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """A tar with one entry, and whatever follows its header."""
    return member.tobuf(tarfile.GNU_FORMAT) + content


@pytest.mark.parametrize("way", ["zip", "member", "hidden", "name", "text"])
def test_what_unpacks_to_far_more_than_text_does_is_refused(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is in what nobody reads: hidden files, or the names of others."""
    monkeypatch.setattr(files, "_SURELY_HARMLESS", 2**20)
    zeros = bytes(2**23)
    path = tmp_path / ("bomb.zip" if way == "zip" else "bomb.tar.gz")
    if way == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.txt", zeros)
    elif way == "text":
        path = tmp_path / "bomb.txt.gz"
        path.write_bytes(gzip.compress(zeros))
    else:
        member = tarfile.TarInfo(".hidden" if way == "hidden" else "a.txt")
        member.size = len(zeros)
        member.type = tarfile.GNUTYPE_LONGNAME if way == "name" else tarfile.REGTYPE
        path.write_bytes(gzip.compress(tar_of(member, zeros)))
    with pytest.raises(DataError, match=r"bomb.*: unpacks to more than [0-9,]+ bytes.*take a part"):
        read_text(path) if way == "text" else read_files(path)


@pytest.mark.parametrize("packed", ["tar.bz2", "tar.xz", "tgz", "zip"])
def test_the_number_of_files_is_bounded_and_what_is_broken_is_told(
    tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    path = tmp_path / f"many.{packed}"
    if packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(4):
                archive.writestr(f"{number}.txt", "x")
    else:
        mode: Any = f"w:{packed.replace('tgz', 'gz').removeprefix('tar.')}"
        with tarfile.open(path, mode) as tar:
            for number in range(4):
                tar.addfile(tarfile.TarInfo(f"{number}.txt"))
    with pytest.raises(DataError, match="more than 3 files"):
        read_files(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not a readable archive"):
        read_files(path)


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ('text,label\nhi,a\n"one, two",b\n', {}, [("hi", "a"), ("one, two", "b")]),
        ("Language;Word\nx;hi\ny;ho\n", {}, [("hi", "x"), ("ho", "y")]),
        (
            "id\tsaid\tmood\n1\thi\tgood\n2\tho\tbad\n",
            {"text": "said", "label": "mood"},
            [("hi", "good"), ("ho", "bad")],
        ),
    ],
)
def test_tables_of_texts(
    tmp_path: Path, content: str, columns: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    write(tmp_path, {"data.csv": content})
    assert pairs(read_labelled(tmp_path / "data.csv", Columns(**columns))) == expected


def test_a_packed_table_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    content = 'text,label\n"one, two",a\nho,b\n'
    write(tmp_path, {"data.csv": content})
    (tmp_path / "data.csv.gz").write_bytes(gzip.compress(content.encode()))
    plain, packed = (read_labelled(tmp_path / name) for name in ("data.csv", "data.csv.gz"))
    assert pairs(packed) == pairs(plain) == [("one, two", "a"), ("ho", "b")]
    assert packed.sha256 == plain.sha256


def test_rows_without_text_or_label_are_dropped_and_said(tmp_path: Path) -> None:
    write(tmp_path, {"data.csv": "text,label\nhi,a\n,b\nho,\nha,b\n"})
    data = read_labelled(tmp_path / "data.csv")
    assert pairs(data) == [("hi", "a"), ("ha", "b")]
    assert notes(data) == {"dropped: no text or no label": 2}


def test_a_table_with_a_row_per_step(tmp_path: Path) -> None:
    content = "sequence,step,label,x,y\n7,2,10,3,4\n7,1,10,1,2\n8,1,9,5,6\n9,1,9,5,6\n"
    data = read_labelled(write(tmp_path, {"data.csv": content}) / "data.csv")
    assert data.features == ("x", "y")
    assert data.labels == ("9", "10")  # numbers stand by size
    assert [e.label for e in data.examples] == ["10", "9"]
    np.testing.assert_array_equal(data.examples[0].sequence, np.array([[1, 2], [3, 4]], np.float32))
    assert notes(data) == {"sorted by 'step'": 2, "dropped: duplicates": 1}
    one = read_labelled(tmp_path / "data.csv", Columns(features=("y",)))
    assert one.features == ("y",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows; give a table with a header"),
        ("text,label\n", "no rows"),
        ("text,label\na,b,c\n", r"line 2: 3 fields, but the header names 2"),
        ('text,label\n"a,b\n', r"line 2: .*mend the quotes"),
        ("a,a\n1,2\n3,4\n5,6\n", "names 'a' twice"),
        ("text,mood\na,b\n", r"which column is the label\? .*text, mood.*--label-column"),
        ("u,v,label\n1,2,b\n", r"which column is the text .*--text-column or --sequence-column"),
        ("sequence,label,x\n1,a,2\n1,b,3\n", r"line 3, column 'label': 'b', but .* line 2"),
        ("sequence,label,x\n1,a,2\n1,a,two\n", r"line 3, column 'x': 'two' is not a finite num"),
        ("sequence,label,x\n1,a,inf\n1,a,2\n", r"line 2, column 'x': 'inf' is not a finite number"),
        ("sequence,label,x\n ,a,2\n1,a,2\n1,a,2\n", r"line 2, column 'sequence': it is empty"),
        ("sequence,step,label,x\n1,noon,a,2\n1,2,a,2\n", r"'noon' is not a finite .*--step-column"),
        ("sequence,label\n1,a\n", "no column is left for the numbers"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, {"data.csv": content})
    columns = Columns(sequence="sequence") if content.startswith("sequence,label\n") else Columns()
    with pytest.raises(DataError, match=f"data.csv.*{message}"):
        read_labelled(tmp_path / "data.csv", columns)


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        ({}, {}, "no two labels in it"),
        ({"A.txt": "a\n"}, {}, "no two labels in it"),
        ({"A.txt": "a\n", "B.txt": "b\n"}, {"text": "t"}, "--text-column is for tables"),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, files: dict[str, str], columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path, files), Columns(**columns))


def test_other_encodings_and_broken_archives_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"A.txt": "a\n"})
    (tmp_path / "B.txt").write_bytes("Müller\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"B.txt: not UTF-8"):
        read_labelled(tmp_path)
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"x.tar.gz: not a readable archive"):
        read_labelled(tmp_path / "x.tar.gz")
    with pytest.raises(DataError, match="there is no such file"):
        read_labelled(tmp_path / "no.tar.gz")


def test_what_a_test_holds_is_taken_out_of_training(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": "text,label\nhi,a\nho,b\nhi,b\n", "test.csv": "text,label\nhi,a"})
    left = without(read_labelled(tmp_path / "train.csv"), read_labelled(tmp_path / "test.csv"))
    assert pairs(left) == [("ho", "b"), ("hi", "b")]
    assert left.notes[-1].what == "dropped: also in test.csv"


def test_every_part_has_each_label_in_its_share() -> None:
    targets = np.repeat([0, 1, 2], [100, 40, 1])
    split = stratified(targets, validation=0.1, test=0.2, seed=5)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts)) == list(range(141))
    assert [np.bincount(targets[part], minlength=3).tolist() for part in parts] == [
        [70, 28, 1],
        [10, 4, 0],
        [20, 8, 0],
    ]
    again = stratified(targets, validation=0.1, test=0.2, seed=5)
    other = stratified(targets, validation=0.1, test=0.2, seed=6)
    assert np.array_equal(split.test, again.test)
    assert not np.array_equal(split.test, other.test)


def test_names() -> None:
    path = SHARED / "names.tar.gz"
    if not path.exists():
        pytest.skip("names.tar.gz is not on this machine; it is not part of the project")
    data = read_labelled(path)
    assert len(data.labels) == 18
    assert len(data.examples) == len({(e.sequence, e.label) for e in data.examples}) == 18012
    assert notes(data)["dropped: duplicates"] == 20050 - 18012


def test_japanese_vowels(tmp_path: Path) -> None:
    folder = SHARED / "japanese_vowels"
    if not folder.exists():
        pytest.skip("japanese_vowels is not on this machine; it is not part of the project")
    train, test = (read_labelled(path) for path in write_tables(folder, tmp_path))
    assert train.labels == test.labels == tuple("123456789")
    assert [e.label for e in train.examples] == [str(s) for s in range(1, 10) for _ in range(30)]
    counts = [sum(e.label == label for e in test.examples) for label in test.labels]
    assert tuple(counts) == TEST_COUNTS
    lengths = [len(e.sequence) for e in train.examples + test.examples]
    assert (min(lengths), max(lengths)) == (7, 29)
    assert not any((np.asarray(e.sequence) == 1).all(axis=1).any() for e in train.examples)
