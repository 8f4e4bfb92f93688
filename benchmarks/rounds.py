"""Rounds: contestants in turn, so that a slow moment of the machine hits all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Protocol

from benchmarks.processes import Child


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: rounds that count.
        round_s: seconds of a round.
        warm_up_s: seconds of a round before them that does not count.
        quick: fewer sessions, shorter sequences.
    """

    rounds: int
    round_s: float
    warm_up_s: float
    quick: bool


FULL = Pace(rounds=5, round_s=1.2, warm_up_s=0.5, quick=False)
QUICK = Pace(rounds=3, round_s=0.3, warm_up_s=0.1, quick=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round of one contestant. ``load_cpu_s`` is 0 where there is no load process."""

    steps: int
    messages: int
    wall_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_s: float
    load_cpu_s: float

    @property
    def steps_per_s(self) -> float:
        """Steps per second."""
        return self.steps / self.wall_s

    @property
    def messages_per_s(self) -> float:
        """Messages per second."""
        return self.messages / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Server CPU microseconds per step, which are CPU seconds per million steps."""
        return self.server_cpu_s / max(self.steps, 1) * 1e6

    @property
    def load_share(self) -> float:
        """The load's CPU time over wall time: near 1, the load is the limit."""
        return self.load_cpu_s / self.wall_s


Metric = Callable[[Sample], float]


def cpu(sample: Sample) -> float:
    """`Sample.cpu_us`."""
    return sample.cpu_us


def speed(sample: Sample) -> float:
    """`Sample.steps_per_s`."""
    return sample.steps_per_s


def p50(sample: Sample) -> float:
    """`Sample.p50_ms`."""
    return sample.p50_ms


def p99(sample: Sample) -> float:
    """`Sample.p99_ms`."""
    return sample.p99_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number for several rounds or seeds, with the lowest and the highest of them."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The median of one value per round: a slow moment must not count."""
        return cls(value=median(values), low=min(values), high=max(values))

    @classmethod
    def mean_of(cls, values: Sequence[float]) -> "Figure":
        """The mean of one value per seed: a bad draw must count."""
        return cls(value=fmean(values), low=min(values), high=max(values))


@dataclass(slots=True, kw_only=True)
class Series:
    """All rounds of one contestant in one case.

    Attributes:
        case: what was done, for example ``2 x 256``.
        contestant: who did it, for example ``cellar``.
        model: what was run, for example ``2x512``; empty for none.
        unit: what is counted as steps.
        samples: the rounds that count, in order.
    """

    case: str
    contestant: str
    model: str
    unit: str = "steps"
    samples: list[Sample] = field(default_factory=list)

    def figure(self, metric: Metric) -> Figure:
        """One metric over all rounds."""
        return Figure.of([metric(sample) for sample in self.samples])


class Contestant(Protocol):
    """Someone who can be measured for a while."""

    series: Series

    def round(self, seconds: float) -> Sample:
        """Do it for so long."""


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A case of a load, on the server that serves it.

    A bare runtime is its own load: both are the same process. ``tree`` counts what the server's
    children use as well. ``rate`` is in messages per second; none means as fast as it goes. The
    bytes are those of one message, where the load knows them.
    """

    series: Series
    server: Child
    load: Child
    name: str
    tree: bool = False
    rate: float | None = None
    request_bytes: int = 0
    reply_bytes: int = 0

    def round(self, seconds: float) -> Sample:
        """One round, and what the server spent in it."""
        cpu_s = self.server.tree_cpu_s if self.tree else self.server.cpu_s
        before = cpu_s()
        arguments = {} if self.rate is None else {"rate": self.rate}
        found = self.load.ask("run", case=self.name, seconds=seconds, **arguments)
        spent = cpu_s() - before
        return Sample(
            steps=found["steps"],
            messages=found["messages"],
            wall_s=found["wall_s"],
            p50_ms=found["p50_ms"],
            p99_ms=found["p99_ms"],
            server_cpu_s=spent,
            load_cpu_s=0.0 if self.load is self.server else found["cpu_s"],
        )


Order = Callable[[Sequence[Contestant], int], Sequence[Contestant]]
"""Who comes when in the n-th round."""


def back_and_forth(contestants: Sequence[Contestant], number: int) -> Sequence[Contestant]:
    """Every second round in the opposite order."""
    return contestants if number % 2 == 0 else contestants[::-1]


def rotated(contestants: Sequence[Contestant], number: int) -> Sequence[Contestant]:
    """Another begins each round, and each comes as often after one neighbour as the other."""
    turns, first = divmod(number, len(contestants))
    return back_and_forth([*contestants[first:], *contestants[:first]], turns)


def alternate(
    contestants: Sequence[Contestant], pace: Pace, order: Order = back_and_forth
) -> list[Series]:
    """Warm everybody up, then measure them in turn."""
    for contestant in contestants:
        contestant.round(pace.warm_up_s)
    for number in range(pace.rounds):
        for contestant in order(contestants, number):
            contestant.series.samples.append(contestant.round(pace.round_s))
    return [contestant.series for contestant in contestants]


def ratio(over: Series, under: Series, metric: Metric) -> Figure:
    """One contestant's metric over another's, round by round."""
    pairs = zip(over.samples, under.samples, strict=True)
    return Figure.of([metric(a) / max(metric(b), 1e-12) for a, b in pairs])


def difference(more: Series, less: Series, metric: Metric) -> Figure:
    """One contestant's metric less another's, round by round."""
    pairs = zip(more.samples, less.samples, strict=True)
    return Figure.of([metric(a) - metric(b) for a, b in pairs])


__all__ = [
    "FULL",
    "QUICK",
    "Contestant",
    "Figure",
    "Loaded",
    "Metric",
    "Order",
    "Pace",
    "Sample",
    "Series",
    "alternate",
    "back_and_forth",
    "cpu",
    "difference",
    "p50",
    "p99",
    "ratio",
    "rotated",
    "speed",
]
