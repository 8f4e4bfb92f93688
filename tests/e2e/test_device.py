"""Where a server runs, and that it says so; and what it does when that fails for good.

The machine's GPUs, if it has any, are hidden.
"""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cellar
from service import server as server_module
from service.engine.execution.devices import Choice
from service.engine.execution.runtime import CPU
from service.server import Server
from service.settings import Settings
from tests.e2e.process import launch, running


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_gpu_that_is_not_there_is_refused(few_models: Path) -> None:
    """At once, in one line, with nothing else started."""
    process = launch(f"--models={few_models}", "--port=0", "--metrics-port=0", "--device=cuda:0")
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 1
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["settings"]
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1, errors
    for words in ("--device cuda:0", "--device cpu", "driver", "onnxruntime-gpu", "CUDA 13"):
        assert words in lines[0]


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_it_says_where_it_runs(asked: str, few_models: Path) -> None:
    with running(few_models, f"--device={asked}") as server:
        assert server.wait_for("serving", 1)["device"] == "cpu"
        assert server.wait_for("model loaded", 1)["device"] == "cpu"
        chosen = server.wait_for("device", 1)
        assert chosen["device"] == "cpu"
        assert chosen["provider"] == "CPUExecutionProvider"
        assert ("no_gpu" in chosen) == (asked == "auto")
        label = 'cellar_device_info{device="cpu",provider="CPUExecutionProvider"}'
        assert server.metric(label) == 1
        assert server.errors() == ""


@pytest.mark.parametrize("sign", [None, "/dev/nvidia0"])
async def test_a_gpu_that_is_not_used_is_a_warning(
    sign: str | None, few_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "libcublasLt.so.13: cannot open shared object file"
    found = Choice(places=(CPU,), reason=reason, sign=sign)
    monkeypatch.setattr(server_module, "choose", lambda asked: found)
    server = Server(Settings(models=few_models, port=0, metrics_port=None))
    with structlog.testing.capture_logs() as entries:
        await server._choose_device()
    await server.stop()
    entry = next(entry for entry in entries if entry["event"] == "device")
    assert entry["log_level"] == ("info" if sign is None else "warning")
    assert entry["no_gpu"] == reason
    assert entry.get("gpu_seen") == sign


# A server whose device fails for good, or whose runs alone do, once there is a certain file.
FAILING = """
import os, sys
from service import server
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.runtime import Place, is_lost

sign, kind = sys.argv[1:3]
step = CpuRunner.step

def failing(runner, **given):
    if os.path.exists(sign):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    return step(runner, **given)

CpuRunner.step = failing
if kind == "cuda":
    CpuRunner.is_lost = lambda runner, fault: is_lost(Place("cuda"), fault, lambda: failing(runner))
server.main(sys.argv[3:])
"""


def test_a_device_that_fails_for_good_ends_the_server(few_models: Path, tmp_path: Path) -> None:
    """With its callers answered, its health told, and a status that has it started anew."""
    sign = tmp_path / "failed"
    with running(few_models, program=("-c", FAILING, str(sign), "cuda")) as server:
        with cellar.connect(server.address) as client, grpc.insecure_channel(server.address) as own:
            watch = health_pb2_grpc.HealthStub(own).Watch(health_pb2.HealthCheckRequest())
            session = client.session("letters")
            session.step("a")
            sign.touch()
            with pytest.raises(cellar.StateLostError):
                session.step("b")
            statuses = [each.status for each in watch]
        assert server.wait() == 1
        answer = health_pb2.HealthCheckResponse
        assert statuses == [answer.SERVING, answer.NOT_SERVING]
        assert "illegal memory access" in server.wait_for("device lost", 1)["reason"]
        (line,) = server.errors().splitlines()
        assert line.startswith("cellar-serve: a device has failed")


def test_runs_that_fail_on_the_cpu_end_nothing(few_models: Path, tmp_path: Path) -> None:
    sign = tmp_path / "failed"
    with (
        running(few_models, program=("-c", FAILING, str(sign), "cpu")) as server,
        cellar.connect(server.address) as client,
    ):
        session = client.session("letters")
        session.step("a")
        sign.touch()
        for _ in range(2):
            with pytest.raises(cellar.StateLostError):
                session.step("b")
        sign.unlink()
        session.reset()
        session.step("a")
        server.terminate()
        assert server.wait() == 0
