"""A labelled set in any layout is read back as it is, or refused: never otherwise.

``python -m tests.training.data.labelled.test_read_back 5000`` tries as many, from a seed on.
"""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.data.labelled.written import Item, Written
from training.data.labelled.examples import Example
from training.data.labelled.reading import read_labelled
from training.errors import DataError

ALWAYS_READ = {"a_folder_per_label", "a_file_per_label", "a_row_per_step", "ucr", "ts"}
"""Layouts that leave nothing open."""


def item_of(example: Example) -> Item:
    return Item(sequence=example.sequence, label=example.label, part=example.part)


def read_back(seed: int) -> tuple[str, str | None]:
    """The layout of one case, and why it was refused, if it was."""
    folder = Path(tempfile.mkdtemp())
    try:
        case = Written(seed, folder)
        reason = None
        for encoding in dict.fromkeys((None, case.encoding)):  # without it, the same or refused
            try:
                data = read_labelled(case.path, encoding=encoding)
            except DataError as error:
                reason = str(error)
                continue
            reason = None
            found = Counter(item_of(example).key for example in data.examples)
            expected = Counter(item.key for item in case.made)
            assert found == expected, f"case {seed}, {case.layout}: {found - expected} is wrong"
    finally:
        shutil.rmtree(folder)
    return case.layout, reason


@given(seed=st.integers(0, 2**32))
@settings(max_examples=250, deadline=None)
def test_what_is_read_is_what_was_written(seed: int) -> None:
    read_back(seed)


def test_layouts_that_leave_nothing_open_are_read() -> None:
    outcomes = [read_back(seed) for seed in range(120)]
    refused = [outcome for outcome in outcomes if outcome[1] is not None]
    assert not [outcome for outcome in refused if outcome[0] in ALWAYS_READ]
    assert len(refused) < len(outcomes) // 3


def main(count: int, first: int = 0) -> None:
    seen: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    why: dict[str, str] = {}
    wrong = 0
    for seed in range(first, first + count):
        try:
            layout, reason = read_back(seed)
        except Exception as error:
            wrong += 1
            print(f"case {seed}: {type(error).__name__} {str(error)[:300]}")
            continue
        seen[layout] += 1
        refused[layout] += reason is not None
        if reason is not None:
            why.setdefault(layout, reason)
    for layout in sorted(seen):
        print(
            f"{layout}: {seen[layout]} tried, {refused[layout]} refused {why.get(layout, '')[:200]}"
        )
    print(f"{count} cases, {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
