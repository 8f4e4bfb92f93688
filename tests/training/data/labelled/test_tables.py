"""Tables as people have them: with and without headers, wide, and in the forms of archives."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.labelled.examples import Labelled
from training.data.labelled.reading import read_labelled
from training.data.labelled.tables.columns import Columns
from training.errors import DataError

MESSAGES = [("ham", f"see you at {n}") for n in range(6)] + [
    ("spam", f"win a prize, call {n}") for n in range(6)
]


def read(tmp_path: Path, content: str, name: str = "data.csv", **columns: Any) -> Labelled:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content.encode())
    return read_labelled(path, Columns(**columns))


def pairs(data: Labelled) -> list[tuple[Any, str]]:
    return [
        (e.sequence if isinstance(e.sequence, str) else e.sequence.tolist(), e.label)
        for e in data.examples
    ]


def notes(data: Labelled) -> dict[str, str]:
    return {note.what: note.detail for note in data.notes}


def test_a_table_like_the_collection_of_spam(tmp_path: Path) -> None:
    rows = "".join(f'{label},"{text}",,,\r\n' for label, text in MESSAGES)
    data = read(tmp_path, f"v1,v2,,,\r\n{rows}")
    assert pairs(data) == [(text, label) for label, text in MESSAGES]
    assert notes(data) == {
        "ignored: empty columns": "without a name or any content",
        "columns": "a row is a text, label 'v1', text 'v2', found by what is in them",
    }
    data = read(tmp_path, f"v1,v2,,,\r\n{rows}ham,late,more,,\r\n")
    assert data.examples[-1].sequence == "late"
    assert "not used: Unnamed: 2" in notes(data)["columns"]


def test_a_first_line_that_names_the_separator(tmp_path: Path) -> None:
    rows = "".join(f"{label};{text}\r\n" for label, text in MESSAGES)
    data = read(tmp_path, f"sep=;\r\nlabel;text\r\n{rows}")
    assert pairs(data) == [(text, label) for label, text in MESSAGES]
    assert "'sep=;'" in notes(data)["left out: the first line"]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    content = "".join(f"{label}\t{text}\n" for label, text in MESSAGES)
    data = read(tmp_path, content, "SMSSpamCollection")
    assert pairs(data) == [(text, label) for label, text in MESSAGES]
    assert notes(data)["no header"] == "columns are named 1 to 2"
    with zipfile.ZipFile(tmp_path / "sms.zip", "w") as archive:
        archive.writestr("readme", "about")
        archive.writestr("SMSSpamCollection", content)
    assert pairs(read_labelled(tmp_path / "sms.zip")) == pairs(data)
    named = read(tmp_path, content, text="2")
    assert pairs(named) == pairs(data)


def test_quotes_between_tabs_may_be_letters(tmp_path: Path) -> None:
    content = 'label\ttext\na\t"Are you\nb\tthere?" he said\na\tsay "hi"\nb\tno\n'
    data = read(tmp_path, content, "data.tsv")
    assert pairs(data) == [
        ('"Are you', "a"),
        ('there?" he said', "b"),
        ('say "hi"', "a"),
        ("no", "b"),
    ]
    assert "quotes" in notes(data)
    with pytest.raises(DataError, match="line 3: is the quote that ends here part of the text"):
        read(tmp_path, 'label\ttext\na\t"Are you\nb\tthere?"\nc\tsay "hi"\n', "data.tsv")
    quoted = read(tmp_path, 'label\ttext\na\t"one\ttwo"\nb\t"say ""hi"""\n', "data.tsv")
    assert pairs(quoted) == [("one\ttwo", "a"), ('say "hi"', "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hi,good\nho,bad\n", "line 1: does it name the columns, or is it the .*--header yes or"),
        ("text,y\nhi,x\nho,y\n", "line 1: does it name .*stands in other rows"),
        ("hi, you;good\nho, me;bad\n", "every line has as many ',' or ';'"),
        ("a,b,label\n1,2,x\n3,4,y\n5,6,x\n", "--wide if each row is a sequence"),
        ("id,label,a,b\n1,x,2,3\n2,y,3,4\n3,x,4,5\n", "every 'id' stands in one row; .*--wide"),
        ("sequence,label,x\n1,a,2\n2,a,3\n1,a,4\n", r"line 4: sequence '1' goes on after '2' beg"),
        ("sequence,step,label,x\n1,1,a,2\n1,1,a,3\n", r"line 3: step 1 of sequence '1' stands in"),
        ("label,t0,t1,t2\na,1,,3\nb,1,2,3\na,1,2,4\n", r"line 2, column 't1': is missing; mend"),
        ("label,t0,t1\na,1,x\nb,1,2\na,1,2\n", "which column is the text"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=f"data.csv.*{message}"):
        read(tmp_path, content)


def test_a_person_says_whether_there_is_a_header(tmp_path: Path) -> None:
    content = "hi,good\nho,bad\nhu,good\n"
    without = read(tmp_path, content, header=False, label="2")
    assert pairs(without) == [("hi", "good"), ("ho", "bad"), ("hu", "good")]
    with_one = read(tmp_path, content, header=True, label="good")
    assert pairs(with_one) == [("ho", "bad"), ("hu", "good")]


def test_a_row_may_be_a_sequence(tmp_path: Path) -> None:
    content = "id,label,t1,t2,t3\n7,a,1,2,3\n8,b,4,5,\n9,a,6,,\n"
    data = read(tmp_path, content)
    assert pairs(data) == [([[1], [2], [3]], "a"), ([[4], [5]], "b"), ([[6]], "a")]
    assert data.features == ("value",)
    assert "3 steps 't1' to 't3', not used: id" in notes(data)["columns"]
    assert notes(data)["shorter sequences"] == "missing numbers at the end of a row are no steps"
    plain = read(tmp_path, "x,b,label\n1,2,k\n3,4,l\n5,6,k\n", wide=True)
    assert pairs(plain) == [([[1], [2]], "k"), ([[3], [4]], "l"), ([[5], [6]], "k")]


WAVES = np.round(np.sin(np.arange(9)[None, :] * 0.7 + np.arange(12)[:, None]), 5)
UCR = [[f"{n % 2 + 1}", *map(str, row)] for n, row in enumerate(WAVES.tolist())]


@pytest.mark.parametrize("separator", ["\t", ",", "  "])
@pytest.mark.parametrize("name", ["wave_TRAIN.tsv", "wave.txt"])
def test_ucr(tmp_path: Path, separator: str, name: str) -> None:
    data = read(tmp_path, "\n".join(separator.join(row) for row in UCR), name)
    assert data.labels == ("1", "2")
    np.testing.assert_allclose(np.array([e.sequence for e in data.examples])[..., 0], WAVES)


def test_ucr_of_different_lengths_with_labels_as_numbers(tmp_path: Path) -> None:
    rows = [[f"{float(row[0]):.7e}", *row[1:]] for row in UCR]
    rows[3][-2:] = ["NaN", "NaN"]
    data = read(tmp_path, "\n".join("\t".join(row) for row in rows), "wave_TRAIN.tsv")
    assert data.labels == ("1", "2")
    assert [len(e.sequence) for e in data.examples][2:5] == [9, 7, 9]
    rows[3][2] = "NaN"
    with pytest.raises(DataError, match=r"line 4, column '3': is missing"):
        read(tmp_path, "\n".join("\t".join(row) for row in rows), "wave_TRAIN.tsv")


def test_whole_numbers_on_both_edges_may_both_be_labels(tmp_path: Path) -> None:
    rows = [["1", *["7"] * 9, str(n % 3)] if n % 2 else ["2", *["8"] * 9, "0"] for n in range(9)]
    content = "\n".join(",".join(row) for row in rows)
    with pytest.raises(DataError, match=r"which column is the label\? .*--label-column"):
        read(tmp_path, content)
    with pytest.raises(DataError, match="with --wide if each row is"):
        read(tmp_path, content, label="11")  # nor is it clear that a row is no single step
    assert read(tmp_path, content, label="11", wide=True).labels == ("0", "1", "2")
    assert read(tmp_path, content, "some_TRAIN.txt").labels == ("1", "2")


def test_parts_in_files_of_their_own(tmp_path: Path) -> None:
    halves = {"TRAIN": UCR[:8], "TEST": UCR[8:]}
    for part, rows in halves.items():
        (tmp_path / f"wave_{part}.tsv").write_text("\n".join("\t".join(row) for row in rows))
        (tmp_path / f"wave_{part}.txt").write_text("\n".join("  ".join(row) for row in rows))
    (tmp_path / "README.md").write_text("about")
    data = read_labelled(tmp_path)
    assert [e.part for e in data.examples] == ["train"] * 8 + ["test"] * 4
    assert notes(data)["ignored: files"] == "not part of the layout; first: README.md"
    alone = read_labelled(tmp_path / "wave_TRAIN.tsv")
    assert "--test wave_TEST.tsv takes that one" in notes(alone)["not read: a test beside it"]
    (tmp_path / "wave_train.tsv.gz").write_bytes(gzip.compress(b"1\t2"))
    with pytest.raises(DataError, match="are both the train part; take one out"):
        read_labelled(tmp_path)


def test_parts_in_a_column(tmp_path: Path) -> None:
    rows = "".join(
        f"{text},{label},{'TEST' if n % 3 else 'train'}\n"
        for n, (label, text) in enumerate(
            (label, text.replace(",", "")) for label, text in MESSAGES
        )
    )
    data = read(tmp_path, f"text,label,which\n{rows}")
    assert [e.part for e in data.examples][:4] == ["train", "test", "test", "train"]
    assert "split 'which'" in notes(data)["columns"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": "text,label\na,x", "test.tsv": "text\tlabel\nb\tx"}, "in different forms"),
        ({"A_TRAIN.ts": "@data", "B_TEST.ts": "@data"}, r"several data sets in it \(a, b\)"),
        ({"a.csv": "text,label\na,x", "b.csv": "text,label\nb,y"}, "several tables in it"),
    ],
)
def test_folders_of_tables_that_do_not_fit(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path)


TS = """#A comment
@problemName Steps
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
1,2,3:4,5,6:up

7,8,?:9,10,NaN:down
"""


def test_ts(tmp_path: Path) -> None:
    data = read(tmp_path, TS, "steps.ts")
    assert pairs(data) == [
        ([[1, 4], [2, 5], [3, 6]], "up"),
        ([[7, 9], [8, 10]], "down"),
    ]
    assert data.features == ("value_1", "value_2")
    one = TS.replace("false\n@dim", "true\n@dim").replace(":4,5,6", "").replace(":9,10,NaN", "")
    assert read(tmp_path, one, "steps.ts").features == ("value",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("@data", ""), "line 10: it comes before @data"),
        (("@timeStamps false", "@timeStamps true"), "it has times beside its values"),
        (("@classLabel true up down", "@classLabel false"), "it has no labels"),
        (("@classLabel true up down", "@targetLabel true"), "its targets are numbers"),
        (("6:up", "6:sideways"), "line 10: label 'sideways' is not one that @classLabel names"),
        (("4,5,6:", ""), "line 10: 1 dimensions, but the head says 2"),
        (("4,5,6", "4,5"), "line 10: its dimensions have 2 to 3 steps"),
        (("2,3", "?,3"), "line 10, dimension 1, step 2: '\\?' is missing|step 2: is missing"),
        (("2,3", "x,3"), "line 10, dimension 1, step 2: 'x' is not a finite number"),
    ],
)
def test_ts_that_cannot_be_used(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(DataError, match=f"steps.ts.*{message}"):
        read(tmp_path, TS.replace(*change, 1), "steps.ts")


def test_a_column_of_people_is_pointed_at_and_taken(tmp_path: Path) -> None:
    content = "text,label,speaker\na,x,anna\nb,y,anna\nc,x,ben\n"
    data = read(tmp_path, content)
    assert notes(data)["kept, but look: no groups"].endswith("--group speaker")
    grouped = read(tmp_path, content, group="speaker")
    assert [e.group for e in grouped.examples] == ["anna", "anna", "ben"]
    assert "kept, but look: no groups" not in notes(grouped)
    with pytest.raises(DataError, match=r"no column 'who' .*choose one with --group"):
        read(tmp_path, content, group="who")
