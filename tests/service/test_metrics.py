"""Distributions beside the library's own histograms, refusals, and what the page shows of them."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from cellar.v1 import errors_pb2
from service.engine.calls.generate import generate
from service.engine.work.sampling import Sampling
from service.errors import BadInputError, DrainingError, OverloadedError
from service.metrics import Distribution, Metrics
from service.rpc import status
from tests.documents import OPERATIONS
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
        ["model"],
        buckets=SIZES,
        registry=theirs,
    )
    phase = Histogram(
        "cellar_step_seconds",
        "Seconds of one batch by phase: its first row's wait (queue), the model (run), handing "
        "the answers over (reply).",
        ["model", "phase"],
        buckets=SECONDS,
        registry=theirs,
    )
    batches = metrics.batches("a/1")
    size.labels("a/1")
    for value in sizes:
        batches.size.noted.append(value)
        size.labels("a/1").observe(value)
    mine = (batches.queue_s, batches.run_s, batches.reply_s)
    for name, distribution, found in zip(PHASES, mine, seconds, strict=True):
        own = phase.labels("a/1", name)
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
        read = generate_latest(metrics.registry).decode()
    found = dict(line.rsplit(" ", 1) for line in read.splitlines() if line[0] != "#")
    wanted = {
        # The single step, a piece's end, 7 draws.
        'cellar_batch_size_bucket{le="1.0",model="fake/1"}': 9,
        'cellar_batch_size_bucket{le="2.0",model="fake/1"}': 9,
        'cellar_batch_size_bucket{le="4.0",model="fake/1"}': 11,
        'cellar_batch_size_bucket{le="+Inf",model="fake/1"}': 11,
        'cellar_batch_size_count{model="fake/1"}': 11,
        'cellar_batch_size_sum{model="fake/1"}': 16,
        'cellar_steps_total{model="fake/1"}': 16,
        "cellar_generated_tokens_total": 7,
        "cellar_replayed_steps_total": 1,
        "cellar_position_conflicts_total": 1,
        'cellar_pending_steps{model="fake/1"}': 0,
        'cellar_sessions{model="fake/1",tier="device"}': 3,
        **{f'cellar_step_seconds_count{{model="fake/1",phase="{phase}"}}': 11 for phase in PHASES},
    }
    assert {name: float(found[name]) for name in wanted} == wanted
    for phase in PHASES:
        assert float(found[f'cellar_step_seconds_sum{{model="fake/1",phase="{phase}"}}']) >= 0


def test_every_reason_is_on_the_page_before_it_is_given() -> None:
    """Else Prometheus takes the first refusal for none: no increase led to it."""
    metrics = Metrics()
    shown = {
        (sample.labels["reason"], sample.labels["kind"]): sample.value
        for family in metrics.refusals.collect()
        for sample in family.samples
    }
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}
    wanted = product(reasons - {"UNSPECIFIED"}, ("call", "row"))
    assert shown == dict.fromkeys(wanted, 0)


def test_refusals_of_many_rows_are_counted_by_reason() -> None:
    metrics = Metrics()
    full = OverloadedError("full")
    metrics.refusals.count_rows(full, 2)
    metrics.refusals.count_rows(BadInputError("inputs", "bad"), 1)
    metrics.refusals.count_rows(OverloadedError("x"), 1)
    metrics.refusals.count_call(full)
    read = metrics.registry.get_sample_value
    found = {
        kind: read("cellar_refusals_total", {"reason": "OVERLOADED", "kind": kind})
        for kind in ("call", "row")
    }
    assert found == {"call": 1, "row": 3}
    assert read("cellar_refusals_total", {"reason": "BAD_INPUT", "kind": "row"}) == 1


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_the_class_of_a_code_is_what_the_documents_say(code: grpc.StatusCode) -> None:
    (said,) = re.findall(r"`client_error`, which callers can mend \((.*?);", OPERATIONS.read_text())
    mended = re.findall(r"`(\w+)`", said)
    assert "NOT_FOUND" in mended
    wanted = "client_error" if code.name in mended else "server_error"
    assert status.class_of(code) == ("ok" if code is grpc.StatusCode.OK else wanted)


async def test_streams_and_channels_are_counted_down_once() -> None:
    async with fakes(inline_run_s=INLINE) as house:
        for name in "abcde":
            house.open(name)

        def shown() -> tuple[float | None, ...]:
            read = house.engine.metrics.registry.get_sample_value
            names = ("cellar_streams", "cellar_attached_channels")
            return tuple(read(name, {"model": "fake/1"}) for name in names)

        wires = [await Wire(house).attach("a", "b"), await Wire(house).attach("c", "d", "e")]
        assert shown() == (2, 5)
        await wires[1].stream.attachments.detach(np.array([0, 2, 7]), close=True)
        assert shown() == (2, 3)
        wires[0].stream.end(DrainingError("it is cut off"))
        assert shown() == (1, 1)
        wires[0].stream.end()  # as its call does in any case
        assert shown() == (1, 1)
        wires[1].stream.end()
        assert shown() == (0, 0)


def test_threads_that_note_lose_nothing_to_one_that_reads() -> None:
    """A batch is noted on a worker's thread, a page is read on another one."""
    distribution, each = Distribution(SECONDS), 20_000

    def note() -> None:
        for _ in range(each):
            distribution.noted.append(1e-3)

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(note) for _ in range(2)]
        while not all(work.done() for work in working):
            buckets, total = distribution.snapshot()
            assert math.isclose(buckets[-1][1] * 1e-3, total, rel_tol=1e-9)
    assert distribution.count == 2 * each
