"""The file of tokens: what is written is read, and what cannot be meant is refused by its place."""

import json
import os
import stat
import string
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth import file as files
from service.auth import tokens
from service.auth.file import (
    PrincipalRecord,
    QuotaRecord,
    TokenFile,
    TokenFileError,
    TokenRecord,
)
from service.auth.principal import Grant, Quota, Role

names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)
counts = st.none() | st.integers(0, 2**62)
amounts = st.none() | st.floats(1e-9, 1e300)
rates = st.none() | st.floats(1e-6, 1e12)
times = st.datetimes(
    datetime(1971, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)
) | st.datetimes(
    datetime(1971, 1, 1), datetime(9998, 1, 1), timezones=st.just(timezone(timedelta(hours=-7)))
)
quotas = st.builds(
    QuotaRecord,
    max_sessions=counts,
    max_steps_per_s=rates,
    max_pending_steps=counts,
    max_waiting_bytes=counts,
    max_idle_timeout_s=amounts,
    max_generations=counts,
)
models = st.none() | st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=3
).map(tuple)
token_records = st.builds(
    TokenRecord,
    id=st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=96),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    created=times,
    expires=st.none() | times,
)


@st.composite
def token_files(draw: st.DrawFn) -> TokenFile:
    drawn = st.lists(token_records, max_size=6, unique_by=lambda token: token.id)
    rest, principals = draw(drawn), {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        own = draw(st.integers(0, len(rest)))
        principals[name] = PrincipalRecord(
            roles=tuple(draw(st.lists(st.sampled_from(Role), unique=True))),
            models=draw(models),
            quota=draw(quotas),
            tokens=tuple(rest[:own]),
        )
        rest = rest[own:]
    return TokenFile(principals=principals)


@given(token_files())
def test_what_is_written_is_read(file: TokenFile) -> None:
    assert files.parse(files.format_file(file)) == file


@given(token_files(), st.data())
def test_a_file_with_a_byte_changed_is_read_strictly_or_not_at_all(
    file: TokenFile, data: st.DataObject
) -> None:
    good = bytearray(files.format_file(file))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    told, found = "", None
    try:
        found = files.parse(bytes(good))
    except TokenFileError as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 600
    assert found is None or files.parse(files.format_file(found)) == found


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_junk_is_no_file(junk: bytes) -> None:
    with pytest.raises(TokenFileError):
        files.parse(junk)


GOOD = {
    "version": 1,
    "principals": {
        "alice": {
            "roles": ["step"],
            "tokens": [{"id": "alice.1", "sha256": "0" * 64, "created": "2026-11-29T14:00:00Z"}],
        }
    },
}


def changed(path: str, value: object) -> bytes:
    """The good file with one thing set."""
    made = json.loads(json.dumps(GOOD))
    place = made
    *way, last = path.split("/")
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return json.dumps(made).encode()


TOKEN = "principals/alice/tokens/0"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("version", 2, "written by a newer version"),
        ("version", "1", "version: "),
        ("owner", "me", "owner: "),
        ("principals/alice/role", ["step"], "principals.alice.role: "),
        ("principals/alice/roles", ["steps"], "principals.alice.roles.0: "),
        ("principals/alice/roles", "step", "principals.alice.roles: "),
        ("principals/alice/quota", {"max_sesions": 1}, "principals.alice.quota.max_sesions: "),
        ("principals/alice/quota", {"max_sessions": -1}, "principals.alice.quota.max_sessions: "),
        ("principals/alice/quota", {"max_sessions": 1.5}, "principals.alice.quota.max_sessions: "),
        ("principals/alice/quota", {"max_steps_per_s": 0}, "quota.max_steps_per_s: "),
        ("principals/alice/quota", {"max_steps_per_s": 1e-300}, "quota.max_steps_per_s: "),
        ("principals/a b", {}, "a b"),
        ("principals/" + "a" * 65, {}, "aaa"),
        (f"{TOKEN}/id", "", "principals.alice.tokens.0.id: "),
        (f"{TOKEN}/sha256", "0" * 63, "principals.alice.tokens.0.sha256: "),
        (f"{TOKEN}/sha256", "0" * 64 + "\n", "principals.alice.tokens.0.sha256: "),
        (f"{TOKEN}/secret", "x", "principals.alice.tokens.0.secret: "),
        (f"{TOKEN}/expires", "soon", "principals.alice.tokens.0.expires: "),
        (f"{TOKEN}/expires", "2027-01-01T00:00:00", "principals.alice.tokens.0.expires: "),
        (f"{TOKEN}/created", None, "principals.alice.tokens.0.created: "),
        ("principals/bob", GOOD["principals"]["alice"], "'alice.1' is a token of 'alice' already"),  # type: ignore[index]
    ],
)
def test_what_is_wrong_is_named_by_its_place(path: str, value: object, says: str) -> None:
    assert list(files.parse(json.dumps(GOOD).encode()).tokens())
    with pytest.raises(TokenFileError) as caught:
        files.parse(changed(path, value))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"version": 1, "principals": {}, "principals": {}}', "principals comes twice"),
        (b'{"version": 1, "principals": {"a": {}, "a": {}}}', "a comes twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"version": 1' + b"0" * 5000 + b"}", "no JSON"),
        (b'{"version": NaN}', "no number"),
        (b"\xff", "no UTF-8"),
        (b"", "no JSON"),
    ],
)
def test_what_is_no_json_of_ours_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(TokenFileError, match=says):
        files.parse(data)


def test_a_file_grants_what_it_says() -> None:
    file = files.parse(
        b'{"version": 1, "principals": {"a": {"roles": ["read", "step"], "models": ["m-*"], '
        b'"quota": {"max_sessions": 3, "max_steps_per_s": 2.5}}, "b": {}}}'
    )
    assert file.principals["a"].grant == Grant(
        roles=frozenset({Role.READ, Role.STEP}),
        models=("m-*",),
        quota=Quota(max_sessions=3, max_steps_per_s=2.5),
    )
    assert file.principals["b"].grant == Grant(roles=frozenset())


# ---- on a disk ----


def test_a_file_is_for_its_owner_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    path, link = tmp_path / "tokens.json", tmp_path / "link.json"
    files.write(path, TokenFile())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o646)
    link.symlink_to(path)
    files.write(link, TokenFile(principals={"a": PrincipalRecord()}))
    assert link.is_symlink()
    assert files.read(path).principals.keys() == {"a"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "others get nothing"
    assert {each.name for each in tmp_path.iterdir()} == {"tokens.json", "link.json"}


def test_what_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="cannot be read: No such file"):
        files.read(tmp_path / "absent")
    with pytest.raises(TokenFileError, match="cannot be read: Is a directory"):
        files.read(tmp_path)
    with pytest.raises(TokenFileError, match="cannot be written"):
        files.write(tmp_path / "no" / "tokens", TokenFile())
    with (
        pytest.raises(TokenFileError, match="cannot be changed"),
        files.changing(tmp_path / "no/x"),
    ):
        pass
    large = tmp_path / "large"
    with large.open("wb") as out:
        out.truncate(files.LARGEST + 1)
    with pytest.raises(TokenFileError, match="more than"):
        files.read(large)


def test_two_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    files.write(path, TokenFile())

    def add(number: int) -> None:
        for turn in range(10):
            with files.changing(path):
                file = files.read(path)
                name = f"p{number}.{turn}"
                files.write(
                    path, TokenFile(principals={**file.principals, name: PrincipalRecord()})
                )

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files.read(path).principals) == 40


def test_the_lock_is_one_for_all_names_of_a_file_and_no_link_of_others(tmp_path: Path) -> None:
    (there := tmp_path / "there").mkdir()
    path, link = there / "tokens", tmp_path / "link"
    files.write(path, TokenFile())
    link.symlink_to(path)
    with files.changing(link):
        assert (there / ".tokens.lock").exists()
    (there / ".tokens.lock").unlink()
    (there / ".tokens.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFileError, match="cannot be changed"), files.changing(path):
        pass
    assert not (tmp_path / "elsewhere").exists()


# ---- tokens ----


@given(names)
def test_a_token_is_taken_apart_as_it_was_made(name: str) -> None:
    new = tokens.make(name)
    assert tokens.split(str(new)) == (new.id, new.secret)
    assert tokens.PRINCIPAL.fullmatch(name)
    assert tokens.TOKEN_ID.fullmatch(new.id)
    assert len(str(new)) <= tokens.LONGEST
    assert len(new.secret) == 43, "256 bits, 6 in a character"
    assert new.secret not in repr(new)
    assert str(tokens.make(name)) != str(new)


def test_the_pid_is_in_no_file_that_stays(tmp_path: Path) -> None:
    files.write(tmp_path / "t", TokenFile())
    assert not [each for each in tmp_path.iterdir() if str(os.getpid()) in each.name]
