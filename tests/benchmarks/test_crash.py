"""Processes that end at any point of their writes, and planted faults that this must find."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.crash.dying import DyingStore
from benchmarks.crash.past import Close, Draws, Open, Past, Reset, Steps, WrongError
from benchmarks.crash.run import Outcome, run
from service.engine.log.commit_log import CommitLog
from service.engine.log.groups.entries import Entry
from service.engine.shard.shard import Shard
from tests.service.engine.fakes import run_alone

Patch = pytest.MonkeyPatch


async def test_nothing_acknowledged_is_lost_wherever_a_process_ends() -> None:
    outcome = await run(150, seed=1)
    assert [str(finding) for finding in outcome.findings] == []
    assert outcome.points.total() == 150
    calls = {where.split()[0] for where in outcome.points}
    assert {"append", "write", "drop", "fails", "time", "stop"} <= calls
    assert outcome.counts["acknowledged"] > 1000
    assert outcome.counts["replays"] > 30
    assert outcome.counts["refused STALE_BRANCH"] > 10


# -- planted faults ---------------------------------------------------------------------------


class Forgetful(DyingStore):
    """Loses a group now and then."""

    def append(self, number: int, group: bytes) -> None:
        """See `Store.append`."""
        if number % 5:
            super().append(number, group)


class Liar(DyingStore):
    """Says that groups are durable which were not synced."""

    def __init__(self) -> None:
        super().__init__()
        self.lies = True


def a_doubled_step(patch: Patch) -> None:
    def add(self: CommitLog, entry: Entry, add: Callable[..., None] = CommitLog.add) -> None:
        add(self, entry)
        if entry.steps == 1 and entry.positions[0] % 4 == 3:
            add(self, entry._replace(positions=entry.positions + 1))

    patch.setattr(CommitLog, "add", add)


def two_rows_exchanged(patch: Patch) -> None:
    def add(self: CommitLog, entry: Entry, add: Callable[..., None] = CommitLog.add) -> None:
        rows = len(entry.sessions)
        if rows > 1:
            inputs: Any = entry.inputs.reshape(rows, -1)[[1, 0, *range(2, rows)]]
            entry = entry._replace(inputs=inputs.reshape(entry.inputs.shape))
        add(self, entry)

    patch.setattr(CommitLog, "add", add)


def a_reply_before_its_group(patch: Patch) -> None:
    def hold(_: CommitLog, __: int, release: Callable[[], None]) -> None:
        release()

    patch.setattr(CommitLog, "hold", hold)


def a_duplicate_across_a_reset(patch: Patch) -> None:
    def on_branch(self: Shard, slot: int, claimed: int = 0, *, or_left: bool = False) -> int:
        return self.table.branch.item(slot)

    patch.setattr(Shard, "on_branch", on_branch)


def a_last_reply_forgotten(patch: Patch) -> None:
    patch.setattr("service.engine.shard.tick.EVERY_STEP", 0)


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (a_doubled_step, {"doubled", "lost"}),
        (two_rows_exchanged, {"different"}),
        (a_reply_before_its_group, {"lost"}),
        (a_duplicate_across_a_reset, {"doubled", "lost"}),
        (a_last_reply_forgotten, {"lost", "different"}),
    ],
)
async def test_planted_faults_are_found(
    monkeypatch: Patch, plant: Callable[[Patch], None], kinds: set[str]
) -> None:
    plant(monkeypatch)
    # A fault may show in another way first: that is not what is looked for.
    outcome = await run(600, seed=2, most_findings=1, looked_for=kinds)
    assert {finding.kind for finding in outcome.findings} & kinds


@pytest.mark.parametrize("store", [Forgetful, Liar])
async def test_a_store_that_does_not_keep_its_word_is_found(store: type[DyingStore]) -> None:
    outcome = await run(600, seed=3, new_store=store, most_findings=1, looked_for={"lost"})
    assert "lost" in {finding.kind for finding in outcome.findings}


async def test_a_run_goes_on_to_what_is_looked_for(monkeypatch: Patch) -> None:
    kinds = iter(["other", "different", "lost", "lost"])

    async def live(store: DyingStore, *others: Any) -> DyingStore:
        outcome: Outcome = others[-1]
        outcome.findings.append(WrongError(next(kinds), "as told"))
        return store

    monkeypatch.setattr("benchmarks.crash.run._live", live)
    outcome = await run(4, seed=0, most_findings=1, looked_for={"lost"})
    assert [found.kind for found in outcome.findings] == ["other", "different", "lost"]


# -- the plain model --------------------------------------------------------------------------


def open_past() -> Past:
    past = Past(name="a")
    opened = Open()
    past.send(opened)
    past.happened(opened, branch=7)
    return past


def test_a_past_is_what_was_told_and_what_may_have_followed() -> None:
    past = open_past()
    first, second = Steps(tokens=(1, 2)), Draws(prompt=(), most=2)
    past.send(first)
    past.happened(first)
    assert past.now.number == run_alone([1, 2])[-1]
    past.send(second)
    past.send(Reset())
    ways = [(len(way.tokens), way.branch) for way in past.ways()]
    assert ways == [(2, 7), (2, 0), (3, 0), (3, 7), (4, 0), (4, 7), (0, 0)]
    past.settle(is_open=True, branch=8, position=0)
    assert (past.now.branch, past.stale, past.sent) == (8, 7, [])


@pytest.mark.parametrize(
    ("stands", "kind"),
    [
        ({"is_open": True, "branch": 7, "position": 1}, "lost"),
        ({"is_open": True, "branch": 7, "position": 3}, "doubled"),  # half of a request
        ({"is_open": True, "branch": 7, "position": 5}, "doubled"),
        ({"is_open": True, "branch": 9, "position": 2}, "lost"),
        ({"is_open": False, "branch": 0, "position": 0}, "lost"),
    ],
)
def test_a_past_knows_where_its_session_cannot_be(stands: dict[str, Any], kind: str) -> None:
    past = open_past()
    first, second = Steps(tokens=(1, 2)), Steps(tokens=(3, 4))
    past.send(first)
    past.happened(first)
    past.send(second)
    with pytest.raises(WrongError, match=kind):
        past.settle(**stands)


def test_what_a_reader_was_told_has_happened() -> None:
    past = open_past()
    past.send(Steps(tokens=(1,)))
    past.send(Close())
    past.check_told(past.now, branch=7, position=1)
    with pytest.raises(WrongError, match="a reader was told 1"):
        past.settle(is_open=True, branch=7, position=0)
    with pytest.raises(WrongError, match="doubled"):
        past.check_told(past.now, branch=7, position=2)


def test_what_was_overtaken_has_not_happened() -> None:
    past = open_past()
    first, second = Steps(tokens=(1,)), Steps(tokens=(2,))
    past.send(first)
    past.send(second)
    past.happened(second)
    assert past.now.tokens == (2,)
    with pytest.raises(WrongError, match="overtaken"):
        past.happened(first)
    past.refused(first)
