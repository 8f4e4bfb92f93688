"""What the documents show works as they show it, against the models that come with the project."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import cellar
from cellar.cli import main
from cellar.v1 import model_pb2, session_pb2
from service.settings import ZOO
from tests.documents import Page
from tests.e2e.process import ServerProcess, running

SAID = "localhost:8001"
SERVICES = {
    service.full_name: service
    for file in (session_pb2.DESCRIPTOR, model_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}


@pytest.fixture(scope="module")
def zoo() -> Iterator[ServerProcess]:
    with running(Path(ZOO)) as server:
        yield server


def run(page: str, address: str) -> dict[str, Any]:
    """Runs a page's Python from top to bottom, as one program; returns its names."""
    blocks = Page(page).blocks("python")
    assert any(SAID in block for block in blocks)
    names: dict[str, Any] = {"__name__": page}
    for block in blocks:
        exec(compile(block.replace(SAID, address), page, "exec"), names)
    return names


def test_the_page_on_calling(zoo: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("docs/calling.md", zoo.address)
    names["client"].close()
    assert "stdlib-text 1" in capsys.readouterr().out
    assert names["session"].position == 4
    assert names["reply"].predictions.argmax.shape == (1000,)
    assert names["found"].predictions.positions.tolist() == [8, 4]


def test_the_page_on_states(zoo: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    run("docs/state.md", zoo.address)
    said = capsys.readouterr().out
    assert "{'draft': 'device'}" in said
    assert "\n13 0\n" in said  # where it stands, and where its history begins
    assert "\n26 13\n" in said
    with cellar.connect(zoo.address) as client:
        assert list(client.list_sessions()) == []


def test_every_command(
    zoo: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("CELLAR_SERVER", zoo.address)
    monkeypatch.chdir(tmp_path)  # where it writes files
    lines = "".join(Page("docs/calling.md").blocks("sh")).splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("cellar ")]
    assert {words[1] for words in commands} == {
        *("models", "step", "generate", "forecast"),
        *("sessions", "reset", "close", "fork", "export", "import"),
    }
    with cellar.connect(zoo.address) as client:
        client.session("stdlib-text", id="me", resume=True)
    for words in commands:
        assert main(words[1:]) == 0
        assert capsys.readouterr().out


def test_every_call_with_grpcurl(zoo: ServerProcess) -> None:
    text = "".join(Page("docs/calling.md").blocks("sh"))
    calls = re.findall(rf"grpcurl -plaintext -d '(.+)' \\\n  {SAID} ([\w.]+)/(\w+)", text)
    assert len(calls) == text.count("grpcurl")
    with grpc.insecure_channel(zoo.address) as channel:
        for body, service, name in calls:
            method = SERVICES[service].methods_by_name[name]
            request: Message = ParseDict(json.loads(body), GetMessageClass(method.input_type)())
            call: Callable[..., bytes] = channel.unary_unary(f"/{service}/{name}")
            assert call(request.SerializeToString(), timeout=20)
