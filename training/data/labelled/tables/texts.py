"""Tables with a text and its label in each row."""

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.parts import part_word
from training.data.labelled.tables.columns import Chosen
from training.data.labelled.tables.table import Table
from training.data.notes import Note


def read_texts(table: Table, chosen: Chosen) -> Labelled:
    """Read the texts; rows that lack text or label are dropped."""
    texts, dropped = [], []
    rows = zip(table.rows, table.column(chosen.text), table.column(chosen.label), strict=True)
    parts = table.column(chosen.part) if chosen.part else [""] * len(table.rows)
    groups = table.column(chosen.group) if chosen.group else [""] * len(table.rows)
    for (row, text, label), part, group in zip(rows, parts, groups, strict=True):
        place = f"line {row.line}"
        if text and label:
            texts.append(
                Example(sequence=text, label=label, place=place, part=part_word(part), group=group)
            )
        else:
            dropped.append(place)
    notes: tuple[Note, ...] = ()
    if dropped:
        detail = f"first: {dropped[0]}"
        notes = (Note(what="dropped: no text or no label", rows=len(dropped), detail=detail),)
    return Labelled(examples=tuple(texts), source=table.path.name, notes=notes)
