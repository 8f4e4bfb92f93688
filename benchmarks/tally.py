"""What is counted in one round, by whoever sends. Standard library only, as `pipe`."""

import time

from benchmarks.pipe import Reply


class Tally:
    """Messages, their steps and their latencies, from now on."""

    def __init__(self) -> None:
        self._latencies_s: list[float] = []
        self._steps = 0
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def add(self, latency_s: float, *, steps: int) -> None:
        """Count one message that was answered."""
        self._latencies_s.append(latency_s)
        self._steps += steps

    def summary(self) -> Reply:
        """The round up to now."""
        wall_s = time.perf_counter() - self._wall
        cpu_s = time.process_time() - self._cpu
        ordered = sorted(self._latencies_s)
        return {
            "messages": len(ordered),
            "steps": self._steps,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "p50_ms": _quantile(ordered, 0.5) * 1e3,
            "p99_ms": _quantile(ordered, 0.99) * 1e3,
        }


def _quantile(ordered: list[float], level: float) -> float:
    """The nearest-rank quantile; 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))]


__all__ = ["Tally"]
