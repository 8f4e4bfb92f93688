"""``cellar-serve token``: what it makes, what it tells, and that it is light."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.auth import file as files
from service.auth import tokens, tool
from service.auth.principal import Quota, Role
from tests.reasons import ROOT


class Command:
    """The command, on one file."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        self.errors = ""

    def __call__(self, name: str, *arguments: str, status: int = 0) -> str:
        """What it prints; what it says besides is in `errors`."""
        try:
            found = tool.main([name, "--tokens", str(self.path), *arguments])
        except SystemExit as end:
            found = int(end.code or 0)
        out, self.errors = self._capsys.readouterr()
        assert found == status, self.errors
        return out

    @property
    def file(self) -> files.TokenFile:
        return files.read(self.path)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "tokens.json", capsys)


def test_a_token_is_printed_alone_and_once(command: Command) -> None:
    printed = command("add", "alice", "--role", "step")
    token_id, secret = tokens.split(printed.removesuffix("\n"))
    (record,) = command.file.principals["alice"].tokens
    assert (record.id, bytes.fromhex(record.sha256)) == (token_id, tokens.digest(secret))
    assert secret not in command.path.read_text()
    assert secret not in command.errors
    for told in (command("list"), command("list", "--json")):
        assert token_id in told
        assert secret not in told
        assert record.sha256 not in told


def test_another_token_changes_only_what_is_named(command: Command) -> None:
    command("add", "alice", "--role", "step", "--model", "m-*", "--max-sessions", "7")
    command("add", "alice", "--max-waiting-bytes", "2MiB", "--max-idle-timeout", "1h")
    alice = command.file.principals["alice"]
    assert len(alice.tokens) == 2
    assert alice.grant.roles == {Role.STEP}
    assert alice.grant.models == ("m-*",)
    quota = Quota(max_sessions=7, max_waiting_bytes=2**21, max_idle_timeout_s=3600)
    assert alice.grant.quota == quota
    command(
        "set", "alice", "--role", "read", "--role", "admin", "--max-sessions", "off", "--model=*"
    )
    after = command.file.principals["alice"]
    assert after.tokens == alice.tokens
    assert after.grant.roles == {Role.READ, Role.ADMIN}
    assert after.grant.models is None
    assert after.grant.quota.max_sessions is None
    assert after.grant.quota.max_waiting_bytes == 2**21


def test_all_quotas_can_be_set(command: Command) -> None:
    given = [
        "--max-sessions=1", "--max-steps-per-s=2.5", "--max-pending-steps=3",
        "--max-waiting-bytes=4", "--max-idle-timeout=5m", "--max-generations=6",
    ]  # fmt: skip
    command("add", "a", "--role", "step", *given)
    assert command.file.principals["a"].grant.quota == Quota(
        max_sessions=1, max_steps_per_s=2.5, max_pending_steps=3, max_waiting_bytes=4,
        max_idle_timeout_s=300, max_generations=6,
    )  # fmt: skip


def test_a_revoked_token_is_gone_and_the_others_stay(command: Command) -> None:
    first, second = (
        tokens.split(command("add", "alice", "--role", "step").strip())[0] for _ in range(2)
    )
    command("add", "bob", "--role", "step")
    command("revoke", first)
    assert [token.id for token in command.file.principals["alice"].tokens] == [second]
    command("revoke", "alice", "--all")
    assert command.file.principals.keys() == {"bob"}


@pytest.mark.parametrize(
    ("when", "expires"),
    [
        ("2099-02-01", "2099-02-01T00:00:00Z"),
        ("2099-02-01T10:00:00+02:00", "2099-02-01T10:00:00+02:00"),
        ("never", None),
    ],
)
def test_tokens_end_when_they_are_to(command: Command, when: str, expires: str | None) -> None:
    command("add", "a", "--role", "step", "--expires", when)
    (token,) = json.loads(command("list", "--json"))["principals"]["a"]["tokens"]
    assert token.get("expires") == expires


def test_days_are_counted_from_now(command: Command) -> None:
    command("add", "a", "--role", "step", "--expires", "90d")
    (token,) = command.file.principals["a"].tokens
    assert token.expires is not None
    assert (token.expires - token.created).total_seconds() == pytest.approx(90 * 86_400, abs=2)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["add", "new"], 1, "say --role"),
        (["add", "a b", "--role", "step"], 2, "1 to 64 letters"),
        (["add", "a", "--role", "god"], 2, "say step, read, admin"),
        (["add", "a", "--role", "step,read"], 2, "name --role several times"),
        (["add", "a", "--role", "step", "--expires", "90"], 2, "say 90d"),
        (["add", "a", "--role", "step", "--expires", "1999-01-01"], 2, "over already"),
        (["add", "a", "--role", "step", "--expires", "tomorrow"], 2, "no time"),
        (["add", "a", "--role", "step", "--expires", "nan"], 2, "no time"),
        (["add", "a", "--role", "step", "--max-sessions", "-1"], 2, "a whole number, 0"),
        (["add", "a", "--role", "step", "--max-steps-per-s", "inf"], 2, "cannot be a quota"),
        (["add", "a", "--role", "step", "--model", ""], 1, "models"),
        (["set", "nobody", "--role", "step"], 1, "there is no 'nobody'"),
        (["revoke", "alice"], 1, "there is no token 'alice'"),
        (["revoke", "nobody", "--all"], 1, "there is no principal 'nobody'"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    command: Command, arguments: list[str], status: int, says: str
) -> None:
    command("add", "alice", "--role", "step")
    before = command.path.read_bytes()
    assert command(*arguments, status=status) == ""
    (line,) = command.errors.splitlines()
    assert says in line
    assert command.path.read_bytes() == before


def test_a_bad_file_is_left_as_it_is(command: Command) -> None:
    command.path.write_text('{"version": 9}')
    assert command("add", "alice", "--role", "step", status=1) == ""
    assert "newer" in command.errors
    assert command.path.read_text() == '{"version": 9}'


def test_the_file_is_found_as_the_server_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["list"]) == 1
    assert "say --tokens FILE" in capsys.readouterr().err
    config = tmp_path / "cellar.toml"
    config.write_text(f'tokens = "{tmp_path / "by-config"}"\n')
    assert tool.main(["add", "a", "--role", "step", "--config", str(config)]) == 0
    monkeypatch.setenv("CELLAR_TOKENS", str(tmp_path / "by-variable"))
    assert tool.main(["add", "a", "--role", "step", "--config", str(config)]) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"by-config", "by-variable"}


def test_the_command_is_light(tmp_path: Path) -> None:
    """It is found beside the server's flags, and imports nothing of what serves."""
    code = (
        "import sys; from cellar.commands import serve; status = serve(); "
        "heavy = {'onnxruntime', 'grpc', 'numpy', 'lmdb'} & sys.modules.keys(); "
        "print(heavy or '', file=sys.stderr); sys.exit(status)"
    )
    arguments: list[Any] = ["token", "add", "a", "--role=step", f"--tokens={tmp_path / 't'}"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert ended.stdout.count(".") == 2
    assert ended.stderr.splitlines()[-1] == "", ended.stderr
