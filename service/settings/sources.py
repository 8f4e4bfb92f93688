"""What flags, environment and file say, each value with where it stands. Knows no types."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.settings.fields import Settings

PREFIX = "CELLAR_"
# Of the client, the tests, the benchmarks and the builds: they may stand in the same environment.
OF_OTHERS = frozenset(
    {"CA", "CERT", "DATA", "KEY", "PACKAGES", "ROOT", "SERVER", "SERVER_NAME", "TLS", "TOKEN"}
    | {"TOKEN_FILE"}
)
# Kubernetes and Docker set such for every Service or container called cellar, or cellar-and-more.
_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
_SHOWN = 80  # characters of a value


class SettingsError(Exception):
    """Settings that cannot be used; ``problems`` has a line for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [_printable(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


def _printable(problem: str) -> str:
    """A line that moves no cursor, whatever somebody has called a setting."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One setting as somebody wrote it.

    Attributes:
        name: of the setting, such as "max_batch".
        value: as it was written: text, or what TOML has.
        origin: where it stands: a flag, a variable, or a line of a file.
        kind: "flags", "environment" or "file".
    """

    name: str
    value: object
    origin: str
    kind: str


def flag(name: str) -> str:
    """A setting as it is called on the command line."""
    return "--" + name.replace("_", "-")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like another one, if any does."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def shortened(value: object) -> str:
    """A value for a message: escaped, and not all of a long one."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


# ---- environment ----


def from_environment(environment: Mapping[str, str]) -> list[Given]:
    """What the variables ``CELLAR_*`` say; an empty one says nothing.

    Raises:
        SettingsError: one of them is no setting.
    """
    found, problems = [], []
    for variable in sorted(environment):
        value = environment[variable].strip()
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or not value:
            continue
        if name.lower() in Settings.model_fields:
            given = Given(name=name.lower(), value=value, origin=variable, kind="environment")
            found.append(given)
        elif not (name in OF_OTHERS or _LINK.fullmatch(name) or _LINK_VALUE.match(value)):
            problems.append(f"{variable}: there is no such setting{_meant(name)}")
    if problems:
        raise SettingsError(problems)
    return found


def hint(given: Given) -> str:
    """Where a wrong value may come from, where that can be told."""
    if given.kind == "environment" and _LINK_VALUE.match(str(given.value)):
        return " (Kubernetes sets this for a Service called cellar: enableServiceLinks: false)"
    return ""


def _meant(name: str) -> str:
    near = nearest(name, (field.upper() for field in Settings.model_fields))
    return f"; did you mean {PREFIX}{near}?" if near else "; unset it, or name it otherwise"


# ---- file ----


def from_file(path: Path, named_by: str) -> list[Given]:
    """What a TOML file says; its keys may be written with ``-`` or ``_``.

    Args:
        path: of the file.
        named_by: what named it, for errors.

    Raises:
        SettingsError: it cannot be read, or a key of it is no setting.
    """
    text = _read(path, named_by)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path} is not TOML: {error}"]) from error
    except RecursionError:
        raise SettingsError([f"{path} cannot be read: it is nested too deeply"]) from None
    found: dict[str, Given] = {}
    problems = []
    for key, value in table.items():
        name, origin = key.replace("-", "_").lower(), _place(path, text, key)
        if isinstance(value, dict) and name not in Settings.model_fields:
            problems.append(f"{origin}: settings stand at the top of the file, not in tables")
        elif name not in Settings.model_fields:
            near = nearest(name, Settings.model_fields)
            meant = f"; did you mean {near}?" if near else ""
            problems.append(f"{origin}: there is no such setting{meant}")
        elif name == "config":
            problems.append(f"{origin}: a file cannot name another one")
        elif name in found:
            problems.append(f"{origin}: this is {found[name].origin} again: keep one of the two")
        else:
            found[name] = Given(name=name, value=value, origin=origin, kind="file")
    if problems:
        raise SettingsError(problems)
    return list(found.values())


def _read(path: Path, named_by: str) -> str:
    try:
        if not path.is_file():
            raise SettingsError([f"{named_by}: {path} is not a file"])
        return path.read_text("utf-8-sig")  # Windows' editors begin with a BOM
    except OSError as error:
        reason = f"{named_by}: {path} cannot be read: {error.strerror}"
        raise SettingsError([reason]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{named_by}: {path} is not UTF-8 text"]) from error


def _place(path: Path, text: str, key: str) -> str:
    head = re.compile(rf"""\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*[=.\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if head.match(line):
            return f"{path}, line {number}: {key}"
    return f"{path}: {key}"
