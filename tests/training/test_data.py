"""Readers: what they forgive, what they refuse, and the words they refuse it in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.config import parse_config
from training.data.series import read_series
from training.data.stdlib import read_stdlib
from training.data.synthetic import synthetic_prices, write_csv
from training.data.text import read_texts, split
from training.errors import ConfigError, DataError
from training.fit import train

SHARED = Path(__file__).parents[3] / "shared" / "data"


def csv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prices.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt: the file is empty"),
        (b"short", "text.txt: 5 characters are too few: a window of 64 .* needs 74"),
        (b"fine so far \xff\xfe", "not UTF-8: byte 0xff at offset 12; save the file as UTF-8"),
        (None, "there is no such file"),
    ],
)
def test_text_that_cannot_be_used(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    config = parse_config(
        {"task": "char", "text": [path], "models": tmp_path / "m", "runs": tmp_path / "r"}
    )
    with pytest.raises(DataError, match=message):
        train(config)
    assert {child.name for child in tmp_path.iterdir()} <= {"text.txt"}


def test_text_of_several_files_with_foreign_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "b").write_text("trois: ça, 🙂\n" * 20)
    text = read_texts([tmp_path / "a", tmp_path / "b"])
    assert text.characters.startswith("one\ntwo\ntrois: ça, 🙂")
    corpus = split(text, window=16)
    assert "🙂" in corpus.vocabulary
    assert "\r" not in corpus.vocabulary
    letters = [corpus.vocabulary[token] for token in corpus.train[:8]]
    assert "".join(letters) == "one\ntwo\n"
    assert len(corpus.validation) == -(-len(text.characters) // 10)


def test_smallest_text_that_the_message_promises(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("x" * 74)
    assert len(split(read_texts([path]), window=64).train) >= 65


def test_standard_library_is_plain_repeatable_text() -> None:
    text = read_stdlib(limit_characters=200_000)
    assert len(text.characters) == 200_000
    assert set(text.characters) <= {"\n", *map(chr, range(32, 127))}
    assert text.sha256 == read_stdlib(limit_characters=200_000).sha256


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("", {}, "the file is empty"),
        ("Date,Open\n1,2\n", {}, r"no column 'Close' \(it has: Date, Open\); choose one with"),
        ("Close\n1\n", {"date": "Day"}, "no column 'Day' .* with --date"),
        ("Close,B\n1,2\n3,4,5\n", {}, "broken CSV: .*line 3"),
        ("Close\n1\n2\nabc\n4\nx\n", {}, "line 4, column 'Close': 'abc' .* 1 more row"),
        ("Close\n1\n1.234,56\n", {}, "line 3, column 'Close'|broken CSV: .*line 3"),
        ("Close\n1\ninf\n", {}, "line 3, column 'Close': 'inf' is not a number"),
        (b"Close\n1\n\xe9\n", {}, "not UTF-8: byte 0xe9 at offset 8"),
    ],
)
def test_csv_that_cannot_be_used(
    tmp_path: Path, content: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_series(csv(tmp_path, content), value="Close", **settings)


def test_csv_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_series(tmp_path / "no.csv", value="Close")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([1.0] * 20, {}, "20 rows with a value are too few: .* needs 50"),
        ([1.0] * 60, {"window": 64}, "60 rows .* needs 83"),
        ([1.0] * 70 + [-2.0] + [1.0] * 9, {"transform": "log-return"}, "line 72, .*-2 is not abo"),
    ],
)
def test_series_that_cannot_be_used(
    tmp_path: Path, rows: Any, settings: dict[str, Any], message: str
) -> None:
    path = csv(tmp_path, "Close\n" + "\n".join(map(str, rows)))
    config = parse_config(
        {"task": "series", "csv": path, "value": "Close", "runs": tmp_path / "r", **settings}
    )
    with pytest.raises(DataError, match=message):
        train(config)
    assert [child.name for child in tmp_path.iterdir()] == ["prices.csv"]


def test_csv_as_people_have_them(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        'date;close\n2020-01-03;"1,003.5"\n\n2020-01-01;null\n2020-01-02;2\nsoon;7\n'
        "2020-01-02;3\n2020-01-05\n",
    )
    series = read_series(path, value="close")
    assert series.values.tolist() == [3.0, 1003.5]
    assert series.labels == ("2020-01-02", "2020-01-03")
    assert [(note.what, note.rows) for note in series.notes] == [
        ("dropped: no value", 3),
        ("dropped: no date", 1),
        ("sorted by 'date'", 3),
        ("dropped: date seen twice", 1),
    ]


def test_days_before_months_when_only_that_fits(tmp_path: Path) -> None:
    path = csv(tmp_path, "Date,v\n13/02/2020,2\n01/03/2020,3\n14/01/2020,1\n")
    assert read_series(path, value="v").values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value", "rows", "notes"),
    [
        ("MRF.NS.csv", "Close", 4359, {"dropped: no value": 43}),
        (
            "INFY.NS.csv",
            "Close",
            5968,
            {"dropped: no value": 129, "kept, but look: a jump taken back at once": 2},
        ),
        ("tesla-stock-price.csv", "close", 756, {"dropped: no date": 1, "sorted by 'date'": 756}),
        ("tesla-stock-price.csv", "volume", 756, {"dropped: no date": 1, "sorted by 'date'": 756}),
    ],
)
def test_real_files(name: str, value: str, rows: Any, notes: dict[str, int]) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine; it is not part of the project")
    series = read_series(path, value=value)
    assert len(series.values) == rows
    assert {note.what: note.rows for note in series.notes} == notes
    assert list(series.labels) == sorted(series.labels)


def test_synthetic_prices_are_repeatable_and_have_changing_volatility(tmp_path: Path) -> None:
    prices = synthetic_prices(4000, seed=3)["Close"].to_numpy()
    assert (prices > 0).all()
    changes = np.abs(np.diff(np.log(prices)))
    assert np.corrcoef(changes[1:], changes[:-1])[0, 1] > 0.1
    write_csv(tmp_path / "made.csv", 4000, seed=3)
    series = read_series(tmp_path / "made.csv", value="Close")
    np.testing.assert_array_equal(series.values, prices)
    assert series.notes == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "char"}, "give either text files or stdlib"),
        ({"task": "char", "stdlib": True, "hidden": 0}, "hidden: .* greater than or equal to 1"),
        ({"task": "char", "stdlib": True, "budget_s": "soon"}, "budget: 'soon' is no duration"),
        ({"task": "char", "stdlib": True, "cell": "tree"}, "cell: .*'rnn', 'lstm' or 'gru'"),
        ({"task": "char", "stdlib": True, "steps": 5, "epochs": 2}, "only one of budget, steps"),
        ({"task": "char", "stdlib": True, "name": "A b"}, "name: "),
        ({"task": "series"}, "give either a csv file or a number of synthetic rows"),
        ({"task": "series", "csv": "x.csv"}, "name the csv column to predict"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(settings)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_config({"task": "char", "stdlib": True, "budget_s": text}).budget_s == seconds
