"""The command ``cellar``: look at models, and try them, on any running server.

Exit status: 0 done; 1 the server said no, or could not be reached; 2 the command line, or the
file it names, is wrong.
"""

from cellar.cli.command import main

__all__ = ["main"]
