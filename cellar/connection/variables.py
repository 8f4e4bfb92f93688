"""Which server the environment names: ``CELLAR_SERVER``, and whether that was misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from cellar.connection.connection import DEFAULT_SERVER
from cellar.errors import BadInputError

SERVER = "CELLAR_SERVER"
_ALIKE = 0.85  # no setting of the server, which may stand in the same environment, is so near


def default_server(environment: Mapping[str, str]) -> str:
    """The server to ask unless another one is named, HOST:PORT; an empty variable says nothing.

    Raises:
        BadInputError: a variable is almost called CELLAR_SERVER, and so is hardly meant otherwise.
    """
    named = environment.get(SERVER, "").strip()
    if named:
        return named
    for variable in environment:
        alike = difflib.SequenceMatcher(None, variable.upper(), SERVER).ratio()
        if variable != SERVER and alike >= _ALIKE and variable.upper().startswith("CELLAR"):
            raise BadInputError(f"{variable}: there is no such variable; did you mean {SERVER}?")
    return DEFAULT_SERVER
