"""Distributions beside the library's own histograms, and what the page shows of them."""

import asyncio
import math
import urllib.request

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.engine.calls.generate import generate
from service.engine.work.sampling import Sampling
from service.metrics import Distribution, Metrics, MetricsPage
from tests.service.engine.houses import INLINE, fakes
from tests.service.engine.wires import Wire

SECONDS = (
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PHASES = ("queue", "run", "reply")


def lines(registry: CollectorRegistry, name: str) -> list[str]:
    """What Prometheus reads of one metric, without the time at which it was made."""
    page = generate_latest(registry).decode().splitlines()
    return [line for line in page if name in line and "_created" not in line]


def values(bounds: tuple[float, ...]) -> st.SearchStrategy[list[float]]:
    return st.lists(st.one_of(st.sampled_from(bounds), st.floats(0, 2 * bounds[-1])), max_size=50)


@given(values(SIZES), st.tuples(values(SECONDS), values(SECONDS), values(SECONDS)))
@settings(max_examples=100, deadline=None)
def test_a_distribution_reads_like_the_library_s_histogram(
    sizes: list[float], seconds: tuple[list[float], ...]
) -> None:
    metrics = Metrics()
    theirs = CollectorRegistry()
    size = Histogram(
        "cellar_batch_size",
        "Time steps that ran together, by batch.",
        buckets=SIZES,
        registry=theirs,
    )
    phase = Histogram(
        "cellar_step_seconds",
        "Seconds of one batch by phase: its first row's wait (queue), the model (run), handing "
        "the answers over (reply).",
        ["phase"],
        buckets=SECONDS,
        registry=theirs,
    )
    for value in sizes:
        metrics.batch_size.noted.append(value)
        size.observe(value)
    mine = (metrics.queue_seconds, metrics.run_seconds, metrics.reply_seconds)
    for name, distribution, found in zip(PHASES, mine, seconds, strict=True):
        own = phase.labels(name)
        for value in found:
            distribution.noted.append(value)
            own.observe(value)
    for name in ("cellar_batch_size", "cellar_step_seconds"):
        assert lines(metrics.registry, name) == lines(theirs, name)


@given(values(SECONDS))
@settings(max_examples=50, deadline=None)
def test_a_distribution_counts_and_adds_up(found: list[float]) -> None:
    distribution = Distribution(SECONDS)
    for value in found:
        distribution.noted.append(value)
    assert distribution.count == len(found)
    assert math.isclose(distribution.sum, sum(found))
    for bound, count in distribution.buckets():
        assert count == sum(value <= float(bound) for value in found)


async def test_steps_batches_and_draws_are_counted_and_on_the_page() -> None:
    async with fakes(inline_run_s=INLINE) as house:
        for name in "abc":
            house.open(name)
        wire = await Wire(house).attach(*"abc")
        wire.single(0, 1)
        await house.settle()  # one step alone
        wire.frame({0: ([1], 1), 1: ([2], 0), 2: ([3], 0)})
        await house.settle()  # three together
        wire.frame({1: ([1, 2, 3, 4, 5], 1)})
        await house.settle()  # two pieces: four, and one
        wire.single(0, 1, 1)
        wire.single(1, 1, 40)
        await house.settle()  # a replay and a refusal, which are no steps
        pieces = generate(house.engine, "c", prompt=None, max_steps=7, sampling=Sampling())
        assert sum([len(piece.tokens) async for piece in pieces]) == 7
        await house.settle()
        metrics = house.engine.metrics
        page = MetricsPage(metrics, "127.0.0.1", 0)
        browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{page.port}/metrics"
        read = await asyncio.to_thread(lambda: browser.open(url, timeout=5).read().decode())
        page.close()
    found = dict(line.rsplit(" ", 1) for line in read.splitlines() if line[0] != "#")
    wanted = {
        'cellar_batch_size_bucket{le="1.0"}': 9,  # the single step, a piece's end, 7 draws
        'cellar_batch_size_bucket{le="2.0"}': 9,
        'cellar_batch_size_bucket{le="4.0"}': 11,
        'cellar_batch_size_bucket{le="+Inf"}': 11,
        "cellar_batch_size_count": 11,
        "cellar_batch_size_sum": 16,
        'cellar_steps_total{model="fake/1"}': 16,
        "cellar_generated_tokens_total": 7,
        "cellar_replayed_steps_total": 1,
        "cellar_position_conflicts_total": 1,
        'cellar_pending_steps{model="fake/1"}': 0,
        'cellar_sessions{model="fake/1",tier="device"}': 3,
        **{f'cellar_step_seconds_count{{phase="{phase}"}}': 11 for phase in PHASES},
    }
    assert {name: float(found[name]) for name in wanted} == wanted
    for phase in PHASES:
        assert float(found[f'cellar_step_seconds_sum{{phase="{phase}"}}']) >= 0
