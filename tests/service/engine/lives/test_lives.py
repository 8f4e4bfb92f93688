"""Steps, generations, copies, rewinds, evictions, crashes and restarts in any order."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from service import errors
from service.engine.calls.copies import fork as forking
from service.engine.calls.copies.taking import take
from service.engine.calls.snapshots import exporting
from service.engine.calls.upgrades.upgrade import _Upgrade as Upgrade
from service.engine.log.seeds import Seed
from service.engine.sessions.tiers import Tiers
from service.engine.shard.history.chronicles import Chronicles
from service.engine.work.columns import Inputs, Ints
from service.engine.work.work import Save
from tests.service.engine.houses import INLINE, PLAYS, WORKER
from tests.service.engine.lives.lives import DicedLives, Lives
from tests.service.engine.log.test_stateful import PHASES, SLOW

TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=8,
    stateful_step_count=30,
    deadline=None,
    phases=PHASES,
    suppress_health_check=SLOW,
)


class LongLives(Lives):
    """The same, longer, with more and with less room."""

    @initialize(
        inline_run_s=st.sampled_from([INLINE, WORKER]),
        rows=st.integers(2, 4),
        host_rows=st.sampled_from([0, 1, 4]),
    )
    def start(self, inline_run_s: float, rows: int, host_rows: int) -> None:
        self.rows, self.host_rows = rows, host_rows
        super().start(inline_run_s)


TestLongLives = pytest.mark.timeout(900)(pytest.mark.long(LongLives.TestCase))
TestLongLives.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    phases=PHASES,
    suppress_health_check=SLOW,
)


class Faults:
    """Faults that are planted, and how often each had its way."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.count = 0

    def a_fork_shares_its_row(self) -> None:
        was = forking.fork

        async def shared(engine: Any, source: str, name: str, **more: Any) -> Any:
            info = await was(engine, source, name, **more)
            mine, own = (engine.directory.find(one) for one in (name, source))
            table = own.shard.table
            if table.row[own.slot] >= 0 and table.row[mine.slot] >= 0:
                table.row[mine.slot] = table.row[own.slot]
                self.count += 1
            return info

        self.patch.setattr(forking, "fork", shared)

    def only_the_position_is_put_back(self) -> None:
        was = Chronicles.back_to

        def kept(own: Chronicles, slot: int, position: int, **more: Any) -> Any:
            seed, tail = was(own, slot, position, **more)
            row = own._table.row[slot]
            if row < 0 or not 0 < position < own._table.position[slot]:
                return seed, tail
            self.count += 1
            runner = own._put.__self__._runner  # type: ignore[attr-defined]
            states = [rows[0] for rows in runner.read(np.array([row]))]
            nothing = tail.take(np.empty(0, np.int64))
            return replace(seed, position=position, states=states), nothing

        self.patch.setattr(Chronicles, "back_to", kept)

    def a_row_is_handed_on_that_somebody_has(self) -> None:
        was = Tiers.evicted_by

        def handed_on(own: Tiers, save: Save, indices: Ints) -> None:
            was(own, save, indices)
            for slot in save.slots[indices].tolist():  # they believe that they are where they were
                if own._table.row[slot] < 0:
                    own._table.warm(slot)
                    own._table.row[slot] = slot % own.rows.capacity
                    self.count += 1

        self.patch.setattr(Tiers, "evicted_by", handed_on)

    def an_upgrade_reads_something_else(self) -> None:
        was = Upgrade._read_some

        async def read(own: Upgrade, inputs: Inputs) -> None:
            self.count += 1
            await was(own, np.zeros_like(inputs))

        self.patch.setattr(Upgrade, "_read_some", read)

    def a_snapshot_is_of_another_session(self) -> None:
        was = take

        async def of_another(engine: Any, session: Any, branch: int = 0) -> Any:
            taken = await was(engine, session, branch)
            for name in engine.directory.sessions:
                other: Seed = (await was(engine, engine.session(name))).seed
                if other.position and taken.seed.position and name != session.id:
                    self.count += 1
                    return replace(taken, seed=replace(taken.seed, states=other.states))
            return taken

        self.patch.setattr(exporting, "take", of_another)


@pytest.mark.parametrize(
    "plant",
    [
        Faults.a_fork_shares_its_row,
        Faults.only_the_position_is_put_back,
        Faults.a_row_is_handed_on_that_somebody_has,
        Faults.an_upgrade_reads_something_else,
        Faults.a_snapshot_is_of_another_session,
    ],
    ids=lambda plant: plant.__name__,
)
def test_planted_faults_are_caught(
    plant: Callable[[Faults], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    plant(faults)
    with pytest.raises((AssertionError, errors.CellarError)):
        play(20, moments=60)
    assert faults.count, "what was caught was not planted"


def test_what_dice_decide_is_as_it_should_be() -> None:
    """No fault is found where none is planted."""
    play(2, moments=40)


@pytest.mark.long
@pytest.mark.timeout(300 * PLAYS)
@pytest.mark.parametrize("rows", [2, 3, 4])
@pytest.mark.parametrize("host_rows", [0, 1, 4])
def test_what_dice_decide_for_long(rows: int, host_rows: int) -> None:
    first = 1000 * (10 * rows + host_rows)  # other dice in each
    play(10 * PLAYS, moments=120, rows=rows, host_rows=host_rows, first=first)


def play(lives: int, *, moments: int, rows: int = 3, host_rows: int = 3, first: int = 0) -> None:
    for seed in range(first, first + lives):
        one = DicedLives(random.Random(seed))
        one.rows, one.host_rows = rows, host_rows
        one.play(moments)
