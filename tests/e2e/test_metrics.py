"""The page of a real server's metrics: what the documents say, and what the load was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.documents import described_metrics
from tests.e2e.load import CAPACITY, ROOM, Load
from tests.e2e.page import Page
from tests.e2e.process import ServerProcess, running

ROUNDS = 3
# That occur only where something is refused for load, or where there are principals or TLS.
SILENT = {
    "cellar_overloaded_steps_total",
    "cellar_principal_sessions",
    "cellar_principal_steps_total",
    "cellar_quota_refusals_total",
    "cellar_tls_certificate_expiry_timestamp_seconds",
}


def settled(server: ServerProcess, has_come: Callable[[Page], bool]) -> Page:
    """A page, once it tells of something: a status is sent just before its call is counted."""
    give_up = time.monotonic() + 10
    while True:
        page = Page(server.page())
        if has_come(page) or time.monotonic() > give_up:
            return page


@pytest.fixture(scope="module")
def loaded(
    served_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server that has had calls of all kinds, whichever test is the first on it."""
    store = tmp_path_factory.mktemp("loaded") / "store"
    with running(served_models, f"--store=lmdb:{store}", *ROOM) as server:
        with grpc.insecure_channel(server.address) as channel:
            load = Load(channel)
            load.send(1)
            assert list(load.stream("seen"))
        ended = sum(load.calls.values())
        settled(server, lambda page: page.value("cellar_requests_total") >= ended)
        yield server


def test_counts_equal_those_of_the_load(served: ServerProcess) -> None:
    before = Page(served.page())
    assert before.by("cellar_requests_total", "method") == {}
    assert before.by("cellar_refusals_total", "reason") == {}
    with grpc.insecure_channel(served.address) as channel:
        load = Load(channel)
        load.send(ROUNDS)
        for number, channels in enumerate(load.stream("seen")):
            page = Page(served.page())
            assert page.by("cellar_streams", "model") == {("letters/1",): 1}, number
            assert page.by("cellar_attached_channels", "model") == {("letters/1",): channels}
            assert page.value("cellar_sessions") == channels
    ended = sum(load.calls.values())
    page = settled(served, lambda page: page.value("cellar_requests_total") >= ended)
    assert page.by("cellar_requests_total", "method", "code") == load.calls
    timed = page.by("cellar_request_seconds_count", "method", "model", "code_class")
    assert timed == load.timed
    assert page.by("cellar_refusals_total", "reason", "kind") == load.refusals
    assert page.by("cellar_steps_total", "model") == load.steps
    assert page.by("cellar_session_events_total", "event") == load.events
    assert page.value("cellar_generated_tokens_total") == load.generated
    assert page.value("cellar_replayed_steps_total") == load.replayed
    conflicts = sum(
        count
        for (reason, _), count in load.refusals.items()
        if reason in ("POSITION_MISMATCH", "STEP_CONFLICT")
    )
    assert page.value("cellar_position_conflicts_total") == conflicts
    for name in ("cellar_streams", "cellar_attached_channels", "cellar_sessions"):
        assert page.by(name, "model") == {}, f"{name} is not 0 when all is over"
    # Dry steps run, too: those of the load that are not applied.
    ran = page.by("cellar_batch_size_sum", "model")
    assert ran["letters/1",] == load.steps["letters/1",] + 2 * ROUNDS
    assert ran["prices/1",] == load.steps["prices/1",]
    # Half of them have a row: whoever has read is asked again once others have had his.
    misses = page.by("cellar_tier_misses_total", "model", "tier")
    assert misses["prices/1", "host"] >= ROUNDS * CAPACITY // 2
    assert misses == page.by("cellar_restore_seconds_count", "model", "tier")
    assert page.value("cellar_evictions_total", model="prices/1") >= misses["prices/1", "host"]
    for phase in ("queue", "run", "reply"):
        counted = page.by("cellar_step_seconds_count", "model", phase=phase)
        assert counted == page.by("cellar_batch_size_count", "model")


def test_counts_of_callers_at_once_add_up(served: ServerProcess) -> None:
    before = Page(served.page())
    with grpc.insecure_channel(served.address) as channel, ThreadPoolExecutor(8) as callers:
        loads = [Load(channel) for _ in range(8)]
        names = [f"at-once-{number}" for number in range(len(loads))]
        list(callers.map(lambda load, name: list(load.stream(name)), loads, names))
    steps = before.value("cellar_steps_total") + sum(load.steps["letters/1",] for load in loads)
    streams = before.value("cellar_requests_total", method="Stream") + len(loads)
    page = settled(
        served, lambda page: page.value("cellar_requests_total", method="Stream") >= streams
    )
    assert page.value("cellar_requests_total", method="Stream") == streams
    assert page.value("cellar_steps_total") == steps
    assert len(loads[0].refusals) == 3
    for (reason, kind), count in loads[0].refusals.items():
        found = page.value("cellar_refusals_total", reason=reason, kind=kind)
        assert found - before.value("cellar_refusals_total", reason=reason, kind=kind) == 8 * count


def test_a_client_that_goes_away_leaves_no_stream(served: ServerProcess) -> None:
    def ended(page: Page) -> float:
        # One in some hundreds of clients that close their channel has ended its requests before.
        streams = page.by("cellar_requests_total", "code", method="Stream")
        return streams.get(("CANCELLED",), 0) + streams.get(("OK",), 0)

    before = ended(Page(served.page()))
    with grpc.insecure_channel(served.address) as channel:
        load = Load(channel)
        gone = load.stream("gone")
        assert next(gone) == 4
        assert Page(served.page()).value("cellar_attached_channels") == 4
    page = settled(served, lambda page: ended(page) > before)
    assert page.value("cellar_streams") == page.value("cellar_attached_channels") == 0
    assert ended(page) == before + 1


def test_the_page_is_what_the_documents_say(loaded: ServerProcess) -> None:
    page = Page(loaded.page())
    documented = {metric.name: metric for metric in described_metrics()}
    assert page.kinds == {name: metric.kind for name, metric in documented.items()}
    silent = {name for name, found in page.labels.items() if not found}
    assert silent <= SILENT, "nothing shows their labels"
    for name in documented.keys() - silent:
        assert page.labels[name] == {frozenset(documented[name].labels)}, name


def test_labels_have_no_word_of_callers(loaded: ServerProcess) -> None:
    """Their number is bounded: what a caller makes up has one value."""
    text = loaded.page()
    assert "Guess" not in text
    assert "xxx" not in text
    assert "nobody" not in text
    models = {dict(labels).get("model") for _, labels in Page(text).samples}
    assert models == {None, "none", "letters/1", "prices/1", "cut/1"}


def test_build_and_process_are_told(served: ServerProcess) -> None:
    page = Page(served.page())
    assert page.value("cellar_build_info") == 1
    (versions,) = page.by("cellar_build_info", "version", "python", "onnxruntime", "grpc")
    assert all("." in version for version in versions)
    assert page.value("process_resident_memory_bytes") > 10 << 20
    assert page.value("process_open_fds") > 3
    assert 0 < time.time() - page.value("process_start_time_seconds") < 600
    assert page.by("cellar_limit_bytes", "setting").keys() == {
        ("buffer_memory",),
        ("history_memory",),
        ("max_undurable_bytes",),
        ("journal_bytes",),
    }
    assert page.value("cellar_store_free_bytes", store="lmdb") > 0
    assert page.by("cellar_model_available", "model") == {("letters/1",): 1, ("prices/1",): 1}
