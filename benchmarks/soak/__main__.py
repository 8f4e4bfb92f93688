"""``make soak``: callers come, step, vanish for as long as one likes, and nothing may grow.

Callers are processes of their own, some of which are killed in the midst of all they do. Exits
with 1 where memory, handles, threads, sessions or pending steps grow, where something is left
behind, or where a caller was told what it should not have been.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.errors import UnmeasuredError
from benchmarks.fuzz.messages.subjects import publish
from benchmarks.processes import CellarServer, Child, module
from benchmarks.soak.lives import LIVES
from benchmarks.soak.report import as_json, draw, print_tables
from benchmarks.soak.watch import Watch

MINUTES = 10.0
CALLERS = 2
SERVE_FLAGS = (
    "--max-idle-timeout-s=8",
    "--idle-timeout-s=8",
    "--max-request-steps=2000",
    "--max-paths=64",
    "--default-paths=64",
    # Closed and expired ids are kept up to a number, which is to be reached in the warm-up.
    "--remembered-sessions=500",
)
_VANISH_S = 8.0  # in the mean, between two processes that are killed
_DRAIN_S = 40.0
_EXPECTED = ("ok", "SessionExpiredError")  # seconds can pass on a busy machine


class Callers:
    """Processes of callers, of which there are always so many.

    Args:
        address: of the server.
        count: how many processes.
        seed: of what they do.
        lives: what they do.
    """

    def __init__(self, address: str, count: int, seed: int, lives: Sequence[str]) -> None:
        self.ends: Counter[str] = Counter()
        self.vanished = 0
        self._address, self._lives = address, lives
        self._next = seed * 1000
        self._chance = random.Random(seed)
        self._all = [self._start() for _ in range(count)]
        self._vanish_at = time.monotonic() + self._chance.expovariate(1 / _VANISH_S)

    def tend(self) -> None:
        """Read what they say; now and then kill one, and let another one come."""
        for number, child in enumerate(self._all):
            self._read(child)
            if not child.is_running():
                self.ends[f"process: ended: {child.errors().strip()[-100:]}"] += 1
                child.close()
                self._all[number] = self._start()
        if time.monotonic() > self._vanish_at:
            number = self._chance.randrange(len(self._all))
            self._all[number].close()  # SIGKILL: connections end without a word
            self._all[number] = self._start()
            self.vanished += 1
            self._vanish_at = time.monotonic() + self._chance.expovariate(1 / _VANISH_S)

    def close(self) -> None:
        """Kill them all."""
        for child in self._all:
            self._read(child)
            child.close()

    @property
    def surprises(self) -> list[str]:
        """Ends of lives that should not be."""
        return [end for end in self.ends if end.split(": ")[1] not in _EXPECTED]

    def _start(self) -> Child:
        self._next += 1
        command = module("benchmarks.soak.caller", self._address, str(self._next), *self._lives)
        return Child("callers", command)

    def _read(self, child: Child) -> None:
        for line in child.unread():
            self.ends.update(json.loads(line)["ends"])


def main() -> None:
    given = _arguments()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    with tempfile.TemporaryDirectory(prefix="cellar-soak-") as folder:
        server = CellarServer(publish(Path(folder)), *SERVE_FLAGS)
        try:
            failures = _soak(server, given, console)
        finally:
            server.close()
    for failure in failures:
        console.print(failure, style="bold", markup=False)
    console.print("not flat" if failures else "flat")
    sys.exit(1 if failures else 0)


def _soak(server: CellarServer, given: argparse.Namespace, console: Console) -> list[str]:
    seconds = given.minutes * 60
    watch, lives = Watch(server), given.only or sorted(LIVES)
    callers = Callers(server.address, given.callers, given.seed, lives)
    period_s = max(0.2, min(2.0, seconds / 300))
    end, say_at = time.monotonic() + seconds, time.monotonic() + 60
    try:
        while time.monotonic() < end and server.is_running():
            time.sleep(period_s)
            callers.tend()
            now = watch.sample()
            if time.monotonic() > say_at:
                say_at += 60
                console.print(
                    f"{watch.times_s[-1] / 60:.0f} min: {now.rss_bytes / 2**20:.1f} MiB, "
                    f"{now.fds} descriptors, {now.threads} threads, {now.sessions} sessions, "
                    f"{sum(callers.ends.values()):,} lives"
                )
    finally:
        callers.close()
    courses = watch.courses()
    failures = [f"{course.name} grows" for course in courses if course.grew]
    failures += [f"left behind: {each}" for each in watch.left_behind()]
    failures += [f"a caller saw {each}" for each in callers.surprises]
    failures += _complaints(server)
    try:
        status = server.terminate(_DRAIN_S)
        failures += [f"the server ended with status {status}"] if status else []
    except UnmeasuredError as error:
        failures.append(str(error))
    draw(courses, watch, given.plot)
    print_tables(console, courses, callers.ends, watch)
    console.print(f"{callers.vanished} processes of callers vanished; see {given.plot}")
    print(
        as_json(
            courses,
            callers.ends,
            seed=given.seed,
            seconds=round(seconds),
            vanished=callers.vanished,
            failures=failures,
        )
    )
    return failures


def _complaints(server: CellarServer) -> list[str]:
    """What the server has logged and should not have."""
    found = {
        f"the server logged {entry.get('event')!r} {entry.get('said', '')}".strip()
        for entry in map(json.loads, server.unread())
        if entry.get("level") not in ("debug", "info")
    }
    last = server.errors().strip().splitlines()[-1:]
    return sorted(found) + [f"the server wrote to stderr: {line[:200]}" for line in last]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--callers", type=int, default=CALLERS, help="processes of callers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=LIVES, help="may be repeated")
    parser.add_argument("--plot", type=Path, default=Path("runs/soak.png"), help="the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
