"""What a run is expected to cost, from what runs like it have cost."""

from service.engine.work.work import Batch, Kind

_WEIGHT = 0.1  # of the newest run


class RunCosts:
    """Running means of seconds, by kind and size class (a power of two of steps).

    Args:
        inline_run_s: a run expected to take no longer is a short one.
    """

    def __init__(self, inline_run_s: float) -> None:
        self.inline_run_s = inline_run_s
        self._seconds: dict[tuple[Kind, int], float] = {}

    def expected_s(self, kind: Kind, steps: int) -> float | None:
        """Seconds, if runs like it have been seen."""
        return self._seconds.get((kind, steps.bit_length()))

    def is_short(self, kind: Kind, steps: int) -> bool:
        """Whether a run may hold up the event loop."""
        seconds = self.expected_s(kind, steps)
        return seconds is not None and seconds <= self.inline_run_s

    def is_short_batch(self, batch: Batch) -> bool:
        """The same for a batch."""
        if batch.kind is Kind.BARRIER:
            return True
        times, rows = _size(batch)
        seconds = self.expected_s(batch.kind, rows)
        return seconds is not None and seconds * times <= self.inline_run_s

    def observe_batch(self, batch: Batch, seconds: float) -> None:
        """Count the run of a batch."""
        times, rows = _size(batch)
        self.observe(batch.kind, rows, seconds / times)

    def observe(self, kind: Kind, steps: int, seconds: float) -> None:
        """Count a run."""
        key = (kind, steps.bit_length())
        known = self._seconds.get(key, seconds)
        self._seconds[key] = (1 - _WEIGHT) * known + _WEIGHT * seconds


def _size(batch: Batch) -> tuple[int, int]:
    """How often a batch goes over how many rows; only a decode goes more than once."""
    if batch.kind is Kind.DECODE:
        steps = batch.parts[0].work.weight
        return steps, batch.steps // steps
    return 1, batch.effort
