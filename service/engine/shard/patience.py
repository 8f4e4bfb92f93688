"""How long a few steps wait for more of them.

A run of one step costs nearly what a run of ten does, and `grpc.aio` accepts one call after the
other: steps that run as they come run alone, however many callers there are. So a few of them
wait until there are as many as there usually are. A caller who is alone waits for nobody but once
in a while, to see whether that is still so.
"""

_MOST = 32  # rows to wait for
_NEXT_S = 250e-6  # nobody came for so long: a call takes less from the socket to the queue
_LONGEST_S = 1e-3
_TRY = 32  # of so many runs, one waits for whoever comes
_WEIGHT, _WEIGHT_OF_TRY = 0.3, 0.7  # of the newest run: one that waited for all says more


class Patience:
    """Decides at each turn of the event loop whether what has come runs now."""

    def __init__(self) -> None:
        self._usual = 1.0  # rows of a run, lately
        self._runs = 0
        self._enough = 0  # rows of the next run; 0: nobody waits
        self._rows = 0
        self._first_s = 0.0
        self._last_s = 0.0

    def is_over(self, rows: int, now_s: float) -> bool:
        """Whether to run now, with so many rows waiting; true ends the wait."""
        if not self._enough:
            if not 0 < rows < _MOST:
                return True
            self._runs += 1
            self._enough = round(self._usual) if self._runs % _TRY else _MOST
            self._first_s = self._last_s = now_s
        elif rows > self._rows:
            self._last_s = now_s
        self._rows = rows
        if rows < self._enough and now_s < min(self._last_s + _NEXT_S, self._first_s + _LONGEST_S):
            return False
        weight = _WEIGHT_OF_TRY if self._enough == _MOST else _WEIGHT
        self._usual += weight * (min(rows, _MOST) - self._usual)
        self._enough = 0
        return True
