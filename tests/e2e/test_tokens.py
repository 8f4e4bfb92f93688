"""A server that asks for tokens, and the command that makes them beside it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import model_pb2, model_pb2_grpc
from service.auth import tool
from service.healthcheck import is_serving
from tests.e2e.process import launch, running
from tests.e2e.test_check import checked
from tests.service.auth.tokens import bearer


class Command:
    """``cellar-serve token`` on one file."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *arguments: str) -> str:
        assert tool.main([*arguments, "--tokens", str(self.path)]) == 0
        return self._capsys.readouterr().out.strip()


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "tokens.json", capsys)


def listed(models: Any, token: str) -> grpc.StatusCode:
    """The code of a call with a token."""
    try:
        models.ListModels(model_pb2.ListModelsRequest(), metadata=bearer(token), timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def soon(models: Any, token: str, code: grpc.StatusCode) -> None:
    """Waits until calls with a token end like this."""
    until = time.monotonic() + 10
    while listed(models, token) is not code:
        assert time.monotonic() < until, f"{code} is not told"
        time.sleep(0.05)


def page(address: str, token: str | None) -> int:
    """The status of the page of metrics."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.long
def test_tokens_come_and_go_without_a_restart(few_models: Path, command: Command) -> None:
    scraper = command("add", "prometheus", "--role", "read")
    with running(few_models, f"--tokens={command.path}") as server:
        assert is_serving(server.address), "health wants no token"
        assert page(server._metrics, None) == 401
        assert page(server._metrics, scraper) == 200
        with grpc.insecure_channel(server.address) as channel:
            models: Any = model_pb2_grpc.ModelServiceStub(channel)
            old = command("add", "alice", "--role", "step")
            soon(models, old, grpc.StatusCode.OK)
            new = command("add", "alice")
            soon(models, new, grpc.StatusCode.OK)
            assert listed(models, old) is grpc.StatusCode.OK, "while both are handed out"
            command("revoke", old.rpartition(".")[0])
            soon(models, old, grpc.StatusCode.UNAUTHENTICATED)
            assert listed(models, new) is grpc.StatusCode.OK
            command.path.write_text("{")
            server.wait_for("the file of tokens cannot be used: those of before hold", 10)
            assert listed(models, new) is grpc.StatusCode.OK
            assert listed(models, old) is grpc.StatusCode.UNAUTHENTICATED
            assert page(server._metrics, scraper) == 200
        server.terminate()
        assert server.wait() == 0
        assert server.errors() == ""


def test_a_server_that_others_can_reach_says_so(few_models: Path) -> None:
    with running(few_models, "--host=0.0.0.0") as server:
        said = server.wait_for("exposed", 1)
        assert "0.0.0.0 can be reached from other machines" in said["says"]


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--tokens=absent.json"], 1, "absent.json cannot be read: No such file or directory"),
        (["--tokens=pyproject.toml"], 1, "pyproject.toml: it is no JSON"),
        (["--host=0.0.0.0", "--require-auth"], 2, "--require-auth: 0.0.0.0 can be reached"),
    ],
)
def test_a_server_does_not_start_half_guarded(
    few_models: Path, flags: list[str], status: int, words: str
) -> None:
    process = launch(f"--models={few_models}", "--port=0", "--metrics-port=off", *flags)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_check_looks_at_the_tokens(few_models: Path, command: Command) -> None:
    command("add", "alice", "--role", "step")
    flags = (f"--models={few_models}", f"--tokens={command.path}", "--host=0.0.0.0")
    command.path.chmod(0o644)
    file = json.loads(command.path.read_text())
    file["principals"]["alice"]["roles"] = []
    command.path.write_text(json.dumps(file))
    odd = checked(*flags)
    assert (odd.status, odd.errors) == (0, "")
    assert f"tokens: {command.path}: 1 principal, 1 token, 0 of them expired\n" in odd.told
    assert "note: 0.0.0.0 can be reached from other machines, and tokens" in odd.told
    assert "note: tokens: alice may do nothing (1 without a role)" in odd.told
    assert f"may read {command.path}: chmod o=" in odd.told
    command.path.write_text("{")
    bad = checked(*flags)
    command.path.unlink()
    gone = checked(*flags)
    assert "No such file or directory; make it: cellar-serve token add NAME" in gone.told
    assert bad.status == 1
    assert f"fault: --tokens: {command.path}: it is no JSON" in bad.told
