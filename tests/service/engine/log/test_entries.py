"""Entries: read again as they were written, in as few bytes as hold them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.engine.log.groups.entries import Entry, Steps, steps_section
from service.store.records import pack, unpack

_INTEGERS = st.one_of(arrays.integer_dtypes(), arrays.unsigned_integer_dtypes())


@given(st.data())
def test_inputs_of_any_integers_are_read_as_they_were(data: st.DataObject) -> None:
    kind = data.draw(_INTEGERS)
    parts = data.draw(
        st.lists(arrays.arrays(kind, arrays.array_shapes(max_dims=1)), min_size=1, max_size=3)
    )
    entries = [
        Entry("m/1", np.arange(len(part)) + 2**33, np.arange(len(part)), 1, 0, part)
        for part in parts
    ]
    (section,) = unpack(pack([steps_section("m/1", entries)]))
    found = Steps.of(section)
    assert np.array_equal(found.inputs, np.concatenate(parts))
    assert np.array_equal(found.sessions, np.concatenate([entry.sessions for entry in entries]))
    assert np.array_equal(found.positions, np.concatenate([entry.positions for entry in entries]))


def test_a_token_takes_one_byte() -> None:
    rows = 256
    entry = Entry("m/1", np.arange(rows), np.full(rows, 70_000), 1, 0, np.full(rows, 200))
    section = steps_section("m/1", [entry])
    sizes = {name: column.itemsize for name, column in section.columns.items()}
    assert sizes == {"session": 1, "position": 4, "inputs": 1}
