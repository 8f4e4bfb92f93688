"""What the server refuses to start with, in which words; and what it does without."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import cellar
from cellar import cli
from tests.e2e.process import AS_COMMAND, AS_MODULE, launch, running
from tests.service.foreign import publish_foreign

CASES = {
    # name: (exit status, words on stderr)
    "corrupted": (1, ["letters/1/model.onnx"]),
    "truncated": (1, ["letters/1/model.onnx"]),
    "not recurrent": (1, ["plain/1/model.onnx"]),
    "empty": (1, ["no model in", "cellar-train"]),
    "missing": (1, ["no model in"]),
    "taken port": (1, ["cannot listen on 127.0.0.1:", "in use"]),
    "taken metrics port": (1, ["metrics: ", "in use", "--metrics-port"]),
    "unknown flag": (2, ["--colour"]),
    "bad value": (2, ["--max-batch"]),
    "bad word": (2, ["--log-level"]),
}


@dataclass(frozen=True)
class Ended:
    """How a server ended."""

    status: int
    errors: str


@pytest.fixture(scope="module")
def ended(few_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All of them, started at once."""
    tmp = tmp_path_factory.mktemp("bad")
    whole = (few_models / "letters" / "1" / "model.onnx").read_bytes()
    for kind, data in {
        "corrupted": whole[:1000] + bytes(1000) + whole[2000:],
        "truncated": whole[: len(whole) // 2],
    }.items():
        file = tmp / kind / "letters" / "1" / "model.onnx"
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    file = tmp / "plain" / "plain" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(plain_model(), file)
    (tmp / "empty").mkdir()
    good = tmp / "good"
    shutil.copytree(few_models / "letters", good / "letters")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = ["--port=0", "--metrics-port=0"]
        flags = {
            "corrupted": [f"--models={tmp / 'corrupted'}", *free],
            "truncated": [f"--models={tmp / 'truncated'}", *free],
            "not recurrent": [f"--models={tmp / 'plain'}", *free],
            "empty": [f"--models={tmp / 'empty'}", *free],
            "missing": [f"--models={tmp / 'nowhere'}", *free],
            "taken port": [f"--models={good}", f"--port={port}", "--metrics-port=0"],
            "taken metrics port": [f"--models={good}", "--port=0", f"--metrics-port={port}"],
            "unknown flag": [f"--models={good}", *free, "--colour=red"],
            "bad value": [f"--models={good}", *free, "--max-batch=0"],
            "bad word": [f"--models={good}", *free, "--log-level=loud"],
        }
        processes = {name: launch(*each) for name, each in flags.items()}
        try:
            found = {}
            for name, process in processes.items():
                _, errors = process.communicate(timeout=50)
                found[name] = Ended(process.returncode, errors)
            yield found
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()


@pytest.mark.parametrize("name", CASES)
def test_it_says_why_it_does_not_start(name: str, ended: dict[str, Ended]) -> None:
    status, words = CASES[name]
    errors = ended[name].errors
    assert ended[name].status == status, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors
    if status == 1:
        (line,) = errors.splitlines()
        assert line.startswith("cellar-serve: ")


def test_a_bad_model_takes_nothing_else_down(
    few_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is cut off, and one that is not there yet, beside a sound one of each kind."""
    shutil.copytree(few_models / "letters", tmp_path / "letters")
    cut = publish_foreign(tmp_path, "cut")
    cut.write_bytes(cut.read_bytes()[:100])
    publish_foreign(tmp_path, "sums")
    (tmp_path / "letters" / "2").mkdir()
    with running(tmp_path) as server:
        assert server.wait_for("serving", 1)["models"] == ["letters/1", "sums/1"]
        assert server.wait_for("model unavailable", 1)["model"] == "cut/1"
        assert server.wait_for("default version unavailable", 1)["served"] == [1]
        assert cli.main(["models", "--server", server.address]) == 0
        shown = capsys.readouterr().out
        assert "cut 1 is unavailable: cut/1/model.onnx: not a readable ONNX model" in shown
        with cellar.connect(server.address) as client:
            assert [model.available for model in client.models()] == [False, True, False, True]
            for name in ("cut", "letters"):
                with pytest.raises(cellar.ModelUnavailableError):
                    client.session(name)
            with client.session("sums") as session:
                session.step([3.0])
                raw = session.step([1.0]).raw
                assert raw is not None
                assert raw.tolist() == [2.5, 2.5]
            with client.session("letters", version=1) as session:
                session.step("a")
        server.terminate()
        assert server.wait() == 0
        assert server.errors() == ""


MOMENTS = {
    # name: (as what, signal, seconds after the first line of ours; None: once there is a process)
    "at the very first": (AS_MODULE, signal.SIGTERM, None),
    "at the first line": (AS_MODULE, signal.SIGINT, 0.0),
    "at the first line of the command": (AS_COMMAND, signal.SIGINT, 0.0),
    "among imports": (AS_COMMAND, signal.SIGTERM, 0.1),
    "among more imports": (AS_MODULE, signal.SIGINT, 0.3),
    "among models": (AS_MODULE, signal.SIGTERM, 0.7),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it looks into /proc")
def test_a_signal_at_any_moment_of_the_start_ends_it_well(few_models: Path) -> None:
    def ended_at(moment: str) -> Ended:
        how, number, delay_s = MOMENTS[moment]
        flags = (f"--models={few_models}", "--port=0", "--metrics-port=off")
        process = launch(*flags, program=how)
        try:
            if delay_s is not None:
                while process.poll() is None and not catches(process.pid, signal.SIGTERM):
                    time.sleep(0.001)
                time.sleep(delay_s)
            process.send_signal(number)
            _, errors = process.communicate(timeout=50)
            return Ended(process.returncode, errors)
        finally:
            process.kill()
            process.communicate()

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(MOMENTS, pool.map(ended_at, MOMENTS), strict=True))
    first = found.pop("at the very first")
    assert (first.status, first.errors) in ((0, ""), (-signal.SIGTERM, ""))  # no line of ours ran
    assert found == dict.fromkeys(found, Ended(0, ""))


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def plain_model() -> onnx.ModelProto:
    """A good model without any state."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
