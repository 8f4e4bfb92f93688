"""Whose copies of sessions are: the caller's, within what he may have, whoever had the state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellar.v1 import session_pb2 as pb
from service.auth.file import QuotaRecord
from service.auth.principal import Role
from tests.e2e.access.calls import Answer
from tests.e2e.access.houses import House, house
from tests.e2e.access.requests import EXISTS, NO_MODEL, TEXT

MISMATCH = "FAILED_PRECONDITION/STATE_MISMATCH"
QUOTA = "RESOURCE_EXHAUSTED/QUOTA_EXCEEDED"
DENIED = "PERMISSION_DENIED/PERMISSION_DENIED"


async def exported(made: House, who: str, name: str) -> bytes:
    answer = await made.ask(who, "ExportSession", pb.ExportSessionRequest(session_id=name))
    assert answer.outcome == "OK", answer
    return pb.ExportSessionResponse.FromString(answer.messages[0]).snapshot


async def imported(made: House, who: str, snapshot: bytes, name: str = "") -> Answer:
    request = pb.ImportSessionRequest(snapshot=snapshot, session_id=name)
    return await made.ask(who, "ImportSession", request)


async def forked(made: House, who: str, name: str, new: str, **others: Any) -> Answer:
    request = pb.ForkSessionRequest(session_id=name, new_session_id=new, **others)
    return await made.ask(who, "ForkSession", request)


async def test_who_imports_owns_it_within_what_he_may_have(models: Path, tmp_path: Path) -> None:
    store = f"lmdb:{tmp_path / 'store'}"
    async with house("plain", models, tmp_path, store=store) as made:
        made.join("alice", Role.STEP, quota=QuotaRecord(max_sessions=2, max_idle_timeout_s=60.0))
        made.join("bob", Role.STEP)
        made.join("narrow", Role.STEP, models=["fleeting"])
        await made.look()
        await made.open("bob", "s")
        await made.step("bob", "s", TEXT)
        snapshot = await exported(made, "bob", "s")
        # One that may not use its model is told what he would be told if it was not there.
        refused = await imported(made, "narrow", snapshot)
        assert refused.outcome == MISMATCH
        assert "is not served here" in refused.details
        answer = await imported(made, "alice", snapshot)
        session = pb.ImportSessionResponse.FromString(answer.messages[0]).session
        assert (session.owner, session.id, session.position) == ("alice", "s", 2)
        assert session.idle_timeout.seconds == 60  # bob's is longer than she may have
        assert (await imported(made, "alice", snapshot)).outcome == EXISTS
        assert (await forked(made, "alice", "s", "t")).outcome == "OK"
        assert (await forked(made, "alice", "s", "u")).outcome == QUOTA
        assert (await imported(made, "alice", snapshot, "u")).outcome == QUOTA
        assert set(await made.listed("alice")) == {("alice", "s"), ("alice", "t")}
        assert set(await made.listed("bob")) == {("bob", "s")}
        replies = [await made.step(who, "s", TEXT) for who in ("alice", "bob")]
        assert replies[0].predictions.raw == replies[1].predictions.raw
    async with house("plain", models, tmp_path, tokens=made.tokens, store=store) as again:
        again.named = made.named
        assert set(await again.listed("alice")) == {("alice", "s"), ("alice", "t")}


async def test_forks_go_to_models_that_the_caller_may_use(models: Path, tmp_path: Path) -> None:
    async with house("plain", models, tmp_path) as made:
        made.join("carol", Role.STEP, models=["letters"])
        await made.look()
        await made.open("carol", "s")
        await made.step("carol", "s", TEXT)
        assert (await forked(made, "carol", "s", "t", model="letters")).outcome == "OK"
        assert (await forked(made, "carol", "s", "u", model="fleeting")).outcome == NO_MODEL
        made.tokens.grant("carol", Role.STEP, models=["fleeting"])
        await made.look()
        for request in (
            forked(made, "carol", "s", "u"),
            forked(made, "carol", "s", "u", model="fleeting"),
        ):
            assert (await request).outcome == DENIED
        assert set(await made.listed("carol")) == {("carol", "s"), ("carol", "t")}
