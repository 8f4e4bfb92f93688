"""Records: what goes in comes out, and a flipped byte is found wherever it is."""

from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.store.records import VERSION, DamagedError, NewerError, Section, pack, unpack

NAMES = st.text(max_size=8)
DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.datetime64_dtypes(endianness="?"),
)
COLUMNS = st.dictionaries(
    NAMES,
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)),
    max_size=4,
)
META = st.dictionaries(
    NAMES, st.one_of(st.text(max_size=8), st.integers(), st.floats(allow_nan=False)), max_size=3
)
SECTIONS = st.lists(st.builds(Section, NAMES, META, COLUMNS), max_size=3)
GROUP = Section(
    "steps",
    {"shard": 0},
    {
        "session": np.arange(256, dtype=np.int64),
        "before": np.arange(256, dtype=np.int64),
        "token": np.arange(256, dtype=np.int32),
        "flags": np.zeros(256, np.uint8),
    },
)


def assert_column(read: np.ndarray[Any, Any], written: np.ndarray[Any, Any]) -> None:
    assert read.dtype == written.dtype.newbyteorder("<")
    assert read.shape == written.shape
    assert read.tobytes() == written.astype(read.dtype).tobytes()


@given(SECTIONS)
def test_what_is_packed_is_read_bit_for_bit(sections: list[Section]) -> None:
    read = unpack(pack(sections))
    assert [(each.kind, each.meta) for each in read] == [
        (each.kind, each.meta) for each in sections
    ]
    for one, other in zip(read, sections, strict=True):
        assert list(one.columns) == list(other.columns)
        for name, column in other.columns.items():
            assert_column(one.columns[name], column)
            assert not one.columns[name].flags.writeable


@given(SECTIONS, st.data())
def test_a_flipped_byte_is_found_and_the_sound_columns_are_read(
    sections: list[Section], data: st.DataObject
) -> None:
    packed = bytearray(pack(sections))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError) as caught:
        unpack(bytes(packed))
    assert "\n" not in str(caught.value)
    read = caught.value.sections
    if not read:
        return
    lost = 0
    for one, other in zip(read, sections, strict=True):
        lost += len(other.columns) - len(one.columns)
        for name, column in one.columns.items():
            assert_column(column, other.columns[name])
    assert lost == 1


@given(SECTIONS, st.data())
def test_a_record_that_was_cut_or_goes_on_is_found(
    sections: list[Section], data: st.DataObject
) -> None:
    packed = pack(sections)
    with pytest.raises(DamagedError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(DamagedError):
        unpack(packed + b"\0")


def test_columns_before_the_cut_are_read() -> None:
    with pytest.raises(DamagedError, match=r"steps\.flags") as caught:
        unpack(pack([GROUP])[:-1])
    (section,) = caught.value.sections
    assert list(section.columns) == ["session", "before", "token"]


def test_a_newer_format_is_not_read_as_damage() -> None:
    packed = bytearray(pack([GROUP]))
    struct.pack_into("<H", packed, 4, VERSION + 1)
    _, _, count, length = struct.unpack_from("<4sHHI", packed)
    whole = crc32(packed[16 : 16 + length + 4 * count], crc32(packed[:12]))
    struct.pack_into("<I", packed, 12, whole)
    with pytest.raises(NewerError, match=f"version {VERSION + 1}"):
        unpack(bytes(packed))


def test_numbers_that_are_equal_are_read_as_what_they_were() -> None:
    for value in (1, 1.0, 0.0, -0.0):
        (section,) = unpack(pack([Section("kind", {"value": value}, {})]))
        assert repr(section.meta["value"]) == repr(value)


def test_a_group_has_few_bytes_more_than_its_columns() -> None:
    assert len(pack([GROUP])) - sum(each.nbytes for each in GROUP.columns.values()) < 200


def test_what_does_not_lie_in_a_row_is_packed_by_its_values() -> None:
    columns = {"every other": np.arange(10)[::2], "columns first": np.eye(3, 2).T}
    (read,) = unpack(pack([Section("", {}, columns)]))
    for name, column in columns.items():
        np.testing.assert_array_equal(read.columns[name], column)


@pytest.mark.parametrize(
    "column",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, np.longdouble),
    ],
    ids=["objects", "text", "fields", "long doubles"],
)
def test_what_records_do_not_hold_is_refused_by_name(column: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError, match="'that one'"):
        pack([Section("", {}, {"that one": column})])
