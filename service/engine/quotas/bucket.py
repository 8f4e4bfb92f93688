"""A rate of steps that is kept by telling callers when to come again. Knows no principals."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BURST_S = 1.0  # of the rate may be taken at once
GRACE_S = 1.0  # for which a place is kept for whoever was told to come
HORIZON_S = 10.0  # up to which places are kept: who is told a later time gets none
_SLACK = 1e-6  # steps: sums of floats are not exact
_TICK_S = 1e-3  # delays are told in whole ones


@dataclass(slots=True, eq=False)
class _Place:
    """So many requests of one size that were told to come again."""

    due_s: float
    steps: int  # of each
    times: int  # that have not come


class Bucket:
    """Lets so many steps through in a second, and a second's worth at once after a pause.

    Whoever finds too few is told when to come again, and a place in line is kept for a request of
    that size: those who are refused together come one after the other, and whoever comes anew is
    told a time behind them. Nobody says who he is, so that a place is whoever's asks for as many
    steps once it is due; it is kept for `GRACE_S`.

    What is larger than a second's worth is let through when that much is there, and the rest is
    owed: nothing more is let through until that is paid.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._level: float | None = None  # steps that may be taken; below 0: that are owed
        self._at_s = 0.0
        self._rate = 0.0
        self._kept = 0  # steps of places
        self._places: deque[_Place] = deque()  # that are not due, the next first
        self._due: deque[_Place] = deque()  # that are
        self._due_kept = 0.0  # steps that may be taken at once for those
        self._by_size: dict[int, deque[_Place]] = {}
        self._owed = 0  # steps of those who pay once they have taken
        self._owing: deque[tuple[float, int]] = deque()  # when, and how many

    def take(self, steps: int, rate: float) -> bool:
        """Take steps, if they may be taken now: all of them, or none."""
        self._go_on(rate)
        return self._take(steps)

    def take_rows(self, rows: Sequence[int], rate: float) -> int:
        """Take the steps of rows, in order, until one must come again; returns how many rows."""
        level, total = self._go_on(rate), sum(rows)
        if total <= min(level - self._kept - self._owed, self._burst):
            self._level = level - total
            return len(rows)
        for count, steps in enumerate(rows):
            if not self._take(steps):
                return count
        return len(rows)

    def wait(self, steps: int, rate: float, times: int = 1) -> tuple[float, int]:
        """When to come again for what could not be taken now.

        Returns:
            The seconds, and for how many requests of so many steps that holds, 1 to ``times``: the
            others come later.
        """
        level, now_s = self._go_on(rate), self._at_s
        at_once = max(1, min(times, int(self._burst // steps)))
        missing = self._kept + self._owed + min(at_once * steps, self._burst) - level
        due_s = now_s + math.ceil(max(missing, 0.0) / rate / _TICK_S + _SLACK) * _TICK_S
        if due_s - now_s <= HORIZON_S or not self._kept:
            place = _Place(due_s, steps, at_once)
            self._places.append(place)
            self._by_size.setdefault(steps, deque()).append(place)
            self._kept += steps * at_once
        else:
            at_once = times
        return due_s - now_s, at_once

    def pay(self, steps: int, rate: float) -> float:
        """Take steps that cannot be refused; returns for how many seconds to take no more."""
        level = self._go_on(rate)
        missing = self._kept + self._owed + steps - level
        if missing <= _SLACK:
            self._level = level - steps
            return 0.0
        wait_s = missing / rate
        self._owed += steps
        self._owing.append((self._at_s + wait_s, steps))
        return wait_s

    @property
    def _burst(self) -> float:
        return max(1.0, self._rate * BURST_S)

    def _take(self, steps: int) -> bool:
        """Take steps, by a place that is due or because nobody is before them."""
        level = self._level
        assert level is not None, "`_go_on` was called"
        need = min(steps, self._burst) - _SLACK
        if level < need:
            return False
        places = self._by_size.get(steps) if self._due else None
        if places and places[0].due_s <= self._at_s + _SLACK:
            self._use(places[0], 1)
        elif level - self._kept - self._owed < need:
            return False
        self._level = level - steps
        return True

    def _go_on(self, rate: float) -> float:
        """Let the time pass until now; returns what may be taken, places aside."""
        now_s = self._clock()
        self._rate = rate
        burst = self._burst
        level = burst if self._level is None else self._level + (now_s - self._at_s) * rate
        self._at_s = now_s
        while self._places and self._places[0].due_s <= now_s + _SLACK:
            place = self._places.popleft()
            self._due.append(place)
            self._due_kept += min(place.steps, burst) * place.times
        level = min(level, burst + self._owed + self._due_kept)  # what is somebody's is kept
        while self._owing and self._owing[0][0] <= now_s + _SLACK:
            steps = self._owing.popleft()[1]
            self._owed -= steps
            level -= steps
        while self._due and self._due[0].due_s + GRACE_S < now_s:
            self._use(self._due[0], self._due[0].times)
        self._level = level = min(level, burst + self._owed + self._due_kept)
        return level

    def _use(self, place: _Place, times: int) -> None:
        """So many requests have come for a place, or nobody will."""
        place.times -= times
        self._kept -= place.steps * times
        self._due_kept = max(0.0, self._due_kept - min(place.steps, self._burst) * times)
        own = self._by_size[place.steps]
        while own and not own[0].times:
            own.popleft()
        if not own:
            del self._by_size[place.steps]
        while self._due and not self._due[0].times:
            self._due.popleft()
        if not self._due:
            self._due_kept = 0.0
