"""Known series, written down as people write them: any layout, order, form of dates and numbers."""

from dataclasses import dataclass, field
from datetime import datetime

from tests.training.data.series.forms import (
    Chooser,
    DateForm,
    NumberForm,
    date_form,
    number_form,
    times_of,
    values_of,
)
from training.data.series.columns import Columns, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file, how it is to be read, and what is in it."""

    text: str
    columns: Columns
    series: dict[str, list[tuple[datetime | None, float]]]
    """In order of time, by their names; no time where the file has none."""
    how: dict[str, str] = field(default_factory=dict)
    """What was chosen, for people."""


_DATE_NAMES = ["Date", "date", "Trading Date", "trade_date", "Datum", "Local time", "", "when",
               "observation_date", "timestamp", "<DATE>", "t1"]  # fmt: skip
_BEFORE = ["", "", "", "", "# written by a machine\n", "https://data.example/x\n",
           "Data Source,World\n\nLast Updated,2024\n\n", "Report of prices\n\n"]  # fmt: skip
_AFTER = ["", "", "", "", "\n", "\n\n", "Source: somebody\n", "\nEnd of report\n"]
_MARKS = ["", "", "NA", "null", ".", "?", "-", "n/a"]


def written(chooser: Chooser) -> Written:
    """Write some series in some way."""
    rows = chooser.one_of([4, 9, 12, 30, 45, 60])
    kind, times = times_of(chooser, rows)
    layout = chooser.one_of(
        ["columns"] * 5 + ["long", "rows", "tickers", "parts", "date and time", "no dates"]
    )
    numbers, dates = number_form(chooser), date_form(chooser, kind)
    names = ["close", "open", "volume"][: chooser.whole(1, 3)]
    if layout == "tickers":
        names = ["MSFT", "AAPL", "IBM"][: chooser.whole(1, 3)]
    values = {name: values_of(chooser, rows, numbers.digits) for name in names}
    order = chooser.one_of(["oldest", "oldest", "newest", "shuffled", "as text"])
    how = {
        "layout": layout,
        "times": kind,
        "dates": dates.name,
        "numbers": numbers.name,
        "order": order,
    }
    places = list(range(rows))
    if order == "newest":
        places.reverse()
    if order == "shuffled":
        chooser.noise().shuffle(places)
    if order == "as text":
        places.sort(key=lambda place: dates.write(times[place]))
    case = _Case(
        chooser=chooser,
        times=times,
        values=values,
        places=places,
        dates=dates,
        numbers=numbers,
        how=how,
    )
    writers = {
        "columns": case.columns,
        "long": case.long,
        "rows": case.rows,
        "tickers": case.tickers,
        "parts": case.parts,
        "date and time": case.date_and_time,
        "no dates": case.undated,
    }
    return writers[layout]()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    chooser: Chooser
    times: list[datetime]
    values: dict[str, list[float]]
    places: list[int]
    """The order of rows in the file."""
    dates: DateForm
    numbers: NumberForm
    how: dict[str, str]
    _nothing: datetime | None = None

    def columns(self) -> Written:
        """One column a series."""
        date_name = self.chooser.one_of(_DATE_NAMES)
        has_header = self.chooser.whole(0, 3) > 0
        texts, there = self._texts(marks=True)
        header = [date_name, *self.values]
        table = [
            [self.dates.write(self.times[place]), *(texts[name][place] for name in self.values)]
            for place in self.places
        ]
        index = self.chooser.whole(0, 5) == 0
        if index:
            header = ["", *header]
            table = [[str(number), *row] for number, row in enumerate(table)]
        names = list(self.values)
        wanted = tuple(names)
        if not has_header:
            wanted = tuple(str(len(header) - len(names) + place + 1) for place in range(len(names)))
        series = {
            (name if has_header else new): self._expected(name, there[name])
            for name, new in zip(names, wanted, strict=True)
        }
        how = {"date column": date_name if has_header else "no header", "index": str(index)}
        columns = Columns(value=wanted)
        return self._file(header if has_header else None, table, columns, series, how)

    def long(self) -> Written:
        """A column of names; told or not."""
        texts, there = self._texts(marks=False)
        table = [
            [name, self.dates.write(self.times[place]), texts[name][place]]
            for name in self.values
            for place in self.places
        ]
        if self.chooser.whole(0, 1):
            table.sort(key=lambda row: row[1])
        naming = self.chooser.one_of(["ticker", "Name", "who", "unique_id"])
        told = self.chooser.whole(0, 1) == 1
        columns = Columns(value=("y",), series_column=naming if told else None)
        series = {name: self._expected(name, there[name]) for name in self.values}
        if not told and len(series) == 1:
            series = {"y": next(iter(series.values()))}
        return self._file([naming, "ds", "y"], table, columns, series, {"told": str(told)})

    def rows(self) -> Written:
        """A series in every row, whose steps are dates or numbered."""
        texts, there = self._texts(marks=False)
        dated = self.chooser.whole(0, 1) == 1
        ends = {name: self.chooser.whole(len(self.times) // 2, len(self.times)) for name in texts}
        steps = [self.dates.write(time) for time in self.times]
        if not dated:
            steps = [f"V{step}" for step in range(2, len(self.times) + 2)]
        table = [
            [name, *(texts[name][place] if place < end else "" for place in range(len(steps)))]
            for name, end in ends.items()
        ]
        told = self.chooser.whole(0, 1) == 1
        columns = Columns(layout=Layout.ROWS if told else Layout.AUTO, value=tuple(texts))
        series = {
            name: [
                (time if dated else None, value)
                for time, value in self._expected(name, there[name])[:end]
            ]
            for name, end in ends.items()
        }
        how = {"dated": str(dated), "told": str(told), "order": "oldest"}
        return self._file(["V1", *steps], table, columns, series, how)

    def tickers(self) -> Written:
        """What yfinance writes: three rows of names."""
        texts, there = self._texts(marks=False)
        both = {"Close": texts, "Open": {name: fields[::-1] for name, fields in texts.items()}}
        pairs = [(price, name) for price in both for name in texts]
        table = [
            [self.dates.write(self.times[place]), *(both[p][name][place] for p, name in pairs)]
            for place in self.places
        ]
        names = [["Ticker", *(name for _, name in pairs)], ["Date", *("" for _ in pairs)]]
        series = {name: self._expected(name, there[name]) for name in texts}
        if len(series) == 1:
            series = {"Close": next(iter(series.values()))}
        columns = Columns(value=("Close",))
        header = ["Price", *(price for price, _ in pairs)]
        return self._file(header, [*names, *table], columns, series, {}, plain=True)

    def parts(self) -> Written:
        """Year, month, day and hour in columns of their own."""
        texts, there = self._texts(marks=True)
        table = [
            [
                *map(str, (self.times[place].year, self.times[place].month, self.times[place].day)),
                f"{self.times[place]:%H}",
                f"{self.times[place]:%M}",
                *(texts[name][place] for name in texts),
            ]
            for place in self.places
        ]
        header = ["year", "month", "day", "hour", "minute", *texts]
        series = {name: self._expected(name, there[name]) for name in texts}
        columns = Columns(value=tuple(texts))
        return self._file(header, table, columns, series, {"dates": "parts"})

    def date_and_time(self) -> Written:
        """A date and a time of the day beside each other."""
        texts, there = self._texts(marks=True)
        date = self.chooser.one_of(["%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%Y-%m-%d", "%Y%m%d"])
        clock = self.chooser.one_of(["%H:%M", "%H:%M:%S", "%H.%M.%S", "%H%M%S", "%I:%M %p"])
        header = self.chooser.one_of([["<DATE>", "<TIME>"], ["Date", "Time"], ["Datum", "Uhrzeit"]])
        table = [
            [
                self.times[place].strftime(date),
                self.times[place].strftime(clock),
                *(texts[name][place] for name in texts),
            ]
            for place in self.places
        ]
        series = {name: self._expected(name, there[name]) for name in texts}
        how = {"dates": f"{date} | {clock}", "date column": str(header)}
        return self._file([*header, *texts], table, Columns(value=tuple(texts)), series, how)

    def undated(self) -> Written:
        """Numbers alone: the order of the file is all there is."""
        texts, there = self._texts(marks=False)
        table = [[texts[name][place] for name in texts] for place in range(len(self.times))]
        series = {
            name: [(self._nothing, value) for _, value in self._expected(name, there[name])]
            for name in texts
        }
        columns = Columns(value=tuple(texts))
        return self._file(list(texts), table, columns, series, {"order": "oldest"})

    def _texts(self, *, marks: bool) -> tuple[dict[str, list[str]], dict[str, list[bool]]]:
        """The fields of each series, and where there is a value."""
        mark = self.chooser.one_of(_MARKS) if marks else None
        texts: dict[str, list[str]] = {}
        there: dict[str, list[bool]] = {}
        noise = self.chooser.noise()
        for name, values in self.values.items():
            gone = [mark is not None and noise.randint(0, 19) == 0 for _ in values]
            texts[name] = [
                (mark or "") if missing else self.numbers.write(value)
                for value, missing in zip(values, gone, strict=True)
            ]
            there[name] = [not missing for missing in gone]
        return texts, there

    def _expected(self, name: str, there: list[bool]) -> list[tuple[datetime | None, float]]:
        rows = zip(self.times, self.values[name], there, strict=True)
        return [(time, value) for time, value, known in rows if known]

    def _file(
        self,
        header: list[str] | None,
        table: list[list[str]],
        columns: Columns,
        series: dict[str, list[tuple[datetime | None, float]]],
        how: dict[str, str],
        *,
        plain: bool = False,
    ) -> Written:
        separator = self.chooser.one_of([",", ",", ";", "\t", "|"])
        if "0 digits, comma, group '.'" in self.numbers.name:
            # 3.591 alone may be a little and a lot; where it is a lot, a semicolon is usual.
            separator = ";"
        quoted = self.chooser.whole(0, 4) == 0
        trailing = separator if self.chooser.whole(0, 5) == 0 else ""
        before = "" if plain else self.chooser.one_of(_BEFORE)
        after = "" if plain else self.chooser.one_of(_AFTER)
        end = self.chooser.one_of(["\n", "\n", "\r\n"])

        def line(fields: list[str]) -> str:
            return (
                separator.join(
                    f'"{text}"' if quoted or separator in text else text for text in fields
                )
                + trailing
                + "\n"
            )

        text = before + "".join(map(line, [*([header] if header else []), *table])) + after
        said = {
            "separator": separator,
            "quoted": str(quoted),
            "trailing": trailing,
            "before": before,
            "after": after,
        }
        return Written(
            text=text.replace("\n", end), columns=columns, series=series, how=self.how | said | how
        )
