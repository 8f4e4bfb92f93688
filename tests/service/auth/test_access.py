"""A file of tokens that changes under a server."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.auth.access import Access
from service.auth.authenticator import Authenticator, KnownToken
from service.auth.file import TokenFileError
from service.auth.principal import NOBODY, Grant, Role, calling, require_model
from service.auth.principals import NOTHING, Principals
from service.auth.tokens import digest, make
from service.errors import PermissionDeniedError, UnauthenticatedError
from tests.service.auth.tokens import Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


def admit(access: Access, token: str) -> str:
    """The principal of a token."""
    return access.authenticator.admit([f"Bearer {token}"], port="grpc").principal.name


def admits(access: Access, token: str) -> bool:
    try:
        admit(access, token)
    except UnauthenticatedError:
        return False
    return True


async def test_a_principal_stays_one_and_its_grant_changes_in_place(tokens: Tokens) -> None:
    token = tokens.add("alice", Role.STEP)
    access = Access(tokens.path)
    alice = access.principals.of("alice")
    assert admit(access, token) == "alice"
    assert alice.grant.roles == {Role.STEP}
    tokens.grant("alice", Role.READ, models=["m"])
    other = tokens.add("bob", Role.STEP)
    with capture_logs() as said:
        await access.look()
    assert access.principals.of("alice") is alice
    assert alice.grant == Grant(roles=frozenset({Role.READ}), models=("m",))
    assert admits(access, token)
    (entry,) = said
    assert entry["principals_added"] == ["bob"]
    assert entry["principals_changed"] == ["alice"]
    assert entry["tokens_added"] == [other.rpartition(".")[0]]
    assert other.rpartition(".")[2] not in str(said)
    tokens.remove("alice")
    await access.look()
    assert access.principals.of("alice") is alice
    assert alice.grant == NOTHING
    assert not admits(access, token)
    assert admits(access, other)


async def test_what_did_not_change_is_not_read(tokens: Tokens) -> None:
    access = Access(tokens.path)
    with capture_logs() as said:
        await access.look()
    assert not said


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.unlink(),
        lambda path: path.write_text('{"version": 1, "principals": {"a": {"role": []}}}'),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: os.truncate(path, 2**30),
    ],
    ids=["cut", "gone", "strange", "folder", "large"],
)
async def test_a_file_that_became_bad_changes_nothing_and_is_said_once(
    tokens: Tokens, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    token = tokens.add("alice", Role.STEP)
    access = Access(tokens.path)
    spoil(tokens.path)
    with capture_logs() as said:
        for _ in range(3):
            await access.look()
    assert [entry["log_level"] for entry in said] == ["error"]
    was_sound = access.is_sound
    assert not was_sound
    assert admits(access, token)
    if tokens.path.is_dir():
        tokens.path.rmdir()
    new = tokens.add("bob", Role.STEP)
    await access.look()
    assert access.is_sound
    assert admits(access, new)


async def test_a_secret_of_kubernetes_is_seen_to_change(tmp_path: Path) -> None:
    """Its files are links to links, of which the one in the middle is replaced."""
    old, new = Tokens(tmp_path / "tokens.1"), Tokens(tmp_path / "tokens.2")
    first, second = old.add("a", Role.STEP), new.add("a", Role.STEP)
    (tmp_path / "data").symlink_to(old.path)
    (tmp_path / "tokens").symlink_to(tmp_path / "data")
    access = Access(tmp_path / "tokens")
    assert (admits(access, first), admits(access, second)) == (True, False)
    (tmp_path / "next").symlink_to(new.path)
    (tmp_path / "next").replace(tmp_path / "data")
    await access.look()
    assert (admits(access, first), admits(access, second)) == (False, True)


async def test_the_file_is_watched_until_it_is_told_to_end(tokens: Tokens) -> None:
    access, looked = Access(tokens.path), asyncio.Event()
    access.listen(looked.set)
    token = tokens.add("a", Role.STEP)
    watching = asyncio.create_task(access.watch())
    await asyncio.wait_for(looked.wait(), 10)
    watching.cancel()
    assert admits(access, token)


def test_a_server_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="absent cannot be read"):
        Access(tmp_path / "absent")


def test_what_an_operator_should_know_is_said_at_the_start(tokens: Tokens) -> None:
    with capture_logs() as said:
        Access(tokens.path)
    assert [entry["event"] for entry in said] == ["the file of tokens has none: nobody can call"]
    tokens.add("a", Role.STEP)
    tokens.path.chmod(0o604)
    with capture_logs() as said:
        Access(tokens.path)
    assert [entry["event"] for entry in said] == [
        "tokens are wanted",
        "the file of tokens can be read by everybody on this machine",
    ]
    assert (said[0]["principals"], said[0]["tokens"]) == (1, 1)


# ---- tokens ----


def test_a_token_is_valid_until_its_end_and_each_attempt_is_counted() -> None:
    now, new, counts = [100.0], make("a"), Counter[tuple[str, str]]()
    known = KnownToken(
        id=new.id, sha256=digest(new.secret), expires_s=200.0, principal=Principals().of("a")
    )
    held = Authenticator({new.id: known}, counts=counts, clock=lambda: now[0])
    assert held.admit([f"Bearer {new}"], port="grpc") is known
    held.recheck(known)
    for headers in (
        [],
        [f"Bearer {new}A"],
        [b"Bearer x"],
        ["Bearer " + "é" * 20],
        [f"Bearer {new}"] * 2,
    ):
        with pytest.raises(UnauthenticatedError):
            held.admit(headers, port="grpc")
    now[0] = 200.0
    with pytest.raises(UnauthenticatedError):
        held.admit([f"Bearer {new}"], port="http")
    with pytest.raises(UnauthenticatedError):
        held.recheck(known)
    assert counts == {
        ("grpc", "ok"): 1, ("grpc", "none"): 1, ("grpc", "wrong"): 4, ("http", "expired"): 1,
    }  # fmt: skip


def test_an_id_that_is_given_away_anew_is_another_token() -> None:
    of, new, other = Principals().of, make("a"), make("a")
    one, two = (
        KnownToken(id=new.id, sha256=digest(secret), expires_s=float("inf"), principal=of("a"))
        for secret in (new.secret, other.secret)
    )
    held = Authenticator({new.id: one})
    held.replace({new.id: two})
    with pytest.raises(UnauthenticatedError):
        held.recheck(one)


def test_who_owns_and_has_no_grant_may_do_nothing() -> None:
    principals = Principals()
    gone = principals.of("gone")
    assert gone is principals.of("gone")
    assert not gone.grant.has(*Role)
    assert not gone.grant.may_use("any")
    assert principals.of("") is NOBODY


def test_a_model_that_is_not_allowed_any_more_is_refused() -> None:
    principals = Principals()
    require_model("any")
    token = calling.set(principals.of("a"))
    try:
        with pytest.raises(PermissionDeniedError, match="'a' may not use 'any'"):
            require_model("any")
    finally:
        calling.reset(token)
