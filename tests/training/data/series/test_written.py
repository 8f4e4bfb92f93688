"""How a file of series is written: in another encoding, packed, alone in an archive."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from training.data.series.columns import Columns
from training.data.series.panel import Panel
from training.data.series.reading import read_panel
from training.errors import DataError

ROWS = 40
TEXT = "Дата;Цена закрытия\n" + "".join(
    f"{day % 28 + 1:02}.{1 + day // 28:02}.2024;{day + 100},5\n" for day in range(ROWS)
)
CLOSE = "Цена закрытия"


def read(path: Path, encoding: str | None = None) -> Panel:
    return read_panel(path, Columns(value=(CLOSE,), encoding=encoding, decimal_comma=True))


def is_right(panel: Panel) -> bool:
    (series,) = panel.series
    return np.array_equal(series.values, np.arange(ROWS) + 100.5)


def test_another_encoding_is_refused_by_its_name_and_read_where_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(TEXT.encode("cp1251"))
    with pytest.raises(DataError, match="--encoding cp1251"):
        read(path)
    panel = read(path, "cp1251")
    assert is_right(panel)
    assert any(note.what == "encoding" and note.rows == ROWS for note in panel.notes)


def test_a_file_alone_in_an_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("all/prices.csv", TEXT.encode("cp1251"))
    assert is_right(read(path, "cp1251"))


def test_a_file_packed_with_gzip_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert is_right(read(path))


def test_an_archive_of_several_files_is_refused_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "prices.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1000):
            archive.writestr(f"{number}.csv", TEXT)
    with pytest.raises(DataError, match=r"0\.csv.*more; unpack it and give one") as caught:
        read(path)
    assert len(str(caught.value)) < 300
