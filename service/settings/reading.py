"""Settings from flags, environment and file: flags win over variables, variables over the file."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.settings.exposure import exposures
from service.settings.fields import Settings
from service.settings.flags import OF_STORE, from_flags
from service.settings.sources import (
    Given,
    SettingsError,
    flag,
    from_environment,
    from_file,
    hint,
    shortened,
)

_OF_GPU = ("deterministic", "tf32")
_NEEDED_BY_TLS = ("tls_cert", "tls_key")
_OF_TLS = (*_NEEDED_BY_TLS, "tls_client_ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Settings, and where they came from.

    Attributes:
        settings: all of them.
        given: by the setting's name, where its value stands; others are as they are by default.
        warnings: what was given and has no effect, a line each.
        check: only to be checked, and not to be served with.
    """

    settings: Settings
    given: Mapping[str, Given]
    warnings: Sequence[str] = ()
    check: bool = False

    def told(self) -> dict[str, dict[str, object]]:
        """What differs from the defaults, by where it stands: "flags", "environment", "file"."""
        values, found = self.settings.model_dump(mode="json"), dict[str, dict[str, object]]()
        for name, given in self.given.items():
            if getattr(self.settings, name) != Settings.model_fields[name].default:
                found.setdefault(given.kind, {})[name] = values[name]
        return found


def read(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Reading:
    """Read the settings.

    Args:
        arguments: the command line, without the command.
        environment: the variables; those of this process, where none are given.

    Raises:
        SettingsError: they are wrong; it names where each fault stands, and the remedy.
    """
    flags = from_flags(arguments)
    problems = list(flags.problems)
    variables = dict[str, Given]()
    try:
        found = from_environment(os.environ if environment is None else environment)
        variables = {each.name: each for each in found}
    except SettingsError as error:
        problems += error.problems
    named = flags.given.get("config") or variables.get("config")
    entries = dict[str, Given]()
    if named is not None:
        try:
            found = from_file(Path(str(named.value)), named.origin)
            entries = {each.name: each for each in found}
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    given = {**entries, **variables, **flags.given}
    settings = _checked(given)
    return Reading(
        settings=settings,
        given=given,
        warnings=[*flags.warnings, *_without_effect(settings, given)],
        check=flags.check,
    )


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the settings; ends the process with a usage message where they are wrong."""
    return read_or_exit(arguments).settings


def read_or_exit(arguments: Sequence[str]) -> Reading:
    """Read the settings; ends the process with a usage message where they are wrong."""
    try:
        return read(arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"cellar-serve: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


# ---- values ----


def _checked(given: Mapping[str, Given]) -> Settings:
    """The settings that these values make.

    Raises:
        SettingsError: one of them, or two together, cannot be used.
    """
    problems = [
        f"{each.origin}: a number is wanted, not {str(each.value).lower()}"
        for each in given.values()
        if isinstance(each.value, bool) and _is_number(each.name)
    ]
    if problems:
        raise SettingsError(problems)
    try:
        settings = Settings(**{name: each.value for name, each in given.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_problems(error, given)) from None
    problems = list(_contradictions(settings, given))
    if problems:
        raise SettingsError(problems)
    return settings


def _is_number(name: str) -> bool:
    default = Settings.model_fields[name].default
    return (
        isinstance(default, (int, float))
        and not isinstance(default, bool)
        and (name != "metrics_port")
    )


def _problems(error: ValidationError, given: Mapping[str, Given]) -> list[str]:
    """A line for each setting that is wrong, whatever pydantic found wrong about it."""
    by_name: dict[str, list[Any]] = {}
    for problem in error.errors(include_url=False):
        by_name.setdefault(str(problem["loc"][0]) if problem["loc"] else "", []).append(problem)
    lines = []
    for name, problems in by_name.items():
        own = [each["msg"] for each in problems if each["type"] == "value_error"]
        if not name:  # several that do not fit together
            lines += [
                _with_origins(message.removeprefix("Value error, "), given) for message in own
            ]
            continue
        each = given[name]
        if own:
            said = f"{own[0].removeprefix('Value error, ')}, not {shortened(each.value)}"
        else:
            wanted = " or ".join(dict.fromkeys(_wanted(problem) for problem in problems))
            said = f"{wanted} is wanted, not {shortened(each.value)}"
        lines.append(f"{each.origin}: {said}{hint(each)}")
    return lines


def _wanted(problem: Any) -> str:
    kind, facts = problem["type"], problem.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return str(facts["expected"])
    bounds = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
    }
    if kind in bounds:
        return bounds[kind].format(**facts)
    if kind.startswith("int"):
        return "a whole number"
    if kind.startswith(("float", "finite")):
        return "a number"
    if kind.startswith("bool"):
        return "on or off"
    if kind.startswith(("string", "path")):
        return "text"
    return str(problem["msg"])


def _with_origins(message: str, given: Mapping[str, Given]) -> str:
    """A fault of several settings, with where those stand that somebody gave."""
    named = [name for name in Settings.model_fields if re.search(rf"\b{name}\b", message)]
    origins = [given[name].origin for name in named if name in given]
    return f"{', '.join(origins)}: {message}" if origins else message


# ---- settings that do not go together ----


def _contradictions(settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    durability = given.get("durability")
    if durability is not None and settings.store == "memory" and settings.durability != "none":
        yield (
            f"{durability.origin}: nothing is durable without a store: name one with "
            "--store lmdb:PATH, or leave durability out"
        )
    named = [given[name].origin for name in _OF_TLS if getattr(settings, name) is not None]
    missing = [flag(name) for name in _NEEDED_BY_TLS if getattr(settings, name) is None]
    if named and missing:
        yield f"{', '.join(named)}: TLS needs {' and '.join(missing)} too, each a PEM file"
    if settings.require_auth:
        for exposure in exposures(settings):
            yield f"{given['require_auth'].origin}: {exposure}"
    if settings.port and settings.port == settings.metrics_port:
        origins = [given[name].origin for name in ("port", "metrics_port") if name in given]
        yield f"{', '.join(origins)}: port and metrics_port are both {settings.port}"


def _without_effect(settings: Settings, given: Mapping[str, Given]) -> Iterator[str]:
    if settings.store == "memory":
        for name in OF_STORE:
            if name in given:
                yield f"{given[name].origin} has no effect without {flag('store')}"
    if settings.device == "cpu":
        for name in _OF_GPU:
            if name in given and getattr(settings, name):
                yield f"{given[name].origin} has no effect on the CPU"
    if settings.state_memory is not None and "max_sessions" in given:
        yield f"{given['max_sessions'].origin} has no effect beside {flag('state_memory')}"
