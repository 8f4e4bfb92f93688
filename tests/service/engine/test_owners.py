"""Sessions belong to who has opened them: nobody else finds, steps, lists or ends them."""

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from service import errors
from service.auth.principal import NOBODY, Role
from service.engine.calls.generate import generate
from service.engine.listing import Wanted
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Sampling
from tests.service.auth.callers import called_by, principal
from tests.service.engine.fakes import DecodingRunner, run_alone
from tests.service.engine.houses import Clocks, Fakes, fakes, fakes_on
from tests.service.engine.wires import Wire
from tests.service.store.fake import FakeStore

EVERY = Outputs(raw=True, every_step=True)
ALICE, BOB = principal("alice"), principal("bob")
ADMIN = principal("root", Role.ADMIN)


async def read(house: Fakes, name: str, *tokens: int) -> list[float]:
    steps = house.served.reader.tokens(np.array(tokens))
    result = await house.engine.step(name, steps, outputs=EVERY)
    assert result.answers.raw is not None
    found: list[float] = result.answers.raw[:, 0].tolist()
    return found


async def listed(house: Fakes, owner: str | None = None, page_size: int = 0) -> list[str]:
    found, token = [], ""
    while True:
        page = await house.engine.listing.page(Wanted(owner=owner, page_size=page_size), token)
        found += [f"{info.owner}/{info.id}" for info in page.sessions]
        token = page.next
        if not token:
            return found


async def generated(house: Fakes, name: str) -> None:
    async for _ in generate(
        house.engine, name, prompt=None, max_steps=1, sampling=Sampling(seed=1)
    ):
        pass


USES: dict[str, Callable[[Fakes, str], Awaitable[object]]] = {
    "step": lambda house, name: read(house, name, 1),
    "describe": lambda house, name: house.engine.describe(name),
    "settle": lambda house, name: house.engine.describe(name, settle=True),
    "reset": lambda house, name: house.engine.reset(name),
    "close": lambda house, name: house.engine.close(name),
    "generate": generated,
    "barrier": lambda house, name: house.engine.barrier(name),
    "of owner": lambda house, name: house.engine.describe(name, owner="alice"),
    "close of owner": lambda house, name: house.engine.close(name, owner="alice"),
}


@pytest.mark.parametrize("use", USES)
async def test_what_another_has_is_told_as_what_nobody_has(use: str) -> None:
    async with fakes(1) as house:
        with called_by(ALICE):
            house.open("mine")
            await read(house, "mine", 1, 2)
        told = []
        with called_by(BOB):
            for name in ("mine", "none"):
                with pytest.raises(errors.SessionUnknownError) as refused:
                    await USES[use](house, name)
                told.append((str(refused.value).replace(name, "…"), refused.value.metadata))
        assert told[0] == told[1]
        with called_by(ALICE):
            assert await read(house, "mine", 3) == run_alone([1, 2, 3])[-1:]


async def test_nobody_attaches_what_another_has() -> None:
    async with fakes(1) as house:
        with called_by(ALICE):
            house.open("mine")
            await read(house, "mine", 1)
        with called_by(BOB):
            wire = Wire(house)
            told = await wire.stream.attachments.attach(
                ["mine", "none"], np.array([0, 1]), open_sessions=False
            )
            assert not len(told.channels)
            assert [type(refusal.error) for refusal in told.refusals] == [
                errors.SessionUnknownError
            ] * 2
            # A stream that he opens "mine" on has one of his own.
            told = await wire.stream.attachments.attach(["mine"], np.array([2]), open_sessions=True)
            assert told.positions.tolist() == [0]
            wire.stream.end()
        with called_by(ALICE):
            assert await read(house, "mine", 3) == run_alone([1, 3])[-1:]


async def test_every_principal_has_ids_of_its_own() -> None:
    async with fakes(1) as house:
        for who, token in ((ALICE, 1), (BOB, 2), (NOBODY, 3)):
            with called_by(who):
                house.open("a")
                with pytest.raises(errors.SessionExistsError):
                    house.open("a")
                await read(house, "a", token)
        for who, token in ((ALICE, 1), (BOB, 2), (NOBODY, 3)):
            with called_by(who):
                assert await read(house, "a", 5) == run_alone([token, 5])[-1:]
        with called_by(BOB):
            await house.engine.close("a")
            with pytest.raises(errors.SessionClosedError):
                house.find("a")
        with called_by(ALICE):
            assert house.position("a") == 2
        with called_by(principal("carol")), pytest.raises(errors.SessionUnknownError):
            house.find("a")


async def test_an_admin_lists_and_closes_all_and_others_their_own() -> None:
    async with fakes(2) as house:
        for who in (ALICE, BOB, NOBODY):
            with called_by(who):
                for name in "abc":
                    house.open(name)
        own = ["alice/a", "alice/b", "alice/c"]
        with called_by(ALICE):
            assert sorted(await listed(house, page_size=2)) == own
            assert sorted(await listed(house, "alice")) == own
            assert await listed(house, "bob") == await listed(house, "") == []
        with called_by(principal("new")):
            assert await listed(house) == []
        with called_by(ADMIN):
            everybody = sorted(f"{who}/{name}" for who in ("", "alice", "bob") for name in "abc")
            assert sorted(await listed(house, page_size=2)) == everybody
            assert sorted(await listed(house, "alice", page_size=1)) == own
            assert await listed(house, "zoe") == []
            with pytest.raises(errors.SessionUnknownError):
                await house.engine.close("a")
            assert await house.engine.close("a", owner="alice") == 0
            info = await house.engine.describe("b", owner="")
            assert (info.owner, info.id) == ("", "b")
        with called_by(ALICE):
            assert sorted(await listed(house)) == own[1:]


@pytest.mark.parametrize("stops", ["well", "crash"])
async def test_sessions_have_their_owners_after_a_restart(stops: str) -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        for who, token in ((ALICE, 1), (BOB, 2), (NOBODY, 3)):
            with called_by(who):
                house.open("a")
                await read(house, "a", token)
        if stops == "crash":
            store = store.crash()
    async with fakes_on(DecodingRunner, store=store) as house:
        for who, token in ((ALICE, 1), (BOB, 2), (NOBODY, 3)):
            with called_by(who):
                assert await read(house, "a", 5) == run_alone([token, 5])[-1:]
        with called_by(ADMIN):
            assert sorted(await listed(house)) == ["/a", "alice/a", "bob/a"]
    async with fakes_on(DecodingRunner, store=store, fingerprint="another") as house:
        with called_by(BOB):
            with pytest.raises(errors.ModelChangedError):
                house.find("a")
            assert await listed(house) == ["bob/a"]
        with called_by(principal("carol")):
            with pytest.raises(errors.SessionUnknownError):
                house.find("a")
            with pytest.raises(errors.SessionUnknownError):
                await house.engine.close("a")
        with called_by(BOB):
            assert await house.engine.close("a") == 2
        with called_by(ADMIN):
            assert sorted(await listed(house)) == ["/a", "alice/a"]


async def test_a_principal_has_as_many_sessions_as_it_may() -> None:
    clocks = Clocks()
    async with fakes_on(DecodingRunner, clocks=clocks) as house:
        few = principal("few", max_sessions=3)
        with called_by(few):
            for name in "abc":
                house.engine.open(house.served, name, idle_timeout_s=4.0)
            for _ in range(2):
                with pytest.raises(errors.QuotaExceededError, match="3 sessions open") as refused:
                    house.open("d")
                assert refused.value.metadata == {"quota": "max_sessions"}
                assert refused.value.retry_after_s == pytest.approx(4.0)
            clocks.served_s += 3.0
            house.engine.directory.touch(house.find("b"))
            with pytest.raises(errors.QuotaExceededError) as refused:
                house.open("d")
            assert refused.value.retry_after_s == pytest.approx(1.0)
            clocks.served_s += 1.001  # who comes then finds room: those that are due make it
            house.open("d")
            assert sorted(house.engine.directory.sessions) == ["b", "d"]
            await house.engine.close("d")
            house.open("e")
            house.open("f")
            with pytest.raises(errors.QuotaExceededError):
                house.open("g")
        with called_by(ALICE):
            for number in range(8):
                house.open(str(number))


async def test_a_principal_has_no_longer_idle_timeout_than_it_may() -> None:
    async with fakes(1) as house:
        with called_by(principal("brief", max_idle_timeout_s=60.0)):
            house.open("a")
            assert house.engine.directory.describe("a").idle_timeout_s == 60.0
            with pytest.raises(errors.BadInputError, match="at most 60 s"):
                house.engine.open(house.served, "b", idle_timeout_s=61.0)
            house.engine.open(house.served, "b", idle_timeout_s=60.0)
        longest = pytest.raises(errors.BadInputError, match="at most 604800 s")
        with called_by(principal("long", max_idle_timeout_s=1e9)), longest:
            house.engine.open(house.served, "b", idle_timeout_s=604801.0)


@pytest.mark.parametrize("seed", range(4))
async def test_principals_that_are_interleaved_are_as_each_alone(seed: int) -> None:
    """Four of them use the same five ids, at once; each finds what itself has done."""
    chance = random.Random(seed)
    async with fakes(2, max_sessions=64) as house:

        async def play(number: int) -> None:
            own: dict[str, list[int]] = {}
            with called_by(principal(f"p{number}")):
                for _ in range(60):
                    name, token = chance.choice("abcde"), chance.randrange(8)
                    what = chance.choice(("open", "read", "read", "read", "close", "list"))
                    if what == "open":
                        with suppress(errors.SessionExistsError):
                            house.open(name)
                            assert name not in own
                            own[name] = []
                    elif what == "list":
                        assert sorted(await listed(house)) == sorted(
                            f"p{number}/{name}" for name in own
                        )
                    elif name not in own:
                        with pytest.raises((errors.SessionUnknownError, errors.SessionClosedError)):
                            await read(house, name, token)
                    elif what == "read":
                        own[name].append(token)
                        assert await read(house, name, token) == run_alone(own[name])[-1:]
                    else:
                        assert await house.engine.close(name) == len(own.pop(name))

        await asyncio.gather(*map(play, range(4)))


async def test_of_a_model_that_one_may_not_use_any_more_a_session_can_be_seen_and_closed() -> None:
    async with fakes(1) as house:
        with called_by(principal("fickle")) as who:
            house.open("mine")
            await read(house, "mine", 1, 2)
            who.grant = replace(who.grant, models=("another",))
            for use in ("step", "reset", "generate"):
                with pytest.raises(errors.PermissionDeniedError, match="not use 'fake' any more"):
                    await USES[use](house, "mine")
            told = await Wire(house).stream.attachments.attach(
                ["mine"], np.array([0]), open_sessions=False
            )
            assert [type(each.error) for each in told.refusals] == [errors.PermissionDeniedError]
            with pytest.raises(errors.SessionUnknownError):
                await read(house, "none", 1)
            assert (await house.engine.describe("mine")).position == 2
            assert await listed(house) == ["fickle/mine"]
            who.grant = replace(who.grant, models=("*",))
            assert await read(house, "mine", 3) == run_alone([1, 2, 3])[-1:]
            who.grant = replace(who.grant, models=())
            assert await house.engine.close("mine") == 3


async def test_a_model_that_one_may_not_use_is_listed_as_one_that_is_not_there() -> None:
    store = FakeStore()
    async with fakes_on(DecodingRunner, store=store) as house:
        with called_by(ALICE):
            house.open("a")
    limited = principal("limited")
    limited.grant = replace(limited.grant, models=("another",))
    for fingerprint in ("f", "another"):  # as it was; then alice's has no model
        async with fakes_on(DecodingRunner, store=store, fingerprint=fingerprint) as house:
            told = set()
            with called_by(limited):
                for model in (house.served.name, "none"):
                    with pytest.raises(errors.ModelUnknownError) as refused:
                        await house.engine.listing.page(Wanted(model=model))
                    told.add(str(refused.value).replace(f"'{model}'", "…"))
            assert len(told) == 1


async def test_a_page_token_tells_nothing() -> None:
    """Not in which slot the next page begins, by which one could count what others have."""
    async with fakes(1) as house:
        with called_by(ALICE):
            for name in "abc":
                house.open(name)
            token, first = "", []
            for _ in range(2):
                page = await house.engine.listing.page(Wanted(page_size=1), token)
                token = page.next
                first.append(base64.urlsafe_b64decode(token))
                assert len(first[-1]) == 16 + 96
            assert sum(map(int.__ne__, *first)) > 80, "none is like another"
            assert not any(each.isascii() for each in first)
            for spoilt in (token[:-4], token[4:], token.swapcase(), token[:-8] + "AAAAAAAA"):
                with pytest.raises(errors.BadInputError, match="page_token"):
                    await house.engine.listing.page(Wanted(), spoilt)
            page = await house.engine.listing.page(Wanted(page_size=1), token)
            assert [info.id for info in page.sessions] == ["c"]
