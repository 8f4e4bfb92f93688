"""What is done to labelled sequences of any origin: cut, taken once, kept apart."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.parts import Part
from training.data.notes import Note
from training.errors import DataError


def cut(data: Labelled, longest: int | None) -> Labelled:
    """The first ``longest`` steps of each sequence."""
    long = [e for e in data.examples if longest is not None and len(e.sequence) > longest]
    if not long:
        return data
    note = Note(
        what="cut off: long sequences",
        rows=len(long),
        detail=f"after {longest} steps (--longest); first: {long[0].place}",
    )
    short = tuple(replace(e, sequence=e.sequence[:longest]) for e in data.examples)
    return replace(data, examples=short, notes=(*data.notes, note))


def unique(data: Labelled, path: Path) -> Labelled:
    """Each sequence with its label once in its part, and in none that is trained on if tested.

    Raises:
        DataError: there is no sequence.
    """
    if not data.examples:
        raise DataError(f"{path}: no sequence in it; give at least a few for each label")
    notes = list(data.notes)
    kept: dict[tuple[Part | None, bytes, str], Example] = {}
    repeated: list[Example] = []
    for example in data.examples:
        key = (example.part, example.key, example.label)
        if key in kept:
            repeated.append(example)
        else:
            kept[key] = example
    if repeated:
        detail = f"the same sequence with the same label; first: {repeated[0].place}"
        notes.append(Note(what="dropped: duplicates", rows=len(repeated), detail=detail))
    for held_out, others in (("test", ("train", "validation")), ("validation", ("train",))):
        known = {(key, label) for part, key, label in kept if part == held_out}
        leaked = [k for k in kept if k[0] in others and k[1:] in known]
        if leaked:
            detail = f"a {held_out} must be of new sequences; first: {kept[leaked[0]].place}"
            notes.append(
                Note(what=f"dropped: also in the {held_out}", rows=len(leaked), detail=detail)
            )
            kept = {k: example for k, example in kept.items() if k not in set(leaked)}
    notes += _ambiguous(list(kept.values()))
    notes += _alike({example.label for example in kept.values()})
    return replace(data, examples=tuple(kept.values()), notes=tuple(notes))


def without(data: Labelled, others: Labelled) -> Labelled:
    """``data`` less what stands in ``others`` too, sequence and label."""
    known = {(example.key, example.label) for example in others.examples}
    kept = tuple(e for e in data.examples if (e.key, e.label) not in known)
    if len(kept) == len(data.examples):
        return data
    first = next(e for e in data.examples if (e.key, e.label) in known)
    note = Note(
        what=f"dropped: also in {others.source}",
        rows=len(data.examples) - len(kept),
        detail=f"a test must be of new sequences; first: {first.place}",
    )
    return replace(data, examples=kept, notes=(*data.notes, note))


def _ambiguous(examples: list[Example]) -> list[Note]:
    """A note on sequences with several labels."""
    labels_of: dict[bytes, set[str]] = {}
    for example in examples:
        labels_of.setdefault(example.key, set()).add(example.label)
    found = [example for example in examples if len(labels_of[example.key]) > 1]
    if not found:
        return []
    others = sorted(labels_of[found[0].key])
    return [
        Note(
            what="kept: one sequence, several labels",
            rows=len(found),
            detail=f"nobody can get all of these right; first: {found[0].place}, as "
            f"{' and '.join(others)}",
        )
    ]


def _alike(labels: set[str]) -> list[Note]:
    """A note on labels that differ in capitals and spaces only."""
    times = Counter(" ".join(label.lower().split()) for label in labels)
    found = [x for x in sorted(labels) if times[" ".join(x.lower().split())] > 1]
    if not found:
        return []
    detail = f"labels that differ in capitals only: {', '.join(found[:6])}"
    return [Note(what="kept, but look: labels", rows=len(found), detail=detail)]
