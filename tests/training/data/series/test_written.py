"""Random files of known series: they are read right or refused, and most of them are read."""

import random
import re
from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.training.data.series.forms import RandomChooser
from tests.training.data.series.held import WrongError, in_folder
from tests.training.data.series.read_fuzz import run
from tests.training.data.series.writing import written

T = TypeVar("T")


class DrawnChooser:
    """Chooses what hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def one_of(self, choices: Sequence[T]) -> T:
        """One of several things."""
        return choices[self._data.draw(st.integers(0, len(choices) - 1))]

    def whole(self, least: int, most: int) -> int:
        """A whole number."""
        return self._data.draw(st.integers(least, most))

    def noise(self) -> random.Random:
        """What nothing depends on."""
        return random.Random(self._data.draw(st.integers(0, 1000)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_is_read_right_or_refused(data: st.DataObject) -> None:
    case = written(DrawnChooser(data))
    note(f"{case.how}\n{case.text[:2000]}")
    in_folder(case)


def test_most_files_are_read_right_and_none_wrong() -> None:
    found = run(cases=150, seed=20_000)
    assert found.wrong == []
    assert found.read > 0.8 * 150


@pytest.mark.long
def test_five_thousand_files() -> None:
    assert run(cases=5000, seed=0).wrong == []


def test_what_is_read_wrongly_is_noticed() -> None:
    case = written(RandomChooser(1))
    assert in_folder(case) is None
    name, rows = next(iter(case.series.items()))
    case.series[name] = [rows[1], rows[0], *rows[2:]]
    with pytest.raises(WrongError, match=re.escape(name)):
        in_folder(case)
