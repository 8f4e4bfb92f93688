"""Sessions that end with their last stream, and expired ones that make room at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.sessions.ephemeral import EphemeralSessions
from service.engine.sessions.table.table import SessionTable
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import Clocks, Fakes, fakes, fakes_on
from tests.service.engine.log.test_restart import read
from tests.service.engine.wires import Wire
from tests.service.store.fake import FakeStore


def ended(house: Fakes) -> dict[str, float]:
    """How often sessions have ended, by how."""
    events = house.engine.metrics.session_events
    return {how: events.labels(how)._value.get() for how in ("closed", "expired")}


async def test_a_session_ends_after_its_last_stream() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks, ephemeral_grace_s=10.0) as house:
        expire = house.engine.directory.expire
        house.engine.open(house.served, "a", ephemeral=True)
        first, second = Wire(house), Wire(house)
        await first.attach("a")
        await second.attach("a")
        await second.attach("a", first=5)  # twice on one stream
        clocks.served_s += 3000.0
        assert expire() == 0  # as long as it is on a stream, it has its own timeout
        first.stream.end()
        first.stream.end()  # streams may be ended more than once
        clocks.served_s += 300.0
        assert expire() == 0
        await second.stream.attachments.detach(np.array([0]), close=False)
        clocks.served_s += 100.0
        assert expire() == 0
        second.stream.end()
        clocks.served_s += 9.0
        assert expire() == 0
        again = await Wire(house).attach("a")  # back within the grace
        clocks.served_s += 50.0
        assert expire() == 0
        again.stream.end()
        clocks.served_s += 11.0
        assert expire() == 1
        with pytest.raises(errors.SessionClosedError):  # it ended as was asked
            house.find("a")
        assert ended(house) == {"closed": 1, "expired": 0}


async def test_one_that_is_on_no_stream_lasts_while_it_is_used() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks, ephemeral_grace_s=10.0) as house:
        house.engine.open(house.served, "a", ephemeral=True)
        house.engine.open(house.served, "b", ephemeral=True)
        for token in range(3):
            clocks.served_s += 9.0
            await read(house, "a", token + 1)
            house.engine.directory.expire()
        assert house.position("a") == 3
        with pytest.raises(errors.SessionClosedError):
            house.find("b")


async def test_one_that_is_idle_on_its_stream_expires_as_any_other() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks, idle_timeout_s=100.0) as house:
        house.engine.open(house.served, "a", ephemeral=True)
        wire = await Wire(house).attach("a")
        clocks.served_s += 101.0
        assert house.engine.directory.expire() == 1
        assert ended(house) == {"closed": 0, "expired": 1}
        house.open("b")  # in the same slot, and not ephemeral
        wire.stream.end()
        clocks.served_s += 50.0
        assert house.engine.directory.expire() == 0


async def test_a_slot_that_changed_hands_is_not_let_go_by_the_stream_before() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks) as house:
        house.engine.open(house.served, "a", ephemeral=True)
        before = await Wire(house).attach("a")
        await house.engine.close("a")
        house.engine.open(house.served, "b", ephemeral=True)
        now = await Wire(house).attach("b")
        before.stream.end()
        clocks.served_s += 60.0
        assert house.engine.directory.expire() == 0
        now.stream.end()
        clocks.served_s += 60.0
        assert house.engine.directory.expire() == 1


@pytest.mark.parametrize("stops", ["well", "crash"])
async def test_one_outlives_a_restart_by_its_grace(stops: str) -> None:
    store, clocks = FakeStore(), Clocks()
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        for name in "ab":
            house.engine.open(house.served, name, ephemeral=True)
            await Wire(house).attach(name)
            await read(house, name, 1)
        house.open("c")
        await read(house, "c", 1)
        clocks.served_s += 1000.0
        if stops == "crash":
            store = store.crash()
    clocks = Clocks(served_s=0.0)
    async with fakes_on(DecodingRunner, store=store, clocks=clocks) as house:
        clocks.served_s += 9.0
        assert house.engine.directory.expire() == 0
        await Wire(house).attach("b")
        clocks.served_s += 2.0
        assert house.engine.directory.expire() == 1
        assert set(house.engine.directory.sessions) == {"b", "c"}
        assert house.engine.directory.describe("b").ephemeral
        assert not house.engine.directory.describe("c").ephemeral


STEP = st.tuples(
    st.sampled_from(["hold", "let go", "use", "begin", "close", "wait"]), st.integers(0, 3)
)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=40))
def test_what_is_due_is_what_a_plain_model_says(steps: list[tuple[str, int]]) -> None:
    """The table does not look while nothing can be due: it must never miss one."""
    table = SessionTable(4)
    sessions = EphemeralSessions(table, grace_s=3.0)
    now = 100.0
    plain: dict[int, dict[str, float]] = {}
    for what, slot in steps:
        own = plain.get(slot)
        if what == "wait":
            now += slot + 0.5
        elif what == "begin" and own is None:
            plain[slot] = {"used": now, "timeout": 2.0 + 2 * slot, "ephemeral": slot % 2, "on": 0}
            timeout = sessions.begin(slot, idle_timeout_s=2.0 + 2 * slot, ephemeral=bool(slot % 2))
            table.open(slot, opened_s=0.0, now_s=now, idle_timeout_s=timeout)
        elif own is None:
            continue
        elif what == "hold" and own["ephemeral"]:
            own["on"] += 1
            sessions.hold(slot)
        elif what == "let go" and own["on"]:
            own["on"] -= 1
            own["used"] = own["used"] if own["on"] else now
            sessions.let_go(np.array([slot]), now_s=now)
        elif what == "use":
            own["used"] = now
            at = table.position[[slot]] + 1
            table.begin(np.array([slot]), None)
            table.serving[slot] = table.tickets[slot]
            table.commit(np.array([slot]), at, contents=np.zeros(1, np.int64), now_s=now)
        elif what == "close":
            del plain[slot]
            table.close(slot)
        due = {
            slot
            for slot, own in plain.items()
            if now - own["used"]
            > (min(own["timeout"], 3.0) if own["ephemeral"] and not own["on"] else own["timeout"])
        }
        assert set(table.expired(now, at_most=4).tolist()) == due


@pytest.mark.parametrize("shards", [1, 3])
async def test_an_open_takes_back_an_expired_slot_at_once(shards: int) -> None:
    now = [1000.0]
    async with fakes_on(DecodingRunner, shards, clock=lambda: now[0], idle_timeout_s=5.0) as house:
        for number in range(32):
            house.open(f"s{number}")
        now[0] += 4.0
        await read(house, "s7", 1)
        with pytest.raises(errors.SessionLimitError):
            house.open("t")
        now[0] += 2.0
        for number in range(31):
            house.open(f"t{number}")
        assert house.position("s7") == 1
        with pytest.raises(errors.SessionExpiredError):
            house.find("s6")
        with pytest.raises(errors.SessionLimitError):
            house.open("t31")
        assert ended(house) == {"closed": 0, "expired": 31}


async def test_busy_sessions_do_not_keep_others_from_expiring() -> None:
    async with fakes(max_sessions=600, inline_run_s=0.0) as house:
        (shard,) = house.served.shards
        for number in range(600):
            house.open(f"s{number}")
        house.runners[0].gate.clear()
        wire = await Wire(house).attach(*[f"s{number}" for number in range(300)])
        wire.frame({number: ([1], -1) for number in range(300)})
        found = [shard.expired_sessions(1e12, at_most=256) for _ in range(2)]
        assert {session.id for part in found for session in part} == {
            f"s{n}" for n in range(300, 600)
        }
        house.runners[0].gate.set()
        await house.settle()
