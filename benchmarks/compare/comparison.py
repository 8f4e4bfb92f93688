"""Three servers side by side: a commit, the same commit again, and the code to be judged."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.compare.cases import Prepare
from benchmarks.compare.trees import Tree
from benchmarks.compare.verdict import Interval, Verdict, judge
from benchmarks.errors import UnmeasuredError
from benchmarks.processes import CellarServer
from benchmarks.rounds import Metric, Series, alternate, cpu, rotated, speed

BASE, AGAIN, NEW = "base", "base again", "new"
IDLE_S = 1.0
MOST_IDLE = 0.05
"""Of a core, that a server may use while nobody calls it: it would disturb the two others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One case on all three servers."""

    base: Series
    again: Series
    new: Series

    @property
    def cpu(self) -> Interval:
        """CPU per step, new over base."""
        return _ratio(self.new, self.base, cpu)

    @property
    def itself(self) -> Interval:
        """CPU per step, the base again over the base."""
        return _ratio(self.again, self.base, cpu)

    @property
    def speed(self) -> Interval:
        """Steps per second, new over base."""
        return _ratio(self.new, self.base, speed)

    @property
    def verdict(self) -> Verdict:
        """Whether the new code costs more."""
        return judge(self.cpu, self.itself)


class Comparison:
    """The servers and their one load; cases are measured one after the other.

    Args:
        bench: starts them.
        models: the repository that all of them serve.
        base: the code to compare with.
        new: the code to be judged.
    """

    def __init__(self, bench: Bench, models: Path, *, base: Tree, new: Tree) -> None:
        for tree in (base, new):
            tree.check()
        self._bench = bench
        self._servers = {
            name: bench.cellar_of(models, tree=tree.folder)
            for name, tree in ((BASE, base), (AGAIN, base), (NEW, new))
        }
        self._load = bench.load()

    def check_idle(self) -> dict[str, float]:
        """The share of a core that each server uses while nobody calls it.

        Raises:
            UnmeasuredError: it is not next to nothing.
        """
        shares = _idle_shares(self._servers)
        for name, share in shares.items():
            if share > MOST_IDLE:
                raise UnmeasuredError(f"{name} uses {share:.0%} of a core with nothing to do")
        return shares

    def measure(self, prepare: Prepare) -> Compared:
        """One case, in turns; its callers hang up in the end."""
        cases = []
        for name, server in self._servers.items():
            case = prepare(self._bench, server, self._load)
            case.series.contestant = name
            cases.append(case)
        base, again, new = alternate(cases, self._bench.pace, rotated)
        for case in cases:
            self._load.ask("close", case=case.name)
        return Compared(base=base, again=again, new=new)


def _idle_shares(servers: dict[str, CellarServer]) -> dict[str, float]:
    time.sleep(IDLE_S)  # until the last one to start has settled
    before = {name: server.cpu_s() for name, server in servers.items()}
    time.sleep(IDLE_S)
    return {name: (server.cpu_s() - before[name]) / IDLE_S for name, server in servers.items()}


def _ratio(over: Series, under: Series, metric: Metric) -> Interval:
    """Round by round: what a slow moment does to both of a pair falls out."""
    pairs: Sequence[tuple[float, float]] = [
        (metric(a), metric(b)) for a, b in zip(over.samples, under.samples, strict=True)
    ]
    return Interval.of([a / max(b, 1e-12) for a, b in pairs])


__all__ = ["Compared", "Comparison"]
