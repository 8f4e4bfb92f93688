"""Options of TLS, certificates and tokens, from the command line and the environment."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellar.cli.arguments import UsageError
from cellar.errors import BadInputError

FILES = ("--ca", "--cert", "--key", "--token-file")
"""Options that name files."""

_VARIABLES = {
    "tls": "CELLAR_TLS",
    "ca": "CELLAR_CA",
    "cert": "CELLAR_CERT",
    "key": "CELLAR_KEY",
    "server_name": "CELLAR_SERVER_NAME",
    "token": "CELLAR_TOKEN",
    "token_file": "CELLAR_TOKEN_FILE",
}
_ARGUMENT = re.compile(r"\b(tls|ca|server_name|allow_plaintext_token)=(True|FILE|NAME)\b")
_OF_TLS = ("ca", "cert", "key", "server_name")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def add_access(command: argparse.ArgumentParser) -> None:
    """Adds the options, in a group of their own."""
    group = command.add_argument_group(
        "TLS and tokens",
        "Each may be a variable instead: CELLAR_TLS=1, CELLAR_CA, CELLAR_CERT, CELLAR_KEY, "
        "CELLAR_SERVER_NAME, CELLAR_TOKEN, CELLAR_TOKEN_FILE.",
    )
    group.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="speak TLS; --no-tls: do not, whatever the variables say",
    )
    group.add_argument("--ca", metavar="FILE", help="PEM: the authorities to trust [gRPC's own]")
    group.add_argument("--cert", metavar="FILE", help="PEM: the certificate to show, with --key")
    group.add_argument("--key", metavar="FILE", help="PEM: its key")
    group.add_argument(
        "--server-name", metavar="NAME", help="what the server's certificate has to be for"
    )
    group.add_argument("--token-file", metavar="FILE", help="a file with the token")
    group.add_argument(
        "--token",
        metavar="TOKEN",
        help="the token itself; other users of this machine can see the command line, so rather "
        "use --token-file or CELLAR_TOKEN",
    )
    group.add_argument(
        "--allow-plaintext-token",
        action="store_true",
        help="send it to another machine without TLS, where something else encrypts",
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="further metadata of every call; may be repeated",
    )


@contextmanager
def access(options: argparse.Namespace, environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What ``connect`` is given; an error of it names the option or the variable that is wrong.

    Raises:
        UsageError: two contradict each other, or one cannot be read.
    """
    found, origins = _found(options, environment)
    try:
        yield found
    except BadInputError as error:
        origin = origins.get(error.field or "")
        if origin is None or error.reason or not error.message.startswith(error.field or ""):
            raise
        raise UsageError(
            f"{origin}{in_options(error.message.removeprefix(str(error.field)))}"
        ) from None


def in_options(message: str) -> str:
    """A message of ``connect`` in words of the command line: --ca FILE for ca=FILE."""
    return _ARGUMENT.sub(
        lambda found: (
            f"--{found[1].replace('_', '-')}{'' if found[2] == 'True' else ' ' + found[2]}"
        ),
        message,
    )


def _found(
    options: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments of ``connect`` by name, and where each is from."""
    given: dict[str, Any] = {}
    origins = {name: f"--{name.replace('_', '-')}" for name in _VARIABLES}
    variables = {
        name: environment[variable].strip()
        for name, variable in _VARIABLES.items()
        if environment.get(variable, "").strip()
    }
    if options.tls is False:
        variables = {name: each for name, each in variables.items() if name not in _OF_TLS}
    if options.token is not None or options.token_file is not None:
        variables = {name: each for name, each in variables.items() if "token" not in name}
    for name, variable in _VARIABLES.items():
        value = getattr(options, name)
        if value is None and name in variables:
            value, origins[name] = variables[name], variable
        if value is not None:
            given[name] = value
    if isinstance(given.get("tls"), str):
        given["tls"] = _flag(given["tls"])
    if "token_file" in given:
        if "token" in given:
            raise UsageError(f"{origins['token']} and {origins['token_file']}: give one of the two")
        given["token"], origins["token"] = Path(given.pop("token_file")), origins["token_file"]
    if options.header:
        given["headers"] = _headers(options.header)
    given["allow_plaintext_token"] = options.allow_plaintext_token
    return given, origins | {"headers": "--header", "server": "--server"}


def _flag(text: str) -> bool:
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise UsageError(f"CELLAR_TLS: {text!r} is neither 1 nor 0")


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:  # which no message quotes: a value may be a secret
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise UsageError("--header: write NAME:VALUE")
        if name in found:
            raise UsageError(f"--header: {name!r} is given twice")
        found[name] = value.strip()
    return found
