"""The README runs from top to bottom as it is written, in a fresh folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.settings import Settings
from service.settings.sources import flag
from tests.documents import ROOT, Page

README = Page("README.md")
# A block, and what is said of it in a line before it that no reader sees.
BLOCK = re.compile(
    r"^(?:<!-- (?P<remark>[^\n]+) -->\n)?```(?P<language>sh|python)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = "not run by the tests: "
WITH_NPM = "run by the tests where npm has its packages"
NO_PACKAGES = re.compile(r"npm (error|ERR!) code (?!EUSAGE)|npm: command not found")
START_S, STOP_S, BLOCK_S = 30, 30, 60


@dataclass(frozen=True, slots=True)
class Block:
    """What a reader would copy."""

    language: str
    body: str
    remark: str


def blocks(text: str = README.text) -> list[Block]:
    """All of the page, or of a part of it, in order."""
    found = BLOCK.finditer(text)
    return [Block(m["language"], m["body"], m["remark"] or "") for m in found]


class Reader:
    """Somebody who does what the page says, with one terminal for the server and one beside it."""

    def __init__(self, folder: Path, port: int, metrics_port: int) -> None:
        self.folder = folder
        self.said: list[str] = []
        self._port, self._metrics_port = port, metrics_port
        self._server: subprocess.Popen[bytes] | None = None
        self._env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CELLAR_", "GRPC_", "PYTHON")) and not name.endswith("_proxy")
        }
        # The ports are the machine's, and other tests have servers as well. npm is to give up at
        # once where there is no network.
        self._env |= {
            "npm_config_fetch_retries": "0",
            "npm_config_fetch_timeout": "20000",
            "CELLAR_PORT": str(port),
            "CELLAR_METRICS_PORT": str(metrics_port),
            "CELLAR_SERVER": f"localhost:{port}",
        }

    def follow(self, block: Block) -> None:
        """Does what a block says."""
        body = block.body.replace("localhost:8001", f"localhost:{self._port}")
        body = body.replace("localhost:9090", f"localhost:{self._metrics_port}")
        if block.language == "python":
            self._run(["python", "-c", body])
            return
        lines, serve = body.rstrip("\n").split("\n"), ""
        if lines[-1].startswith("cellar-serve"):
            serve = lines.pop()
        activates = ". .venv/bin/activate" in lines
        self._run(["bash", "-e", "-o", "pipefail", "-c", "\n".join(lines)])
        if activates:
            self._env["PATH"] = f"{self.folder / '.venv' / 'bin'}:{self._env['PATH']}"
        if serve:
            self.stop()
            self._serve(serve)

    def stop(self) -> None:
        """Ctrl-C in the server's terminal."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGINT)
            assert server.wait(STOP_S) in (0, 130)

    def kill(self) -> None:
        """Nobody waits any more."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_S,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}"
        self.said.append(done.stdout)

    def _serve(self, line: str) -> None:
        command = ["bash", "-c", f"exec {line.partition('#')[0]}"]
        with open(self.folder / "server.log", "wb") as log:
            self._server = subprocess.Popen(
                command, cwd=self.folder, env=self._env, stdout=log, stderr=log
            )
        give_up = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            log_so_far = (self.folder / "server.log").read_text()
            assert self._server.poll() is None, log_so_far
            assert time.monotonic() < give_up, log_so_far
            time.sleep(0.05)


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader with a checkout as it is cloned, for whom ``make setup`` has been here already."""
    for name in ("Makefile", "pyproject.toml", "models/zoo", "proto", "examples/node"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules"))
        else:
            shutil.copy(source, target)
    (folder / "constraints.txt").touch()
    (folder / ".venv").mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        if (Path(sys.prefix) / part).exists():
            (folder / ".venv" / part).symlink_to(Path(sys.prefix) / part)
    (folder / ".venv" / ".ready").touch()
    one = Reader(folder, *free_ports())
    try:
        yield one
    finally:
        one.kill()


def free_ports() -> tuple[int, int]:
    """Two that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def follow(folder: Path, text: str) -> str:
    """Does what a part of the page says; returns what was printed."""
    with reader(folder / "cellar") as someone:
        for block in blocks(text):
            if block.remark.startswith(NOT_RUN):
                continue
            try:
                someone.follow(block)
            except AssertionError as failed:
                if block.remark != WITH_NPM or not NO_PACKAGES.search(str(failed)):
                    raise
        someone.stop()
        return "\n".join(someone.said)


@pytest.mark.timeout(150)
def test_it_runs_as_far_as_the_first_calls(tmp_path: Path) -> None:
    to_here, _, _ = README.text.partition("\n## Train")
    said = follow(tmp_path, to_here)
    assert "stdlib-text" in said
    assert "symbol='t'" in said  # impor-t
    assert "[[" in said  # quantiles


@pytest.mark.long
@pytest.mark.timeout(300)
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    said = follow(tmp_path, README.text)
    assert "model-repository/prices/1/model.onnx" in said
    assert 'cellar_sessions{model="prices/1"' in said
    assert 'cellar_sessions{model="stdlib-text/1"' in said  # both are served


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    found = blocks()
    assert len(found) == len(README.blocks("sh", "python"))
    remarks = [block.remark for block in found if block.remark]
    assert {remark for remark in remarks if not remark.startswith(NOT_RUN)} <= {WITH_NPM}
    left_out = [block for block in found if block.remark.startswith(NOT_RUN)]
    assert len(left_out) == 1
    assert len(found) >= 8


def test_the_figures_in_its_table_are_the_settings() -> None:
    rows = re.findall(r"^\|([^|]+)\|([^|]+)\|(.*`--[^|]+)\|$", README.text, re.MULTILINE)
    flags = {flag(name): field.default for name, field in Settings.model_fields.items()}
    seen = 0
    for _, figures, settings in rows:
        numbers = [float(each.replace(",", "")) for each in re.findall(r"\d[\d,.]*", figures)]
        for name in re.findall(r"`(--[a-z-]+)", settings):
            default = flags[name]
            if default is None:
                continue
            ways = [default, default / 3600, default / 86400, default / 2**20]
            assert any(way in numbers for way in ways), f"{name} is {default}: {figures}"
            seen += 1
    assert seen >= 10
