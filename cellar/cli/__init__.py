"""The command ``cellar``: look at models, and try them, on any running server.

Exit status: 0 done; 1 the server said no, or could not be reached; 2 the command line, or the
file it names, is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_VERBOSITY = "GRPC_VERBOSITY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # gRPC would print beside the line that says what is wrong; it listens when it is imported.
    is_ours = "grpc" not in sys.modules and _VERBOSITY not in os.environ
    if is_ours:
        os.environ[_VERBOSITY] = "NONE"
    from cellar.cli import command

    if is_ours:
        del os.environ[_VERBOSITY]
    return command.main(arguments)
