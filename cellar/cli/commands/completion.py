"""``cellar completion``: scripts that let shells complete the command."""

from __future__ import annotations

import argparse

import shtab

from cellar.cli.access import FILES as ACCESS_FILES

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = ("--csv", "--future", *ACCESS_FILES)


def run_completion(options: argparse.Namespace) -> None:
    """Print the script of a shell."""
    for each in _parsers(options.parser):
        for action in each._actions:
            if set(action.option_strings) & set(_FILES):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(options.parser, options.shell))


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found
