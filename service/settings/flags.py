"""The command line, and its help: what people need first, limits last."""

from argparse import SUPPRESS, Action, ArgumentParser, HelpFormatter, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import shtab

from service.settings.fields import ZOO, EngineSettings, Settings
from service.settings.sources import Given, SettingsError, flag, nearest

_WIDTH = 80
_DESCRIPTION = (
    "Serve recurrent models over gRPC, with each session's state kept on the device. "
    "Every flag is also a variable CELLAR_<NAME> of the environment, or an entry of the TOML file "
    "that --config names; flags win over the environment, the environment over the file. "
    "Sizes are written 4Gi, 4GiB (1024^3) or 4G (1000^3), times 90s, 5m, 1h or in seconds."
)
OTHERS, LIMITS = "Others", "Limits"
_METAVARS = {
    "host": "ADDRESS",
    "device": "DEVICE",
    "metrics_host": "ADDRESS",
    "metrics_port": "N|off",
    "shards": "N|auto",
    "store": "WHERE",
}
OF_STORE = (
    "erase_s",
    "strict_replay",
    "journal_bytes",
    "checkpoint_steps",
    "checkpoint_share",
    "recovery_s",
    "store_timeout_s",
    "max_undurable_bytes",
)
"""Settings that have no effect without a store."""
# What is not named here is among the others, or the limits where the engine has it.
_GROUPS: Mapping[str, Sequence[str]] = {
    "What is served, and where": (
        "models",
        "host",
        "port",
        "device",
        "store",
        "durability",
        "config",
        "metrics_port",
        "metrics_host",
    ),
    "Sessions": (
        "max_sessions",
        "state_memory",
        "host_memory",
        "max_open_sessions",
        "idle_timeout_s",
        "max_idle_timeout_s",
        "ephemeral_grace_s",
    ),
    "Models and devices": (
        "strict",
        "load_timeout_s",
        "load_memory",
        "max_model_bytes",
        "precision",
        "shards",
        "deterministic",
        "tf32",
    ),
    "TLS": ("tls_cert", "tls_key", "tls_client_ca"),
    "Who may call": ("tokens", "snapshot_key", "require_auth"),
    "Connections": (
        "max_connections",
        "handshake_timeout_s",
        "max_connection_idle_s",
        "receive_timeout_s",
        "max_connection_calls",
        "keepalive_s",
        "min_ping_s",
        "reflection",
    ),
    "Logs": ("log_level", "log_format", "access_log"),
    "Stop": ("drain_timeout_s", "drain_delay_s"),
    "The store": OF_STORE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a command line says.

    Attributes:
        given: by the setting's name.
        check: the settings are only to be checked.
        problems: what cannot be meant, a line each.
        warnings: what has no effect, a line each.
    """

    given: Mapping[str, Given]
    check: bool
    problems: Sequence[str]
    warnings: Sequence[str]


def groups() -> Iterator[tuple[str, list[str]]]:
    """Every setting, in groups as they are shown; the last group has the limits."""
    placed = {name for names in _GROUPS.values() for name in names}
    rest = [name for name in Settings.model_fields if name not in placed]
    for title, names in _GROUPS.items():
        yield title, list(names)
    yield OTHERS, [name for name in rest if name not in EngineSettings.model_fields]
    yield LIMITS, [name for name in rest if name in EngineSettings.model_fields]


def from_flags(arguments: Sequence[str]) -> Flags:
    """Read a command line; ends the process where it asks for help or the version."""
    noted = Namespace(given=[], check=False)
    problems = []
    try:
        _, rest = _parser().parse_known_args([_spelt(each) for each in arguments], noted)
        problems = list(_unknown(rest))
    except SettingsError as error:
        problems = error.problems
    given: dict[str, Given] = {}
    warnings = []
    for each in noted.given:
        before = given.get(each.name)
        if before is not None and before.value != each.value:
            warnings.append(f"{flag(each.name)} is given more than once: the last one holds")
        given[each.name] = each
    return Flags(given=given, check=noted.check, problems=problems, warnings=warnings)


def shown(name: str) -> str:
    """The default of a setting, as it may be written."""
    declared = Settings.model_fields[name]
    default = declared.default
    if default is None:
        return "none"
    if default == ZOO:
        return "models/zoo"
    if isinstance(default, bool):
        return "on" if default else "off"
    if _is_size(name):
        return _size(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _is_size(name: str) -> bool:
    return name.endswith(("_bytes", "_memory"))


def _size(count: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and not count % 2**power:
            return f"{count >> power}{unit}"
    return str(count)


# ---- the parser ----


class _Note(Action):
    """Notes that a setting was given, and by which flag."""

    def __call__(
        self,
        parser: ArgumentParser,  # noqa: ARG002 (as argparse calls it)
        namespace: Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        value = self.const if values in (None, []) else values
        origin = option_string or flag(self.dest)
        if origin.startswith("--no-"):
            value = "off"
        given = Given(name=self.dest, value=value, origin=origin, kind="flags")
        namespace.given.append(given)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """What is wrong, without the usage of all flags before it."""
        raise SettingsError([message.removeprefix("argument ")])


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="cellar-serve",
        usage="cellar-serve [--models PATH] [--host ADDRESS] [--port N] [FLAG ...]",
        description=_DESCRIPTION,
        argument_default=SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: HelpFormatter(prog, max_help_position=30, width=_WIDTH),
    )
    version = next((each.version for each in distributions(name="cellar")), "not installed")
    commands = parser.add_argument_group(
        "Instead of serving",
        "cellar-serve token makes, lists, changes and revokes tokens; see its --help.",
    )
    commands.add_argument("-h", "--help", action="help", help="show this, and exit")
    commands.add_argument(
        "--version", action="version", version=f"cellar-serve {version}", help="show it, and exit"
    )
    commands.add_argument(
        "--check",
        action="store_true",
        help="check settings, store and models, say what would be served, and exit: with 0 where "
        "all of it would be, else 1 (2 for settings); nothing is changed or listened to",
    )
    shtab.add_argument_to(
        commands,
        ["--print-completion"],
        help="print a script that lets this shell complete the command",
    )
    for title, names in groups():
        group = parser.add_argument_group(title) if names else None
        for name in names:
            assert group is not None, "it has names"
            _add(group, name)
    return parser


def _add(group: Any, name: str) -> None:
    text = " ".join((Settings.model_fields[name].description or "").split()).replace("%", "%%")
    described = f"{text} (default: {shown(name)})"
    if Settings.model_fields[name].annotation is bool:
        group.add_argument(
            flag(name),
            dest=name,
            action=_Note,
            nargs="?",
            const="on",
            metavar="on|off",
            help=described,
        )
        group.add_argument(
            "--no-" + flag(name)[2:], dest=name, action=_Note, nargs=0, help=SUPPRESS
        )
    else:
        group.add_argument(
            flag(name), dest=name, action=_Note, metavar=_metavar(name), help=described
        )


def _metavar(name: str) -> str:
    declared = Settings.model_fields[name]
    kind: Any = declared.annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    if isinstance(declared.default, Path) or Path in (kind, *get_args(kind)):
        return "PATH"
    if _is_size(name):
        return "SIZE"
    if name.endswith("_s"):
        return "TIME"
    return _METAVARS.get(name, "N")


# ---- what is no flag ----


def _spelt(argument: str) -> str:
    """A flag as it is called here, where it was written with ``_``."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _unknown(rest: Sequence[str]) -> Iterator[str]:
    """What to say of what nobody has read."""
    known = [flag(name) for name in Settings.model_fields]
    last_was_flag = False
    for argument in rest:
        is_flag = argument.startswith("-") and argument != "-"
        if is_flag:
            yield f"{argument.partition('=')[0]}: there is no such flag{_meant(argument, known)}"
        elif not last_was_flag:  # else it is that one's value
            yield f"{argument!r}: a flag is wanted here; see --help"
        last_was_flag = is_flag and "=" not in argument


def _meant(argument: str, known: Sequence[str]) -> str:
    name = "--" + argument.partition("=")[0].lstrip("-")
    positive = "--" + name.removeprefix("--no-")
    if positive in known:
        return f"; did you mean {positive} off?"
    near = nearest(name, [*known, "--check", "--help", "--print-completion", "--version"])
    return f"; did you mean {near}?" if near else "; see --help"
