"""The client for Node in ``examples/node``, against a real server: the wire as others read it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cellar
from service.settings import ZOO
from tests.client.access.certificates import Authority, server_credentials
from tests.client.fake import FakeServer
from tests.documents import ROOT, Page
from tests.e2e.process import ServerProcess, running
from tests.e2e.proxy import proxied

EXAMPLE = ROOT / "examples" / "node"
LOCK = EXAMPLE / "package-lock.json"
INSTALL_S = 40  # seconds come to nothing where there is no network: npm is told not to try again
TEXT = "import os\nfor each in range"


@pytest.fixture(scope="module")
def node() -> str:
    """The command ``node``, with what the example needs installed beside it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no node, or no npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").split(".")[0]) < 18:
        pytest.skip(f"node {version.stdout.strip()} is older than 18")
    ready = EXAMPLE / "node_modules" / ".ready"
    name = f"cellar-npm-{os.getuid()}.lock"
    with open(Path(tempfile.gettempdir()) / name, "w") as turn:  # tests run in several processes
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not ready.exists() or ready.stat().st_mtime < LOCK.stat().st_mtime:
            install(npm)
            ready.touch()
    return node


def install(npm: str) -> None:
    """``npm ci``; skips where the packages cannot be had."""
    try:
        done = subprocess.run(
            [
                npm,
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--fetch-retries=0",
                "--fetch-timeout=20000",
            ],
            cwd=EXAMPLE,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took more than {INSTALL_S} s")
    if done.returncode:
        assert "code EUSAGE" not in done.stderr, done.stderr  # the lock is not package.json's
        pytest.skip("; ".join(["npm ci", *done.stderr.splitlines()[:3]]))


@pytest.fixture(scope="module")
def zoo() -> Iterator[ServerProcess]:
    with running(Path(ZOO)) as server:
        yield server


def start(node: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A program, with a proxy in its environment that leads nowhere."""
    mine = {name: value for name, value in os.environ.items() if name != "no_proxy"}
    mine |= {"grpc_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    mine |= variables
    pipe = subprocess.PIPE
    return subprocess.Popen([node, *arguments], env=mine, stdout=pipe, stderr=pipe, text=True)


def told(program: subprocess.Popen[str]) -> str:
    """What it prints, once it has ended well."""
    try:
        printed, errors = program.communicate(timeout=45)
    except subprocess.TimeoutExpired:
        program.kill()
        printed, errors = program.communicate()
    assert program.returncode == 0, f"{printed} {errors}"
    return printed


def play(
    node: str, name: str, address: str, *more: object, **variables: str
) -> subprocess.Popen[str]:
    """Starts a play of ``tests/node/plays.mjs``."""
    plays = ROOT / "tests" / "node" / "plays.mjs"
    return start(node, str(plays), name, address, *map(str, more), **variables)


def result(program: subprocess.Popen[str]) -> Any:
    """What a play comes to."""
    return json.loads(told(program))


@pytest.fixture(scope="module")
def alone(zoo: ServerProcess) -> list[list[int]]:
    """The two likeliest tokens after each letter of the text, as our own client is told them."""
    with cellar.connect(zoo.address) as client, client.session("stdlib-text") as session:
        tokens = session.steps(TEXT, top_k=2).top_tokens
    assert tokens is not None
    return [[int(token) for token in row] for row in tokens]


def test_the_tour(node: str, zoo: ServerProcess) -> None:
    lines = told(start(node, str(EXAMPLE / "main.js"), zoo.address)).splitlines()
    assert lines[0] == "stdlib-text 1, synthetic-prices 1"
    assert lines[1].startswith("after 5 steps: [ 't',")  # impor-t
    assert lines[2].startswith("impor")
    assert lines[-7].startswith("SESSION_CLOSED")
    assert lines[-1] == "100 sessions at position 6"
    held = [line for line in zoo.page().splitlines() if line.startswith("cellar_sessions{")]
    assert [line.split()[-1] for line in held] == ["0.0"] * len(held) != []


@pytest.mark.parametrize("window", [64, 1])
def test_a_stream_is_told_what_sessions_are_told_alone(
    node: str, zoo: ServerProcess, alone: list[list[int]], window: int
) -> None:
    found = result(play(node, "stream", zoo.address, TEXT, 4, 5, window))
    assert found == {
        "told": [{"position": len(TEXT), "tokens": alone}] * 20,
        "replayed": 0,
    }


def test_a_stream_goes_on_where_connections_break(
    node: str, zoo: ServerProcess, alone: list[list[int]]
) -> None:
    with proxied(zoo.port) as proxy:
        program = play(node, "stream", proxy.address, TEXT, 8, 20, 64)
        stop = threading.Event()
        breaker = threading.Thread(target=break_often, args=(proxy, stop))
        breaker.start()
        try:
            found = result(program)
        finally:
            stop.set()
            breaker.join()
        assert proxy.broken >= 3
    assert found["told"] == [{"position": len(TEXT), "tokens": alone}] * 160
    assert found["replayed"]  # some had been applied, and their answer was lost


def break_often(proxy: Any, stop: threading.Event) -> None:
    """Breaks connections when some steps have passed, with answers on their way swallowed."""
    for _ in range(4):
        if stop.is_set() or not proxy.wait_for(proxy.passed + 10_000, 20):
            return
        proxy.down = False  # what is sent from here on is applied, and nobody is told
        if stop.wait(0.15):
            return
        proxy.cut()


@pytest.mark.long
def test_a_stream_goes_on_on_the_next_server(
    node: str, alone: list[list[int]], tmp_path: Path
) -> None:
    store, text = f"--store=lmdb:{tmp_path / 'store'}", TEXT * 10
    with running(Path(ZOO), store) as first:
        program = play(node, "stream", first.address, text, 8, 5, 64)
        first.wait_for_metric('cellar_steps_total{model="stdlib-text/1"}', 1000)
        first.kill()
    with running(Path(ZOO), store, f"--port={first.port}"):
        found = result(program)
    assert [each["position"] for each in found["told"]] == [len(text)] * 40
    assert all(each["tokens"][: len(TEXT)] == alone for each in found["told"])
    assert all(each["tokens"] == found["told"][0]["tokens"] for each in found["told"])


def test_refusals_say_all_that_they_carry(node: str) -> None:
    with running(Path(ZOO), "--max-sessions=1", "--host-memory=0") as server:
        found = result(play(node, "refusals", server.address))
    assert found["badInput"]["code"] == 3
    assert found["badInput"]["reason"] == "BAD_INPUT"
    assert found["badInput"]["facts"] == {"field": "inputs.text", "row": "1"}
    (violation,) = found["badInput"]["violations"]
    assert violation["field"] == "inputs.text[1]"
    assert "4e00" in violation["description"].lower() or "\u4e00" in violation["description"]
    before, now = found["branches"]
    assert int(before) != int(now)
    assert max(int(before), int(now)) > 2**53
    assert (found["stale"]["code"], found["stale"]["reason"]) == (9, "STALE_BRANCH")
    assert found["stale"]["facts"] == {"position": "0", "branch": now}
    assert (found["full"]["code"], found["full"]["reason"]) == (8, "SESSION_LIMIT")
    assert found["full"]["retryAfterS"] == 1
    assert (found["stranger"]["code"], found["stranger"]["reason"]) == (5, "SESSION_UNKNOWN")


def test_who_finds_no_server_is_told_so(node: str) -> None:
    began = time.monotonic()
    found = result(play(node, "absent", "127.0.0.1:1"))
    assert found["ours"]
    assert found["code"] == 14
    assert found["given"]["code"] == 14
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("token", ["one.SECRET", "one.WRONG", ""])
def test_tls_and_tokens(node: str, token: str, tmp_path: Path) -> None:
    authority, local, alice = (tmp_path / name for name in ("authority", "local", "alice"))
    ca = Authority(tmp_path, authority.name)
    server = FakeServer(credentials=server_credentials(ca.pair(local.name, "localhost"), ca))
    ca.pair(alice.name, "alice@cellar.example")
    server.tokens = {"one.SECRET"}
    shown = {
        "PLAY_CA": f"{authority}.pem",
        "PLAY_CERT": f"{alice}.pem",
        "PLAY_KEY": f"{alice}.key",
        "CELLAR_TOKEN": token,
    }
    try:
        found = result(play(node, "access", f"localhost:{server.port}", **shown))
    finally:
        server.end()
    told = "none" if token == "one.SECRET" else "UNAUTHENTICATED"
    assert found == dict.fromkeys(("ListModels", "OpenSession", "Generate", "Stream"), told)


def test_a_token_leaves_the_machine_under_tls_alone(node: str) -> None:
    program = play(node, "access", "192.0.2.1:1", CELLAR_TOKEN="one.SECRET")
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 1
    assert "token: others can read it on the way" in errors
    assert "SECRET" not in errors


def test_a_generation_that_was_left_is_settled(node: str, zoo: ServerProcess) -> None:
    found = result(play(node, "generation", zoo.address))
    assert found["settled"] >= found["told"] > 20
    assert int(found["after"]) == found["settled"] + 1


def test_a_stream_opens_sessions_that_end_with_it(node: str, zoo: ServerProcess) -> None:
    assert result(play(node, "ephemeral", zoo.address)) == {"ephemeral": True, "idleS": 60}


def test_the_shape_of_a_column_is_told_with_it(node: str, zoo: ServerProcess) -> None:
    found = result(play(node, "shapes", zoo.address))
    top = found["top"]["predictions"]
    assert (top["count"], len(top["topTokens"]), top["levels"]) == (5, 15, [])
    quantiles = found["quantiles"]["predictions"]
    assert quantiles["count"] == 1
    assert quantiles["levels"] == pytest.approx([0.1, 0.5, 0.9])
    assert len(quantiles["quantiles"]) == 3
    forecast = found["forecast"]
    assert len(forecast["quantiles"]) == len(forecast["mean"]) * len(forecast["levels"]) == 12
    predicted = found["predicted"]["predictions"]
    assert (predicted["count"], len(predicted["topTokens"])) == (2, 6)
    outputs = found["started"]["outputs"]  # of a stream that chose nothing
    assert outputs["quantiles"] == pytest.approx([0.1, 0.5, 0.9])
    assert not any(outputs[name] for name in ("argmax", "raw", "topK", "everyStep"))


def test_the_page_shows_what_the_example_does() -> None:
    sources = [path.read_text("utf-8") for path in EXAMPLE.glob("*.js")]
    blocks = Page("docs/calling.md").blocks("js")
    assert len(blocks) == 2
    for block in blocks:
        shown = [block, textwrap.indent(block, "  ")]
        assert any(each in source for each in shown for source in sources), block


def test_the_lock_names_no_machine() -> None:
    packages = json.loads(LOCK.read_text("utf-8"))["packages"]
    resolved = [package.get("resolved", "") for package in packages.values()]
    assert all(not url or url.startswith("https://registry.npmjs.org/") for url in resolved)
    assert all("integrity" in package for name, package in packages.items() if name)
