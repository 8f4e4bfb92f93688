"""Writes labelled sequences in the layouts that people have them in, drawn from a seed."""

import csv
import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

LETTERS = "aabbc deéñ中я,;'.!?10"
LINE_LETTERS = LETTERS + '"|'
WORDS = ("ham", "spam", "neg", "pos", "Irish", "été", "1", "2", "10", "-1", "a b", "name", "y")
NUMBERS = ("1", "2", "3", "-1", "0", "10")
Files = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A sequence, a string or ``(steps, features)``, with its label and its part, if any."""

    sequence: str | np.ndarray
    label: str
    part: str | None

    @property
    def key(self) -> tuple[str | bytes, int, str, str | None]:
        """Equal for what is the same."""
        if isinstance(self.sequence, str):
            return (self.sequence, 0, self.label, self.part)
        return (self.sequence.tobytes(), len(self.sequence), self.label, self.part)


class Written:
    """One data set, written in one layout; a seed draws both."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.is_split = self.dice.random() < 0.4
        self.encoding = self.dice.choice((None, None, None, "gb18030", "utf-16"))
        """What files are written in; UTF-8 where it is none."""
        layout = self.dice.choice(LAYOUTS)
        self.layout = layout.__name__
        self.path = layout(self)
        """What to read."""

    def items(self, make: Callable[[], str | np.ndarray], labels: Iterable[str]) -> list[Item]:
        """Different sequences of two to four labels; each label is in the training part."""
        self.made: list[Item] = []
        chosen = self.dice.sample(sorted(labels), self.dice.randint(2, 4))
        known: set[str | bytes] = set()
        for label in chosen:
            for number in range(self.dice.randint(2, 9)):
                sequence = make()
                key = sequence if isinstance(sequence, str) else sequence.tobytes()
                if key in known:
                    continue
                known.add(key)
                part = None
                if self.is_split:
                    part = "train" if number < 2 else self.dice.choice(("train", "test"))
                self.made.append(Item(sequence=sequence, label=label, part=part))
        if self.is_split and not any(item.part == "test" for item in self.made):
            self.made.append(Item(sequence=make_other(make, known), label=chosen[0], part="test"))
        self.dice.shuffle(self.made)
        return self.made

    def text(self, letters: str = LINE_LETTERS) -> str:
        """A text that stays what it is when stripped."""
        while True:
            text = "".join(self.dice.choices(letters, k=self.dice.randint(1, 14))).strip()
            if text:
                return text

    def numbers(self, features: int = 1) -> np.ndarray:
        """(steps, features) float32; whole numbers at times."""
        steps = self.dice.randint(1, 14)
        scale = self.dice.choice((1, 8))
        draw = [[self.dice.randint(-40, 40) / scale for _ in range(features)] for _ in range(steps)]
        return np.array(draw, np.float32)

    def encoded(self, text: str) -> bytes:
        return text.encode(self.encoding or "utf-8")

    def part_name(self, part: str) -> str:
        return {"train": self.train_name, "test": self.test_name}[part]

    def name_parts(self) -> None:
        pairs = [("train", "test"), ("TRAIN", "TEST"), ("training", "testing"), ("train", "val")]
        self.train_name, self.test_name = self.dice.choice(pairs[:3])

    def pack(self, files: Files) -> Path:
        """The files in a folder, a ZIP or a tar archive, maybe with a folder around them."""
        if self.dice.random() < 0.5:
            files = {f"data set/{name}": text for name, text in files.items()}
        if self.dice.random() < 0.3:
            name = next(iter(files)).rsplit("/", 1)[0] if "/" in next(iter(files)) else ""
            outer = "data set" if name.startswith("data set") else ""
            files |= {
                f"{outer}/README".lstrip("/"): "About.\nThis.",
                f"{outer}/.x".lstrip("/"): "-",
            }
        kind = self.dice.choice(("folder", "zip", "tar.gz"))
        path = self.folder / ("data" if kind == "folder" else f"data.{kind}")
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in files.items():
                    archive.writestr(name, self.encoded(text))
        elif kind == "tar.gz":
            with tarfile.open(path, "w:gz") as tar:
                for name, text in files.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(self.encoded(text))
                    tar.addfile(entry, io.BytesIO(self.encoded(text)))
        else:
            for name, text in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(self.encoded(text))
        return path

    def file(self, name: str, text: str) -> Path:
        """A file, packed at times."""
        if self.dice.random() < 0.2:
            path = self.folder / f"{name}.gz"
            path.write_bytes(gzip.compress(self.encoded(text)))
        else:
            path = self.folder / name
            path.write_bytes(self.encoded(text))
        return path

    def table(self, rows: list[list[str]], separator: str) -> str:
        """Rows as CSV has them."""
        out = io.StringIO()
        quoting: Literal[0, 1] = csv.QUOTE_ALL if self.dice.random() < 0.5 else csv.QUOTE_MINIMAL
        ends = self.dice.choice(("\n", "\r\n"))
        csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=ends).writerows(rows)
        return out.getvalue()


def make_other(make: Callable[[], str | np.ndarray], known: set[str | bytes]) -> str | np.ndarray:
    while True:
        sequence = make()
        if (sequence if isinstance(sequence, str) else sequence.tobytes()) not in known:
            return sequence


def a_folder_per_label(case: Written) -> Path:
    case.name_parts()
    inside = case.dice.random() < 0.3
    ending = case.dice.choice((".txt", "", ".md"))
    files = {}
    for number, item in enumerate(case.items(lambda: case.text(LINE_LETTERS + "\n\t"), WORDS)):
        folders = [item.label]
        if item.part is not None:
            folders.insert(1 if inside else 0, case.part_name(item.part))
        files["/".join([*folders, f"{number}{ending}"])] = str(item.sequence)
        if item.part == "train" and not inside and case.dice.random() < 0.1:
            files[f"{case.train_name}/unsup/{number}{ending}"] = "nobody knows"
    return case.pack(files)


def a_file_per_label(case: Written) -> Path:
    case.name_parts()
    lines: dict[str, list[str]] = {}
    for item in case.items(case.text, WORDS):
        folder = "" if item.part is None else f"{case.part_name(item.part)}/"
        lines.setdefault(f"{folder}{item.label}.txt", []).append(str(item.sequence))
    end = case.dice.choice(("\n", ""))
    return case.pack({name: "\n".join(texts) + end for name, texts in lines.items()})


def texts_with_header(case: Written) -> Path:
    items = case.items(lambda: case.text(LINE_LETTERS + "\n\t"), WORDS)
    names = case.dice.choice((("text", "label"), ("Message", "Category"), ("v2", "v1")))
    rows = [list(names), *([str(item.sequence), item.label] for item in items)]
    return _finished(case, rows, items, ".csv")


def texts_without_header(case: Written) -> Path:
    items = case.items(case.text, WORDS)
    return _finished(case, [[str(item.sequence), item.label] for item in items], items, ".csv")


def texts_between_tabs(case: Written) -> Path:
    """As they stand: quotes are letters."""
    case.is_split = False
    items = case.items(case.text, WORDS)
    rows = [f"{item.label}\t{item.sequence}" for item in items]
    if case.dice.random() < 0.5:
        rows.insert(0, "label\ttext")
    return case.file("data.tsv", "\n".join(rows) + "\n")


def _finished(case: Written, rows: list[list[str]], items: list[Item], ending: str) -> Path:
    """Columns in any order, more columns, and parts in a column or in files of their own."""
    separator = case.dice.choice(",;\t|")
    has_header = len(rows) > len(items)
    begin = int(has_header)
    if has_header and case.dice.random() < 0.3:
        rows = [["" if n < begin else str(n - begin), *row] for n, row in enumerate(rows)]
    elif case.dice.random() < 0.4:
        rows = [[*row[1:], row[0]] for row in rows]
    if case.dice.random() < 0.2:
        rows = [[*row, "", ""] for row in rows]
    if not case.is_split:
        return case.file(f"data{ending}", case.table(rows, separator))
    case.name_parts()
    if case.dice.random() < 0.5:
        names = [*(["part"] if has_header else []), *(case.part_name(str(i.part)) for i in items)]
        rows = [[*row, name] for row, name in zip(rows, names, strict=True)]
        return case.file(f"data{ending}", case.table(rows, separator))
    files = {}
    for part in ("train", "test"):
        own = [row for row, item in zip(rows[begin:], items, strict=True) if item.part == part]
        files[f"{case.part_name(part)}{ending}"] = case.table([*rows[:begin], *own], separator)
    return case.pack(files)


def a_row_per_step(case: Written) -> Path:
    features = case.dice.randint(1, 3)
    items = case.items(lambda: case.numbers(features), WORDS)
    has_step, has_part = case.dice.random() < 0.6, case.is_split
    case.name_parts()
    header = ["sequence", *(["step"] if has_step else []), "label", *"xyz"[:features]]
    rows = []
    for number, item in enumerate(items):
        for step, values in enumerate(item.sequence):
            row = [str(number), *([str(step)] if has_step else []), item.label]
            row += [repr(float(value)) for value in values]
            rows.append([*row, case.part_name(str(item.part))] if has_part else row)
    if has_step:
        case.dice.shuffle(rows)
    rows.insert(0, [*header, "split"] if has_part else header)
    return case.file("data.csv", case.table(rows, case.dice.choice(",;\t")))


def a_row_per_sequence(case: Written) -> Path:
    items = case.items(case.numbers, (*NUMBERS, "ham", "spam"))
    longest = max(len(item.sequence) for item in items)
    begin = case.dice.choice((0, 1))
    prefix = case.dice.choice(("t", "step_", ""))
    rows = [["label", *(f"{prefix}{n + begin}" for n in range(longest))]]
    for item in items:
        values = [repr(float(value)) for value in np.ravel(item.sequence)]
        rows.append([item.label, *values, *["" for _ in range(longest - len(values))]])
    return _finished(case, rows, items, ".csv")


def ucr(case: Written) -> Path:
    items = case.items(case.numbers, NUMBERS)
    longest = max(len(item.sequence) for item in items)
    separator, ending = case.dice.choice((("\t", ".tsv"), (",", ".txt"), ("  ", ".txt")))
    is_float = case.dice.random() < 0.3
    parts: dict[str | None, list[str]] = {}
    for item in items:
        values = [f"{float(value):.7e}" for value in np.ravel(item.sequence)]
        values += ["NaN"] * (longest - len(values))
        label = f"{float(item.label):.7e}" if is_float else item.label
        parts.setdefault(item.part, []).append(separator.join([label, *values]))
    if None in parts:
        return case.file(f"data{ending}", "\n".join(parts[None]) + "\n")
    return case.pack({f"Coffee_{str(p).upper()}{ending}": "\n".join(r) for p, r in parts.items()})


def ts(case: Written) -> Path:
    features = case.dice.choice((1, 1, 2, 3))
    items = case.items(lambda: case.numbers(features), ("ham", "spam", "1", "2", "3"))
    labels = sorted({item.label for item in items})
    head = ["# made up", "@problemName Coffee", "@timeStamps false", "@missing false"]
    head += [f"@univariate {str(features == 1).lower()}"]
    head += [f"@dimensions {features}"] if features > 1 else []
    head += [f"@classLabel true {' '.join(labels)}", "@data"]
    parts: dict[str | None, list[str]] = {}
    for item in items:
        assert not isinstance(item.sequence, str)
        columns = [",".join(repr(float(v)) for v in column) for column in item.sequence.T]
        parts.setdefault(item.part, []).append(":".join([*columns, item.label]))
    if None in parts:
        return case.file("data.ts", "\n".join([*head, *parts[None]]))
    return case.pack(
        {f"Coffee_{str(p).upper()}.ts": "\n".join([*head, *r]) for p, r in parts.items()}
    )


LAYOUTS = (
    a_folder_per_label,
    a_file_per_label,
    texts_with_header,
    texts_without_header,
    texts_between_tabs,
    a_row_per_step,
    a_row_per_sequence,
    ucr,
    ts,
)
