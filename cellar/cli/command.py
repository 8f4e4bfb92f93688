"""The command: reads its line, runs it, and says in one line what went wrong."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from cellar.cli.access import access
from cellar.cli.arguments import UsageError
from cellar.cli.parsing.parser import parser
from cellar.cli.shown import told
from cellar.errors import BadInputError, CellarError, ServerError
from cellar.reading.errors import TableError
from cellar.sync.client import Client
from cellar.sync.connecting import connect

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED, CUT_OFF = 130, 141  # as a shell reports SIGINT and SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a symbol that a terminal lacks is no fault
        sys.stdout.reconfigure(errors="replace")
    try:
        options = parser().parse_args(arguments)
        if getattr(options, "needs_server", True):
            with _noted(), _connected(options) as client:
                options.run(client, options)
        else:
            options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (UsageError, TableError) as error:
        return _say(str(error), USAGE)
    except BrokenPipeError:
        return _cut_off()
    except CellarError as error:
        is_line = isinstance(error, BadInputError) and not error.reason
        return _say(told(error), USAGE if is_line else FAILED)
    except OSError as error:
        if not error.filename:  # a disk that is full, and what is in the buffer does not fit later
            with suppress(OSError, ValueError):
                _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}", USAGE if error.filename else FAILED)
    except KeyboardInterrupt:
        return _say("stopped", INTERRUPTED)
    return DONE


def _connected(options: argparse.Namespace) -> Client:
    with access(options, os.environ) as given:
        return connect(options.server, timeout_s=options.timeout, **given)


@contextmanager
def _noted() -> Iterator[None]:
    """Says once why a request is tried again: who waits at a terminal is to know for what."""
    log, notes = logging.getLogger("cellar"), _Notes()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
        log.setLevel(level)


class _Notes(logging.Handler):
    _is_told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Prints warnings, and the first refusal that is tried again."""
        if record.levelno == logging.INFO:
            cause = record.args[-1] if isinstance(record.args, tuple) and record.args else None
            if self._is_told or not (isinstance(cause, ServerError) and cause.reason):
                return
            self._is_told = True
        _say(record.getMessage(), DONE)


def _say(text: str, status: int) -> int:
    """One line, whatever is in the text."""
    line = " ".join(text.split())
    with suppress(OSError):  # nobody listens
        print(f"cellar: {line}", file=sys.stderr)
    return status


def _cut_off() -> int:
    """Whoever read what this prints has had enough: ``cellar generate … | head -1``."""
    _drop_output()
    return CUT_OFF


def _drop_output() -> None:
    """What is still in the buffer goes nowhere at the end."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())
    os.close(quiet)
