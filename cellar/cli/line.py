"""How a command line is read, what its help looks like, and what is said of one that is wrong."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NoReturn

_WIDTH = 80
_NARROWEST = 40
_EXAMPLES = "examples:"
_NEGATIVE = re.compile(r"-(?:\d|\.\d)")  # -1, -1e5 and -1,2 are inputs, and no options


class Parser(argparse.ArgumentParser):
    """Takes options before, between and after positionals, as people write them.

    What is wrong with a line is said in one, with what was probably meant; exit status 2.
    """

    _inside = False
    _first = ""  # of the line

    def __init__(self, *, examples: tuple[str, ...] = (), **options: Any) -> None:
        """``examples`` of whole lines end the help."""
        if examples:
            options["epilog"] = "\n".join((_EXAMPLES, *(f"  {line}" for line in examples)))
        options.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **options)
        self._negative_number_matcher = _NEGATIVE

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses; the intermixed parsing of argparse comes back here for each half.

        A command refuses what it does not know itself, since it knows what is near.
        """
        if self._inside or self._subparsers is not None:
            self._first = next(iter(sys.argv[1:] if args is None else args), "")
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and ends with 2."""
        hint = self._nearest(message) or self._misplaced
        self.exit(2, f"{self.prog}: {message}{hint}; see {self.prog} --help\n")

    @property
    def _misplaced(self) -> str:
        option = self._first.partition("=")[0]
        if self._subparsers is None or not option.startswith("-"):
            return ""
        return f": options stand behind the command, as in {self.prog} COMMAND {option}"

    def _nearest(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: (--?[\w-]+)", message)
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        there: Iterator[str] = iter(())
        if unknown is not None:
            there = (each for action in self._actions for each in action.option_strings)
        elif wrong is not None:
            there = (str(each) for action in self._actions for each in action.choices or ())
        named = unknown or wrong
        near = get_close_matches(named[1], list(there), n=1) if named else []
        return f": did you mean {near[0]}?" if near else ""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Eighty columns at most; of a description's lines only those of examples stay as written."""

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(prog, max_help_position=26, width=min(_WIDTH, max(columns, _NARROWEST)))

    def add_argument(self, action: argparse.Action) -> None:
        """Adds it; that commands stand further in is forgotten by argparse, of Python 3.11."""
        super().add_argument(action)
        for each in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(each)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return super()._fill_text(text, width, indent)
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
