"""Sessions that are upgraded: where their states are, whose they are, and what it costs."""

import asyncio
from contextlib import suppress
from unittest.mock import patch

import pytest

from service import errors
from service.auth.principal import Grant, Principal, Role
from service.engine.calls.upgrades.upgrade import upgrade
from service.engine.log import chronicle
from service.engine.log.chronicle import ALL
from tests.service.auth.callers import called_by, principal
from tests.service.engine.calls.upgrades.houses import begun, house, turned
from tests.service.engine.fakes import DecodingRunner
from tests.service.store.fake import FakeStore


async def test_every_slot_of_the_version_is_taken() -> None:
    async with house(DecodingRunner, None, max_sessions=2) as own:
        await begun(own)
        for name in "ab":
            own.engine.open(own.served[1], name)
        with pytest.raises(errors.SessionLimitError):
            await upgrade(own.engine, "s")
        assert own.engine.directory._opening == {}
        await own.engine.close("a")
        assert (await upgrade(own.engine, "s")).version == 2
        await own.settle()


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
async def test_after_a_clean_stop_it_is_in_the_store_alone(durability: str) -> None:
    """That of the first version before the upgrade, that of the second behind it."""
    store, others = FakeStore(), {"durability": durability}
    async with house(DecodingRunner, store, **others) as own:
        tokens = await begun(own)
    async with house(DecodingRunner, store, **others) as own:
        await own.step("s", [7], 60)
        after = await upgrade(own.engine, "s")
        assert own.told_of("s") == turned([*tokens, 7])
        await own.settle()
    async with house(DecodingRunner, store, **others) as own:
        info = await own.engine.describe("s")
        assert (info.version, info.position, info.history_position) == (2, 61, 0)
        assert info.branch == after.branch or durability != "commit"
        await own.step("s", turned([8]), 61)
        assert own.told_of("s") == turned([*tokens, 7, 8])
        back = await upgrade(own.engine, "s", 1)
        assert (back.version, own.told_of("s")) == (1, [*tokens, 7, 8])
        await own.settle()


async def test_its_answer_waits_until_it_is_durable() -> None:
    store = FakeStore()
    async with house(DecodingRunner, store) as own:
        await begun(own)
        appends = store.appends
        await upgrade(own.engine, "s")
        assert store.appends == appends + 1
        left = store.crash()
    async with house(DecodingRunner, left) as own:
        assert (await own.engine.describe("s")).version == 2


async def test_what_the_session_is_goes_with_it() -> None:
    async with house(DecodingRunner, None) as own:
        session = own.engine.open(
            own.served[0], "s", idle_timeout_s=77.0, ephemeral=True, history_steps=ALL
        )
        await own.step("s", [1, 2, 3], 0)
        before = own.engine.directory.info(session)
        after = await upgrade(own.engine, "s")
        for name in ("id", "position", "opened_s", "idle_timeout_s", "ephemeral", "owner"):
            assert getattr(after, name) == getattr(before, name)
        page = own.engine.directory.by_owner[""]
        assert [one.served.version for one in page.values()] == [2]
        events = own.engine.metrics.session_events
        counted = {how: events.labels(how)._value.get() for how in ("opened", "closed", "upgraded")}
        assert counted == {"opened": 1, "closed": 0, "upgraded": 1}
        # Whoever heard no answer asks again, on the branch that he knows.
        again = await upgrade(own.engine, "s", 2, branch=before.branch)
        assert again.branch == after.branch
        await own.settle()


async def test_it_counts_against_the_quotas() -> None:
    async with house(DecodingRunner, None) as own:
        with called_by(principal("few", max_sessions=1, max_steps_per_s=2000)) as who:
            tokens = await begun(own, 500)
            allowance = own.engine.flows.current.allowance
            assert allowance is not None
            steps = allowance.steps
            await upgrade(own.engine, "s")  # the last that it may have open, too
            assert own.told_of("s") == turned(tokens)
            assert allowance.steps - steps == 500
            with pytest.raises(errors.QuotaExceededError):
                own.engine.open(own.served[0], "t")
            del who


async def test_with_no_steps_left_it_is_refused() -> None:
    async with house(DecodingRunner, None) as own:
        with called_by(principal("slow", max_steps_per_s=100)):
            await begun(own, 100)
            with pytest.raises(errors.QuotaExceededError):
                await upgrade(own.engine, "s")
            await own.settle()
            assert (await own.engine.describe("s")).version == 1


async def test_it_is_the_callers_own() -> None:
    async with house(DecodingRunner, None) as own:
        with called_by(principal("alice")):
            await begun(own, 9)
        for other in (principal("bob"), principal("root", Role.ADMIN)):
            with called_by(other), pytest.raises(errors.SessionUnknownError):
                await upgrade(own.engine, "s")
        grant = Grant(roles=frozenset({Role.STEP}), models=("others",))
        no_more = pytest.raises(errors.PermissionDeniedError)
        with called_by(Principal("alice", grant)), no_more:
            await upgrade(own.engine, "s")
        with called_by(principal("alice")):
            assert (await upgrade(own.engine, "s")).owner == "alice"


async def test_histories_are_counted_once() -> None:
    async with house(DecodingRunner, None) as own:
        await begun(own)
        memory = own.engine.registry.history
        before = memory.used
        await upgrade(own.engine, "s")
        kept = own.served[1].shards[0].chronicles._own.values()
        assert memory.used == sum(one.nbytes for one in kept) <= before + 100
        await own.engine.close("s")
        await asyncio.sleep(0)
        assert memory.used == 0


async def test_what_it_has_to_wait_for_it_waits_for() -> None:
    """A long history is read as fast as the quota lets it; the session steps on meanwhile."""
    with patch.object(chronicle, "BASE_STEPS", 50):
        async with house(DecodingRunner, None) as own:
            with called_by(principal("slow", max_steps_per_s=400)):
                tokens = await begun(own, 300)
                upgrading = asyncio.create_task(upgrade(own.engine, "s"))
                while not upgrading.done():
                    with suppress(errors.QuotaExceededError, errors.StaleBranchError):
                        session = own.engine.session("s")
                        if session.served is own.served[0]:
                            await own.step("s", [5], len(tokens))
                            tokens.append(5)
                    await asyncio.sleep(0.01)
                assert (await upgrading).version == 2
                assert own.told_of("s") == turned(tokens)
                assert len(tokens) > 310
                await own.settle()
