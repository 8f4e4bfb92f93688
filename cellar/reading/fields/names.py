"""Names of columns that hold times, or parts of them."""

import re
from enum import IntEnum

_EXACT_LIST = (
    "date|datetime|date time|timestamp|time|ds|day|datum|fecha|data|tarih|dato|дата|日期|"
    "时间|時間|trading date|trading day|trade date|observation date|local time|gmt time|"
    "utc time|time utc|date utc|data e hora|datum uhrzeit|date heure|fecha hora|"
    "zeitstempel|horodatage"
)
_EXACT = frozenset(_EXACT_LIST.split("|"))
_REFUSED_UNREAD = _EXACT - {"day", "data"}
_SURE_WORDS_LIST = "date|datetime|timestamp|datum|fecha|tarih|дата|日期"
_SURE_WORDS = frozenset(_SURE_WORDS_LIST.split("|"))
_WORDS_LIST = (
    "time|day|week|month|quarter|year|period|zeit|zeitpunkt|uhrzeit|epoch|unix|jahr|"
    "monat|tag|tijd|hora|heure|ora|dt|ts"
)
_WORDS = frozenset(_WORDS_LIST.split("|"))
_CLOCKS_LIST = (
    "time|hour|hours|hr|hh|uhrzeit|zeit|ora|hora|heure|stunde|clock|tid|tijd|godzina|час|"
    "local time|time utc|hour utc|hour of day|time of day|he|hour ending"
)
_CLOCKS = frozenset(_CLOCKS_LIST.split("|"))
_PARTS = {
    "year": "year|yr|yyyy|jahr|ano|año|anno|annee|année|rok|jaar",
    "month": "month|mo|mon|monat|mes|mês|mois|mese|maand|mnth",
    "day": "day|dd|dom|tag|dia|día|jour|giorno|dag|mday|day of month",
    "doy": "doy|yday|day of year|jday|julian day",
    "quarter": "quarter|qtr|quartal|trimestre",
    "week": "week|woche|semaine|semana|iso week|week of year",
    "hour": "hour|hr|hh|hours|stunde|hora|heure|ora",
    "minute": "minute|minutes|mi",
    "second": "second|seconds|sec|ss",
}
_ELAPSED_LIST = (
    "time|t|s|sec|secs|second|seconds|ms|elapsed|step|steps|timestep|tick|period|index|"
    "frame|sample|minutes|minute|hours|day|week|month"
)
_ELAPSED = frozenset(_ELAPSED_LIST.split("|"))

_NAMING_LIST = (
    "ticker|tickers|symbol|sym|name|id|item|store|series|sensor|station|instrument|asset|"
    "isin|device|location|city|region|state|site|meter|house|entity|geo|variable|"
    "indicator|pair|coin|currency|country|unique id|item id|store id|series id|sensor id|"
    "station id|device id|country code|country name"
)
_NAMING = frozenset(_NAMING_LIST.split("|"))


class Rank(IntEnum):
    """How surely a name says that a column holds times."""

    EXACT = 0
    WORD = 1
    LIKELY = 2
    NOTHING = 3


def plain(name: str) -> str:
    """The words of a name, in small letters: 'Local time', <DATE> and tradeDate alike."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"\(.*?\)|\[.*?\]", " ", name))
    return " ".join(re.findall(r"[^\W_]+", apart.lower()))


def rank_of(name: str) -> Rank:
    """How surely a name says that a column holds times."""
    words = plain(name)
    if words in _EXACT:
        return Rank.EXACT
    found = set(words.split())
    if found & _SURE_WORDS:
        return Rank.WORD
    return Rank.LIKELY if found & _WORDS else Rank.NOTHING


def must_be_read(name: str) -> bool:
    """Whether a column of that name which holds no times is a mistake to be told of."""
    return plain(name) in _REFUSED_UNREAD


def is_clock(name: str) -> bool:
    """Whether a name says that a column holds times of the day."""
    return plain(name) in _CLOCKS


def is_elapsed(name: str) -> bool:
    """Whether a name may be that of a count from a start."""
    words = plain(name).split()
    return bool(words) and words[0] in _ELAPSED


def parts_of(names: tuple[str, ...]) -> dict[str, str]:
    """Columns that hold a part of the date each, by the part."""
    found = {}
    for part, known in _PARTS.items():
        named = [name for name in names if plain(name) in known.split("|")]
        if len(named) == 1:
            found[part] = named[0]
    return found


def is_naming(name: str) -> bool:
    """Whether a name says that a column tells series apart."""
    return plain(name) in _NAMING
