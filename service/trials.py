"""Loads model files in a process of its own first, so that a crash is that process's alone.

ONNX Runtime can crash on a file, hang on it or be killed for the memory it takes, and nothing in
the same process survives that or can say why. The process here is a fresh interpreter, not a fork
of one with threads; it works through file after file, and is replaced when it has died.

Runs everything on the CPU, whatever the device: a second process may not be welcome on a GPU.
Knows nothing of gRPC.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import structlog

from models.compile.arena import compile_model
from models.compile.serving import Precision
from models.compile.stateless import compile_stateless
from models.errors import ModelError, plain
from models.repository import MODEL_FILE, SIDECAR_FILE, load_model
from models.untrusted.reading import read_bytes
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.executor import measure
from service.engine.execution.probe import probe
from service.engine.execution.stateless import StatelessRunner

COMMAND = (sys.executable, "-P", "-m", "service.trials")
_READY = "ready"
_PASSED, _FAILED, _MEMORY = "passed", "failed", "memory"
_LAST = "last"  # after one of these: the process has ended
_START_S = 60.0  # for an interpreter with its imports
_ORPHANED_S = 5.0  # how much later a trial ends by itself, if nobody has ended it
_GROWN_BYTES = 512 * 2**20  # a process that has grown beyond is not kept beside the server
_SHORT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "out of memory",
    "alloc failed",
)
_log = structlog.get_logger("cellar")
_passed: set[tuple[object, ...]] = set()
"""What has passed in this process: its content, how it was tried, and by what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A file to try, and how it will be served."""

    path: str
    precision: str
    max_batch: int
    chunk_steps: int
    limit_s: float
    most_memory: int
    """Bytes that it may take."""
    most_bytes: int
    """Of the model."""


class TrialsClosedError(Exception):
    """No more is tried: the server ends."""


class Trials:
    """Tries model files, one after the other. `close` may come from another thread.

    What has passed is not tried again by this process, by whatever name it comes.

    Args:
        limit_s: how long one trial may take.
        most_memory: bytes that it may take.
        most_bytes: that a model may have.
        command: what runs `work`.
    """

    def __init__(
        self,
        *,
        limit_s: float,
        most_memory: int,
        most_bytes: int,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._limit_s = limit_s
        self._most_memory = most_memory
        self._most_bytes = most_bytes
        self._command = tuple(command)
        self._process: _Process | None = None
        self._lock = threading.Lock()  # what is started is ended, whoever closes when
        self._busy = threading.Lock()
        self._closed = False
        self._works = True

    def attempt(self, path: Path, *, precision: str, max_batch: int, chunk_steps: int) -> None:
        """Load a file and run it, elsewhere; no more than a warning where that is not possible.

        Raises:
            ModelError: it is no good, or the process did not survive it, or was not done in time
                or memory.
            TrialsClosedError: `close` was called.
        """
        trial = Trial(
            path=str(path),
            precision=precision,
            max_batch=max_batch,
            chunk_steps=chunk_steps,
            limit_s=self._limit_s,
            most_memory=self._most_memory,
            most_bytes=self._most_bytes,
        )
        content = _digest(path, self._most_bytes)
        known = None if content is None else (content, replace(trial, path=""), self._command)
        if known in _passed:
            return
        with self._busy:
            process = self._process or self._start()
            if process is None:
                return
            answer = process.ask(json.dumps(asdict(trial)), self._limit_s)
            outcome, _, rest = answer.partition(" ")
            if outcome == _PASSED and known is not None:
                _passed.add(known)
            if outcome not in (_PASSED, _FAILED) or rest.startswith(_LAST):
                self._process = None
                fate = process.end()
            if outcome == _PASSED:
                return
            if outcome == _FAILED:
                raise ModelError(json.loads(rest.removeprefix(_LAST)))
            if self._closed:
                raise TrialsClosedError
        if outcome == _MEMORY:
            fate = f"takes more than {self._most_memory:,} bytes of memory (--load-memory)"
        if process.is_late:
            fate = f"took more than {self._limit_s:g} s (--load-timeout-s)"
        raise ModelError(f"{path}: the runtime {fate} while loading it and running it once")

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        with self._busy:  # which was not for long
            if self._process is not None:
                self._process.end()
                self._process = None

    def _start(self) -> "_Process | None":
        """A process, if there can be one: that has to do with no file."""
        if not self._works:
            return None
        fault = None
        try:
            with self._lock:
                if self._closed:
                    raise TrialsClosedError
                process = self._process = _Process(self._command)
            if process.ask("", _START_S) == _READY:
                return process
            self._process = None
            fault = f"their process {process.end()}"
        except OSError as error:
            fault = str(error)
        if self._closed:
            raise TrialsClosedError
        self._works = False
        _log.warning("model files are not tried before they are loaded", reason=fault)
        return None


class _Process:
    """An interpreter that runs `work`.

    Raises:
        OSError: there can be no more processes.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.is_late = False
        """It was made to end, because it was not done in time."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_path())},
        )

    def ask(self, line: str, limit_s: float) -> str:
        """Send a line, if it is one; the next that comes back, or nothing.

        Nothing comes when the process has ended, which it is made to after the limit.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "it is a pipe"
        assert stdout is not None, "it is a pipe"
        late = threading.Timer(limit_s, self._end_late)
        late.daemon = True
        late.start()
        try:
            if line:
                stdin.write(line + "\n")
                stdin.flush()
            return stdout.readline().strip()
        except OSError:  # it died before it could read
            return ""
        finally:
            late.cancel()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self) -> str:
        """See that it has ended; returns what it did: "crashed", say."""
        try:
            status = self._process.wait(timeout=_ORPHANED_S)
        except subprocess.TimeoutExpired:  # it closed its end of the pipe, and went on
            self._process.kill()
            status = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it has not read
                if stream is not None:
                    stream.close()
        return _fate(status)

    def _end_late(self) -> None:
        self.is_late = True
        self._process.kill()


def _fate(status: int) -> str:
    """What became of a process with this exit status."""
    if status >= 0:
        return f"ended its process (status {status})"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if name == "SIGKILL":
        return f"was killed ({name}), as is whoever takes too much memory,"
    return f"crashed ({name})"


def _digest(path: Path, most_bytes: int) -> str | None:
    """Hash a model's folder, if all that is in it are the files that every model has."""
    digest = hashlib.sha256()
    try:
        names = {file.name for file in path.parent.iterdir()}
        if MODEL_FILE not in names or names - {MODEL_FILE, SIDECAR_FILE}:
            return None
        for file in sorted(path.parent.iterdir()):
            digest.update(file.name.encode() + b"\0")
            digest.update(hashlib.sha256(read_bytes(file, most_bytes, what="")).digest())
    except (OSError, ModelError):  # loading it tells
        return None
    return digest.hexdigest()


def _path() -> list[str]:
    """Where this process finds its modules, for one that starts elsewhere."""
    return [entry or os.getcwd() for entry in sys.path]


# -- the other process ------------------------------------------------------------------------


def work(attempt: "Callable[[Trial], None]") -> None:
    """Try what comes on stdin, and say so on stdout, until there is no more.

    Also what a file raises: it is not loaded a second time to find that out, as what is wrong may
    be for want of memory in words that nobody knows.
    """
    answers = _private_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it is the server's
    _leave_no_core()
    _die_first()
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        trial = Trial(**json.loads(line))
        _end_by_itself(trial.limit_s + _ORPHANED_S)
        _bound_memory(trial.most_memory)
        try:
            attempt(trial)
            outcome, reason = _PASSED, ""
        except Exception as error:  # whatever a file makes its readers throw
            outcome, reason = _MEMORY if _is_of_memory(error) else _FAILED, _said(error, trial)
        _end_by_itself(0)
        _bound_memory(None)
        ends = outcome == _MEMORY or _resident_bytes() > _GROWN_BYTES
        words = (outcome, *([_LAST] if ends else []), *([json.dumps(reason)] if reason else []))
        print(*words, file=answers, flush=True)
        if ends:
            return


def try_file(trial: Trial) -> None:
    """Load a model file as it will be served, and run it.

    Raises:
        Exception: whatever is wrong with it.
    """
    model = load_model(Path(trial.path), name="trial", version=1, most_bytes=trial.most_bytes)
    precision = Precision(trial.precision)
    if not model.manifest.is_streamable:
        StatelessRunner(compile_stateless(model, precision=precision))
        return
    graph = compile_model(model, precision=precision)
    runner = CpuRunner(graph, slots=trial.max_batch + 1, max_batch=trial.max_batch)
    findings = probe(
        runner,
        model.manifest,
        slots=np.arange(trial.max_batch),
        max_batch=trial.max_batch,
        chunk_steps=trial.chunk_steps,
        tolerance=0.0,
    )
    runner.rows_run_alone = findings.rows_run_alone
    for rows in (1, trial.max_batch):
        measure(runner, rows=rows, scratch=trial.max_batch)


def _said(error: Exception, trial: Trial) -> str:
    """What is wrong with a file, by what it raised."""
    text = plain(str(error).strip().partition("\n")[0]) or type(error).__name__
    if not isinstance(error, ModelError):
        return f"{trial.path}: cannot be run: {text}"
    names_file = text.startswith(str(Path(trial.path).parent))  # or the manifest beside it
    return text if names_file else f"{trial.path}: {text}"


def _private_stdout() -> IO[str]:
    """Where this process answers; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


def _leave_no_core() -> None:
    """A crash is expected here: it need not fill the disk."""
    with contextlib.suppress(ImportError):  # not everywhere
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_first() -> None:
    """Where the machine is short of memory, this process goes before the server."""
    with contextlib.suppress(OSError):  # not everywhere
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


def _bound_memory(most: int | None) -> None:
    """Allow so many bytes beside what is held now; ``None``: as many as there are.

    Only Linux counts all of them.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.RLIM_INFINITY if most is None else most + _data_bytes()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard != resource.RLIM_INFINITY:
            limit = hard if most is None else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """Bytes of this process that RLIMIT_DATA counts.

    Raises:
        OSError: that is not told here.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmData:"):
            return 1024 * int(line.split()[1])
    raise OSError("there is no VmData")


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether something was raised for want of memory, or because of what was."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _SHORT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def _resident_bytes() -> int:
    """The memory that this process holds; 0 where that is not told.

    Not the most that it has held: that begins with what whoever started it had.
    """
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _end_by_itself(after_s: float) -> None:
    """Die after so long, if nobody is left to see to it; 0: live on."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, after_s)


if __name__ == "__main__":
    work(try_file)
