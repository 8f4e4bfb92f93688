"""The names of columns, from one header row or from the three that yfinance writes."""

from dataclasses import dataclass

from cellar.reading.tables.outline import Outline

_PRICES = frozenset(("open", "high", "low", "close", "adj close", "volume", "price"))
_JOINED = " · "


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickers:
    """What a column of yfinance's is: a price of a ticker."""

    field: str
    ticker: str

    @classmethod
    def of(cls, name: str) -> "Tickers | None":
        """The two parts of a merged name; None where it is none."""
        field, found, ticker = name.partition(_JOINED)
        return cls(field=field, ticker=ticker) if found else None


def merged_header(rows: list[list[str]], outline: Outline) -> tuple[list[str] | None, int]:
    """The names of the columns, and the number of the first row of data.

    Where two rows name prices and tickers, a name is both of them, unless there is one ticker.
    """
    if outline.header is None:
        return None, outline.first
    first, start = rows[outline.header], outline.header + 1
    if len(rows) <= start:
        return first, start
    second = _filled(rows[start])
    if len(second) != len(_filled(first)) or not _are_prices(_filled(first), second):
        return first, start
    first = _filled(first)
    fields, tickers = (first, second) if _names_prices(first) else (second, first)
    start += 1
    index = fields[0].strip() if fields[0].strip().lower() not in ("", "price") else ""
    if len(rows) > start and rows[start] and not any(name.strip() for name in rows[start][1:]):
        index, start = rows[start][0].strip() or index, start + 1
    names = [index or "Date"]
    several = len({ticker.strip() for ticker in tickers[1:]}) > 1
    for field, ticker in zip(fields[1:], tickers[1:], strict=True):
        names.append(field.strip() + (_JOINED + ticker.strip() if several else ""))
    return names, start


def _filled(row: list[str]) -> list[str]:
    """A row without empty fields at its end."""
    filled = [place for place, name in enumerate(row, 1) if name.strip()]
    return row[: filled[-1]] if filled else []


def _are_prices(first: list[str], second: list[str]) -> bool:
    """Whether one of two rows names prices and the other, as often, tickers."""
    return _names_prices(first) != _names_prices(second) and (
        first[0].strip().lower() in ("price", "ticker", "", "date")
        and second[0].strip().lower() in ("ticker", "price", "", "date")
        and all(name.strip() for name in (*first[1:], *second[1:]))
    )


def _names_prices(row: list[str]) -> bool:
    names = [name.strip().lower() for name in row[1:]]
    return bool(names) and all(name in _PRICES for name in names)
