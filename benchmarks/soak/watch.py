"""A server over a while: what it holds, sampled, and what became of it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import CellarServer
from benchmarks.soak.trend import Slope, grows, slope
from benchmarks.vitals import Vitals, look_at

_MIB = 2**20
_WARM_UP = 0.3
"""Of the time: until every path was taken, and allocators and the collector of garbage have what
they keep."""
_QUIET_S = 20.0
_SLACK = 6  # threads and file descriptors that come and go


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one quantity went.

    Attributes:
        name: of the quantity.
        unit: of its values.
        values: one per sample.
        slope: per second, after the warm-up.
        tolerance: rises of less than this, over the time after the warm-up, are none.
        grew: it rises.
    """

    name: str
    unit: str
    values: Sequence[float]
    slope: Slope
    tolerance: float
    grew: bool


class Watch:
    """Samples a server.

    Args:
        server: whom to watch.
    """

    def __init__(self, server: CellarServer) -> None:
        self.times_s: list[float] = []
        self.samples: list[Vitals] = []
        self._server = server
        self._start = time.monotonic()
        self._before = self._look()

    def sample(self) -> Vitals:
        """Take a sample now.

        Raises:
            OSError: the server does not answer.
        """
        found = self._look()
        self.times_s.append(time.monotonic() - self._start)
        self.samples.append(found)
        return found

    def courses(self) -> list[Course]:
        """Every quantity, and whether it grew."""
        rss = [each.rss_bytes / _MIB for each in self.samples]
        return [
            self._course("resident memory", "MiB", rss, max(4.0, 0.025 * rss[-1])),
            self._course("file descriptors", "", [each.fds for each in self.samples], 10),
            self._course("threads", "", [each.threads for each in self.samples], 4),
            self._course("sessions", "", [each.sessions for each in self.samples], 40),
            self._course("pending steps", "", [each.pending_steps for each in self.samples], 500),
        ]

    def left_behind(self) -> list[str]:
        """What the server still holds once all callers are gone; waits until it is nothing."""
        give_up = time.monotonic() + _QUIET_S
        while True:
            now, before = self._look(), self._before
            held = (
                ("sessions", now.sessions, 0),
                ("pending steps", now.pending_steps, 0),
                ("file descriptors", now.fds, before.fds + _SLACK),
                ("threads", now.threads, before.threads + _SLACK),
            )
            found = [f"{name}: {value}" for name, value, most in held if value > most]
            if not found or time.monotonic() > give_up:
                return found
            time.sleep(0.1)

    @property
    def warm_up(self) -> int:
        """Samples that do not count."""
        return int(len(self.samples) * _WARM_UP)

    def _course(self, name: str, unit: str, values: Sequence[float], tolerance: float) -> Course:
        times, warm = self.times_s[self.warm_up :], values[self.warm_up :]
        found = slope(times, warm)
        seconds = times[-1] - times[0] if times else 0.0
        return Course(
            name=name,
            unit=unit,
            values=values,
            slope=found,
            tolerance=tolerance,
            grew=grows(found, seconds, tolerance),
        )

    def _look(self) -> Vitals:
        return look_at(self._server.pid, self._server.metrics)


__all__ = ["Course", "Watch"]
