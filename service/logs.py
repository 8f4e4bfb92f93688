"""Structured logs, for people or for machines. Users' inputs are never in them.

Writing them neither waits nor fails, whatever becomes of the file or the pipe that they go to.
"""

import io
import logging
import math
import os
import re
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog

from service.settings import Settings

_BACKLOG = 2**20  # characters that wait to be written; beyond it, entries are dropped
# gRPC's word for a call whose client is gone when its end is sent: no fault of anybody's.
_LEFT = "ExecuteBatchError raised in core by servicer method"
_QUOTED = 500  # characters of what a library says
_QUOTATION = re.compile(r"(?:(?<!\w)|(?<=\bb))(['\"]).*?\1(?!\w)", re.DOTALL)
_FRAME = re.compile(r'[\s|+]*File "')  # of a traceback: code, and no input


class Lines(io.TextIOBase):
    """Text for a file that may be slow, full or gone: whoever writes never waits, and never fails.

    A thread writes. What there is no room for, or what cannot be written, is dropped and counted;
    the count is written as soon as something can be.

    Args:
        descriptor: of the file; it is not closed.
        backlog: characters that may wait.
        dropped: the line that tells how many entries were dropped.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        backlog: int = _BACKLOG,
        dropped: Callable[[int], str] = "... and {} lines that could not be written\n".format,
    ) -> None:
        super().__init__()
        self.dropped = dropped
        self._descriptor = descriptor
        self._room = backlog
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._torn = False  # the last line was written in part
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Let some text be written."""
        with self._changed:
            if len(text) > self._room and self._waiting:
                self._lost += 1
            else:
                self._room -= len(text)
                self._waiting.append(text)
                self._changed.notify_all()
        return len(text)

    def settle(self, timeout_s: float) -> bool:
        """Wait until all is written; False when that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether somebody reads along."""
        return os.isatty(self._descriptor)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                text = self._waiting[0]  # it waits until it is written: see `settle`
            written = self._put(text)
            with self._changed:
                self._lost += not written
                lost = self._lost if written else 0
            if lost and self._put(self.dropped(lost)):
                with self._changed:
                    self._lost -= lost
            with self._changed:
                self._room += len(text)
                self._waiting.popleft()
                self._changed.notify_all()

    def _put(self, text: str) -> bool:
        """Write some text, however long that takes; False when it cannot be written."""
        rest = memoryview(("\n" * self._torn + text).encode(errors="backslashreplace"))
        begun = False
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # a pipe that its other owners want so
                select.select([], [self._descriptor], [])
            except OSError:
                self._torn = self._torn or begun
                return False
            begun = True
        self._torn = False
        return True


class Repeats:
    """Lets one entry be written for what happens over and over, and says how often it did.

    Args:
        period_s: in which there is one entry of a kind.
        clock: seconds, never going back.
    """

    def __init__(self, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._period_s = period_s
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # when last written, left out since

    def next(self, kind: str) -> dict[str, int] | None:
        """What to add to the entry that is to be written now; ``None`` where it is left out."""
        now = self._clock()
        written_s, left_out = self._kinds.get(kind, (-math.inf, 0))
        if now - written_s < self._period_s:
            self._kinds[kind] = written_s, left_out + 1
            return None
        self._kinds[kind] = now, 0
        return {"left_out": left_out} if left_out else {}


def configure_logs(settings: Settings, out: TextIO | Lines | None = None) -> None:
    """Set up how log entries are written, and where to: stdout as it is, unless told otherwise."""
    out = out or sys.stdout
    # Tracebacks without the values of variables: those are the users' inputs.
    renderers: list[structlog.typing.Processor]
    if settings.log_format == "json":
        renderers = [
            structlog.processors.ExceptionRenderer(_described),
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderers = [
            structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=_print_traceback)
        ]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        *renderers,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, out)),
    )
    if isinstance(out, Lines):
        logging.basicConfig(handlers=[_OfLibraries()], level=logging.WARNING, force=True)
        logging.captureWarnings(True)
        out.dropped = lambda entries: _rendered(
            processors, "warning", {"event": "log entries were dropped", "entries": entries}
        )


_transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def _described(exc_info: Any) -> list[dict[str, Any]]:
    """A traceback for machines."""
    return [_all_unquoted(fault) for fault in _transform(exc_info)]


def _all_unquoted(fault: dict[str, Any]) -> dict[str, Any]:
    groups = [[_all_unquoted(each) for each in group] for group in fault.get("exceptions", ())]
    notes = [_unquoted(note) for note in fault.get("exc_notes", ())]
    own = {"exc_value": _unquoted(fault["exc_value"]), "exc_notes": notes, "exceptions": groups}
    return {**fault, **own}


def _print_traceback(out: TextIO, exc_info: Any) -> None:
    """A traceback for people."""
    for part in traceback.TracebackException(*exc_info).format():
        told = part if _FRAME.match(part) else _unquoted(part)
        out.write("\n" + told.rstrip("\n"))


def _unquoted(message: str) -> str:
    """What a fault says, without what it quotes: that may be a user's input."""
    return _QUOTATION.sub(r"\1...\1", message)


class _OfLibraries(logging.Handler):
    """Makes entries of what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        # As asyncio and gRPC quote what strangers sent: a line of it, escaped, and not all.
        said = ascii(record.getMessage().partition("\n")[0][:_QUOTED])
        is_left = record.getMessage().startswith(_LEFT)
        structlog.get_logger().log(
            logging.DEBUG if is_left else record.levelno,
            "a library says",
            library=record.name,
            said=said,
            exc_info=record.exc_info or None,
        )


def _rendered(
    processors: list[structlog.typing.Processor], level: str, entry: dict[str, Any]
) -> str:
    """An entry as a line, without a logger: of the thread that writes."""
    rendered: Any = entry
    for process in processors:
        rendered = process(None, level, rendered)
    return f"{rendered}\n"
