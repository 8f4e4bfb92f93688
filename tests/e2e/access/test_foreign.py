"""What another has is told as what nobody has: the same code, words, metadata and size."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc
from cellar.v1.values_pb2 import Inputs
from service.auth.principal import Role
from tests.e2e.access.calls import Answer, ask
from tests.e2e.access.houses import KINDS, House, house
from tests.e2e.access.requests import NUMBERS, REQUESTS, TEXT, UNKNOWN, Request, Target
from tests.service.auth.tokens import bearer

ABSENT = "nobody-has-this"
# What alice has; all of these are as long as the absent one, so that sizes can be compared.
STATES = {
    "open": "alice-open-----",
    "prices": "alice-prices---",
    "ephemeral": "alice-ephemeral",
    "closed": "alice-closed---",
    "expired": "alice-expired--",
    "stored": "alice-stored---",
    "stranded": "alice-stranded-",
}
_TOLD = {  # to alice, by GetSession
    "closed": "NOT_FOUND/SESSION_CLOSED",
    "expired": "NOT_FOUND/SESSION_EXPIRED",
    "stranded": "FAILED_PRECONDITION/MODEL_CHANGED",
}


@asynccontextmanager
async def furnished(kind: str, models: Path, folder: Path) -> AsyncIterator[House]:
    """A server where alice has a session of every kind; it was restarted without a model."""
    served, store = folder / "models", f"lmdb:{folder / 'store'}"
    shutil.copytree(models, served)
    async with house(kind, served, folder, store=store) as first:
        first.join("alice", Role.STEP)
        first.join("bob", Role.STEP)
        first.join("root", Role.ADMIN)
        await first.look()
        for state, model in (("stored", "letters"), ("stranded", "fleeting")):
            await first.open("alice", STATES[state], model)
            await first.step("alice", STATES[state], TEXT)
    shutil.rmtree(served / "fleeting")
    async with house(kind, served, folder, tokens=first.tokens, store=store) as made:
        made.named = first.named
        expiring: Any = {"idle_timeout": {"nanos": 1_000_000}}
        await made.open("alice", STATES["expired"], **expiring)
        await made.open("alice", STATES["closed"])
        close = pb.CloseSessionRequest(session_id=STATES["closed"])
        await made.ask("alice", "CloseSession", close)
        for state, model in (("open", "letters"), ("prices", "prices"), ("ephemeral", "letters")):
            is_ephemeral = state == "ephemeral"
            await made.open("alice", STATES[state], model, ephemeral=is_ephemeral)
            await made.step("alice", STATES[state], NUMBERS if state == "prices" else TEXT)
        while (await got(made, "alice", "expired")).outcome == "OK":  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.1)
        yield made


async def got(made: House, who: str, state: str) -> Answer:
    """What somebody is told of a session of alice's."""
    return await made.ask(who, "GetSession", pb.GetSessionRequest(session_id=STATES[state]))


async def targets(made: House) -> dict[str, Target]:
    """Alice's sessions, as she knows them."""
    known = await made.listed("alice")
    listed = await made.ask("alice", "ListSessions", pb.ListSessionsRequest(page_size=1))
    token = pb.ListSessionsResponse.FromString(listed.messages[0]).next_page_token
    found = {}
    for state, name in STATES.items():
        session = known.get(("alice", name), pb.Session(branch=7))
        found[state] = Target(name, "alice", session.branch, session.position, token)
    return found


def _places(known: dict[str, Target]) -> list[Target]:
    """Where they stand; tokens of pages are new each time."""
    return [replace(target, token="") for target in known.values()]


async def answered(made: House, who: str, request: Request, target: Target) -> Answer:
    """What somebody is told; an id that he has opened is closed again, and was never there."""

    answer = await ask(
        made.channel, request.path, request.sent(target), bearer(made.named[who]),
        is_endless=request.is_endless,
    )  # fmt: skip
    return answer.hiding(target.id)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind != "mutual")) for kind in KINDS]
)
async def test_what_another_has_is_told_as_what_nobody_has(
    kind: str, models: Path, tmp_path: Path
) -> None:
    async with furnished(kind, models, tmp_path) as made:
        for state in STATES:
            assert (await got(made, "alice", state)).outcome == _TOLD.get(state, "OK"), state
        known = await targets(made)
        sent = [each for each in REQUESTS if not each.opens and each.foreign != "OK"]
        assert len(sent) > 25
        # An admin, who may look at all, finds by an id alone what is his own.
        for who in ("bob",) if kind == "mutual" else ("bob", "root"):
            for request in sent:
                if who == "root" and request.admin is not None:
                    continue
                absent = await answered(made, who, request, Target(ABSENT, "alice", 7, 2))
                assert absent.outcome == request.foreign
                for state, target in known.items():
                    told = await answered(made, who, request, target)
                    assert told == absent, (who, str(request), state)
        for state in STATES:
            assert (await got(made, "alice", state)).outcome == _TOLD.get(state, "OK"), state
        assert _places(await targets(made)) == _places(known)


async def test_an_id_that_another_has_had_can_be_opened_as_one_that_nobody_had(
    models: Path, tmp_path: Path
) -> None:
    """Each way to open, in every state of alice's: what is told differs by times and branch."""
    async with furnished("plain", models, tmp_path) as made:
        for name in (*STATES.values(), ABSENT):
            opened = await made.open("bob", name)
            for unlike in ("open_time", "last_used_time", "branch"):
                opened.ClearField(unlike)
            opened.id = ""
            assert opened == pb.Session(
                model="letters", model_version=1, status="SESSION_STATUS_OPEN",
                idle_timeout={"seconds": 3600}, owner="bob", tier="SESSION_TIER_DEVICE",
            ), name  # fmt: skip
            again = await made.ask(
                "bob", "OpenSession", pb.OpenSessionRequest(model="letters", session_id=name)
            )
            assert again.outcome == "ALREADY_EXISTS/SESSION_EXISTS", "his own"
            close = pb.CloseSessionRequest(session_id=name)
            assert (await made.ask("bob", "CloseSession", close)).outcome == "OK"
        for state in STATES:
            assert (await got(made, "alice", state)).outcome == _TOLD.get(state, "OK"), state


async def test_an_owner_named_and_pages_of_another_lead_to_nothing(
    models: Path, tmp_path: Path
) -> None:
    async with furnished("plain", models, tmp_path) as made:
        tokens = []
        request = pb.ListSessionsRequest(page_size=1)
        while True:
            answer = await made.ask("alice", "ListSessions", request)
            request.page_token = pb.ListSessionsResponse.FromString(
                answer.messages[0]
            ).next_page_token
            if not request.page_token:
                break
            tokens.append(request.page_token)
        assert len(tokens) >= 4
        for who in ("bob", "root"):
            await made.open(who, "own")
        named: dict[str, Any]
        for owner in (None, "alice", "", "root", "nobody", "\n", "bob"):
            named = {} if owner is None else {"owner": owner}
            for token in ("", *tokens):
                found = await made.listed("bob", page_token=token, **named)
                assert {whose for whose, _ in found} <= {"bob"}
            assert bool(await made.listed("bob", **named)) == (owner in (None, "bob"))
            for name in ("own", STATES["open"], STATES["stranded"]):
                for method, asked in (
                    ("GetSession", pb.GetSessionRequest(session_id=name, **named)),
                    ("CloseSession", pb.CloseSessionRequest(session_id=name, branch=1, **named)),
                ):
                    outcome = (await made.ask("bob", method, asked)).outcome
                    is_own = owner in (None, "bob") and name == "own"
                    wanted = "OK" if method == "GetSession" else "FAILED_PRECONDITION/STALE_BRANCH"
                    assert outcome == (wanted if is_own else UNKNOWN), (owner, name, method)
        everybody = await made.listed("root")
        assert {whose for whose, _ in everybody} == {"alice", "bob", "root"}
        assert {each.tier for each in everybody.values()} == {
            pb.SESSION_TIER_DEVICE, pb.SESSION_TIER_STORE
        }  # fmt: skip


async def test_a_channel_whose_session_is_gone_does_not_lead_to_who_has_its_slot(
    models: Path, tmp_path: Path
) -> None:
    """There is one slot; it is alice's by the time that bob's streams go on."""
    async with house("plain", models, tmp_path, max_sessions=1) as made:
        made.join("alice", Role.STEP)
        made.join("bob", Role.STEP)
        await made.look()
        opened = pb.OpenSessionRequest(model="letters", session_id="s")
        close = pb.CloseSessionRequest(session_id="s")
        stub: Any = session_pb2_grpc.SessionServiceStub(made.streams)

        async def tell(stream: Any, **message: Any) -> pb.StreamResponse:
            await stream.write(pb.StreamRequest(**message))
            answer: pb.StreamResponse = await stream.read()
            return answer

        frame = pb.StreamFrame(channels=[1], inputs=TEXT, steps=[2])
        one = pb.StreamFrame(channels=[1], inputs=Inputs(text="x"))
        for late in (
            {"frame": frame}, {"frame": one}, {"reset": pb.StreamReset(channels=[1])},
            {"detach": pb.StreamDetach(channels=[1], close=True)},
        ):  # fmt: skip
            assert (await made.ask("bob", "OpenSession", opened)).outcome == "OK"
            stream = stub.Stream(metadata=bearer(made.named["bob"]), timeout=30)
            await tell(stream, start=pb.StreamStart(model="letters"))
            attach = pb.StreamAttach(session_ids=["s"], channels=[1])
            assert (await tell(stream, attach=attach)).attached.channels == [1]
            assert (await tell(stream, frame=one)).reply.positions == [1]
            assert (await made.ask("bob", "CloseSession", close)).outcome == "OK"
            # The slot is free once what ran on it has ended.
            async with asyncio.timeout(10):
                while (await made.ask("alice", "OpenSession", opened)).outcome != "OK":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await made.step("alice", "s", TEXT)
            stood = await made.step("alice", "s", TEXT, commit=False)
            told = await tell(stream, **late)
            assert not told.reply.channels
            assert not told.reset.channels
            assert {each.reason for each in (*told.reply.errors, *told.reset.errors)} <= {
                "SESSION_CLOSED"
            }
            assert await made.step("alice", "s", TEXT, commit=False) == stood
            found = await made.listed("alice")
            assert found["alice", "s"].position == 2
            await stream.done_writing()
            while await stream.read() is not grpc.aio.EOF:
                pass
            assert (await made.ask("alice", "CloseSession", close)).outcome == "OK"
