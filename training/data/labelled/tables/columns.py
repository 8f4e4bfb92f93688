"""Which columns of a table hold what: as a person says, by their names, or by what is in them."""

import itertools
import re
from dataclasses import dataclass
from enum import StrEnum

from training.data.labelled.parts import part_of, part_word
from training.data.labelled.tables.headers import (
    GROUP_NAMES,
    LABEL_NAMES,
    SEQUENCE_NAMES,
    STEP_NAMES,
    TEXT_NAMES,
    is_number,
)
from training.data.labelled.tables.table import Table
from training.data.notes import Note
from training.errors import DataError

LISTED = 6
"""A note names at most so many columns that are not used."""
FEWEST_STEPS = 8
"""A row of so many numbers without names, behind a label, is a sequence: the UCR archive's form."""


class Layout(StrEnum):
    """What a row is."""

    TEXTS = "a text"
    STEPS = "a step of a sequence"
    WIDE = "a sequence of numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a person says of a table; the rest is found."""

    text: str | None = None
    label: str | None = None
    sequence: str | None = None
    step: str | None = None
    features: tuple[str, ...] = ()
    wide: bool = False
    header: bool | None = None
    group: str | None = None

    @property
    def given(self) -> str | None:
        """An option for tables that was given; None if there is none."""
        options = {
            "--text-column": self.text,
            "--label-column": self.label,
            "--sequence-column": self.sequence,
            "--step-column": self.step,
            "--feature": self.features,
            "--wide": self.wide,
            "--header": self.header is not None,
        }
        return next((option for option, value in options.items() if value), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that were named."""
        named = (self.text, self.label, self.sequence, self.step, self.group, *self.features)
        return tuple(name for name in named if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Columns that a table has."""

    layout: Layout
    label: str
    text: str = ""
    sequence: str = ""
    step: str | None = None
    features: tuple[str, ...] = ()
    """The numbers of a step; in a wide table those of the steps, in order."""
    group: str | None = None
    part: str | None = None
    by_content: bool = False

    def note(self, table: Table) -> Note:
        """What was chosen, and what is left out."""
        words = [f"a row is {self.layout}", f"label '{self.label}'"]
        if self.layout is Layout.TEXTS:
            words.append(f"text '{self.text}'")
        elif self.layout is Layout.WIDE:
            first, last = self.features[0], self.features[-1]
            words.append(f"{len(self.features)} steps '{first}' to '{last}'")
        else:
            words.append(f"sequence '{self.sequence}'")
            words.append(f"step '{self.step}'" if self.step else "in the order of the file")
            words.append(f"numbers {_listed(self.features)}")
        if self.group:
            words.append(f"group '{self.group}'")
        if self.part:
            words.append(f"split '{self.part}'")
        if self.by_content:
            words.append("found by what is in them")
        used = {self.label, self.text, self.sequence, self.step, self.group, self.part}
        left = tuple(n for n in table.header if n not in used and n not in self.features)
        if left:
            words.append(f"not used: {_listed(left)}")
        return Note(what="columns", rows=len(table.rows), detail=", ".join(words))


def choose(table: Table, given: Columns) -> Chosen:
    """The columns of a table.

    Raises:
        DataError: a column is missing, or it is not clear which ones to take.
    """
    return _Choice(table, given).made()


class _Choice:
    def __init__(self, table: Table, given: Columns) -> None:
        self.table = table
        self.given = given
        for name, option in (
            (given.text, "--text-column"),
            (given.label, "--label-column"),
            (given.sequence, "--sequence-column"),
            (given.step, "--step-column"),
            (given.group, "--group"),
            *((feature, "--feature") for feature in given.features),
        ):
            if name is not None:
                table.place(name, option)
        self.part = self._part_column()
        self.label = given.label or self._named(LABEL_NAMES)

    def made(self) -> Chosen:
        given = self.given
        if [given.text is not None, given.wide, bool(given.sequence or given.step)].count(True) > 1:
            raise DataError(
                f"{self.table.path}: a row is a text (--text-column), a step (--sequence-column, "
                "--step-column) or a sequence (--wide): leave out the others"
            )
        if given.text is not None:
            return self._texts(given.text)
        if given.wide:
            return self._wide(given.features or self._rest())
        if given.sequence is not None or given.step is not None or given.features:
            return self._steps()
        text = self._named(TEXT_NAMES)
        if text is not None and text != self.label and not self._is_numeric(text):
            return self._texts(text)
        sequence = self._named(SEQUENCE_NAMES)
        if sequence is not None and sequence != self.label and self._repeats(sequence):
            return self._steps()
        if (steps := self._numbered_steps(sequence)) is not None:
            return self._wide(steps)
        if (pair := self._label_and_text()) is not None:
            label, text = pair
            return Chosen(
                layout=Layout.TEXTS,
                label=label,
                text=text,
                group=given.group,
                part=self.part,
                by_content=self.label is None,
            )
        if self.label is None:
            wide = ", and with --wide if each row is a sequence of numbers"
            has_numbers = any(map(self._is_numeric, self._rest()))
            raise self._unclear("label", f"--label-column{wide if has_numbers else ''}")
        if sequence is not None:
            raise DataError(
                f"{self.table.path}: every '{sequence}' stands in one row; is a row a whole "
                f"sequence (--wide), or one step (--sequence-column '{sequence}')?"
            )
        raise self._unclear(
            "text or of the sequence a step is of",
            "--text-column or --sequence-column, or with --wide if each row is a sequence",
        )

    def _texts(self, text: str) -> Chosen:
        label = self.label
        if label is None and (pair := self._label_and_text(text)) is not None:
            label = pair[0]
        if label is None:
            raise self._unclear("label", "--label-column")
        return Chosen(
            layout=Layout.TEXTS,
            label=label,
            text=text,
            group=self.given.group,
            part=self.part,
            by_content=self.label is None,
        )

    def _steps(self) -> Chosen:
        given = self.given
        if self.label is None:
            raise self._unclear("label", "--label-column")
        sequence = given.sequence or self._named(SEQUENCE_NAMES)
        if sequence is None:
            raise self._unclear(
                "text or of the sequence a step is of", "--text-column or --sequence-column"
            )
        step = given.step or self._named(STEP_NAMES)
        features = given.features or tuple(n for n in self._rest() if n not in (sequence, step))
        if not features:
            raise DataError(f"{self.table.path}: no column is left for the numbers of a step")
        return Chosen(
            layout=Layout.STEPS,
            label=self.label,
            sequence=sequence,
            step=step,
            features=features,
            group=given.group,
            part=self.part,
        )

    def _wide(self, steps: tuple[str, ...]) -> Chosen:
        label = self.label
        if label is None:
            label = self._edge_label()
            steps = tuple(name for name in steps if name != label)
        if not steps:
            raise DataError(f"{self.table.path}: no column is left for the steps of a sequence")
        return Chosen(
            layout=Layout.WIDE,
            label=label,
            features=steps,
            group=self.given.group,
            part=self.part,
            by_content=self.label is None,
        )

    def _numbered_steps(self, sequence: str | None) -> tuple[str, ...] | None:
        """The columns of a row that is a sequence, where their names or their number tell."""
        rest = tuple(name for name in self._rest() if name != sequence)
        if not self.table.has_header:
            steps = tuple(name for name in self._rest(with_label=True)[1:] if name != sequence)
            is_behind = self.label in (None, self.table.header[0])
            if not is_behind or len(steps) < FEWEST_STEPS or not all(map(self._is_numeric, steps)):
                return None
            return steps if self.label or self._edge_label() == self.table.header[0] else None
        names = [name for name in rest if name != self.label]
        if self.label is None:
            names = [name for name in names if re.search(r"\d$", name)]
        matches = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
        if len(names) < 2 or not all(matches):
            return None
        found = [match for match in matches if match is not None]
        numbers = [int(match[2]) for match in found]
        is_counted = len({match[1] for match in found}) == 1 and all(
            after > before for before, after in itertools.pairwise(numbers)
        )
        others = [name for name in rest if name not in names and name != self.label]
        if not is_counted or len(others) > (self.label is None):
            return None
        if not all(is_number(field) for name in names for field in self.table.column(name)):
            return None
        if self.label is None:
            if len(others) != 1:
                return None
            self.label = others[0]
        return tuple(names)

    def _edge_label(self) -> str:
        """The label's column in a row of numbers without names: the first or the last."""
        rest = self._rest()
        edges = [name for name in dict.fromkeys((rest[0], rest[-1])) if self._may_label(name)]
        if len(edges) == 2 and part_of(self.table.path.stem.split(".")[0]) is not None:
            edges = edges[:1]  # named as in the UCR archive, whose labels come first
        if len(edges) != 1:
            raise self._unclear("label", "--label-column")
        return edges[0]

    def _label_and_text(self, text: str | None = None) -> tuple[str, str] | None:
        """The two columns of a table that has no others with much in them, told by content."""
        columns = [name for name in self._rest(with_label=True) if self._is_filled(name)]
        if len(columns) != 2 or any(map(self._is_numeric, set(columns) - {self.label})):
            return None
        if self.label is not None:
            return (self.label, columns[1 - columns.index(self.label)])
        first, second = columns
        if text is not None:
            label = second if text == first else first
            return (label, text) if self._may_label(label) else None
        for label, other in ((first, second), (second, first)):
            different = len(set(self.table.column(other)))
            if self._may_label(label) and different > 2 * len(set(self.table.column(label))):
                return label, other
        return None

    def _rest(self, *, with_label: bool = False) -> tuple[str, ...]:
        """The columns that are left for content: no group, split or number of the row."""
        taken = {self.given.group, self.part, None if with_label else self.label}
        names = [name for name in self.table.header if name not in taken]
        return tuple(name for name in names if not self._counts_rows(name))

    def _counts_rows(self, name: str) -> bool:
        """Whether a column without a name numbers the rows, as pandas writes it."""
        if name != "Unnamed: 0":
            return False
        fields = self.table.column(name)
        if not all(field.isdecimal() for field in fields):
            return False
        return all(before < after for before, after in itertools.pairwise(map(int, fields)))

    def _named(self, names: tuple[str, ...]) -> str | None:
        found = self.table.named(names)
        return None if found in (self.part, self.given.group) else found

    def _part_column(self) -> str | None:
        """A column that says which rows are for training and which for testing."""
        for name in self.table.header:
            if name in self.given.names or name.lower() in (*LABEL_NAMES, *TEXT_NAMES):
                continue
            parts = set()
            for field in dict.fromkeys(self.table.column(name)):
                parts.add(part_word(field))
                if None in parts:
                    break
            else:
                if len(parts) > 1:
                    return name
        return None

    def _is_numeric(self, name: str) -> bool:
        fields = self.table.column(name)
        return any(fields) and all(map(is_number, fields))

    def _is_filled(self, name: str) -> bool:
        fields = self.table.column(name)
        return sum(map(bool, fields)) > len(fields) // 2

    def _repeats(self, name: str) -> bool:
        fields = self.table.column(name)
        return len(set(fields)) < len(fields)

    def _may_label(self, name: str) -> bool:
        """Whether a column holds few different things, and whole ones if they are numbers."""
        fields = [field for field in self.table.column(name) if field]
        if not 1 < len(set(fields)) <= len(fields) // 2 or max(map(len, fields)) > 60:
            return False
        return all(not is_number(field) or float(field).is_integer() for field in set(fields))

    def _unclear(self, what: str, option: str) -> DataError:
        return DataError(
            f"{self.table.path}: which column is the {what}? (it has: {self.table.listed()}); "
            f"say so with {option}"
        )


def suspected_group(table: Table, chosen: Chosen) -> Note | None:
    """A note on a column that looks like one of recordings or people, where none was named."""
    name = table.named(GROUP_NAMES)
    if name is None or chosen.group or name in (chosen.label, chosen.text, chosen.sequence):
        return None
    return Note(
        what="kept, but look: no groups",
        rows=len(set(table.column(name))),
        detail=f"sequences of one '{name}' may be on both sides of the split: --group {name}",
    )


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
