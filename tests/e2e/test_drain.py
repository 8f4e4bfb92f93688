"""SIGTERM: what runs is finished, what is new is refused, and the process ends well."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cellar
from tests import http2
from tests.e2e.process import running
from tests.recurrent import SYMBOLS, Case, torch_predictions

ONCE = cellar.RetryPolicy(attempts=1)
LONG = "the quick brown fox jumps " * 60


def test_sigterm_finishes_what_runs(repository: Path, cases: dict[str, Case]) -> None:
    expected, _ = torch_predictions(
        cases["slow"], np.array([SYMBOLS.index(symbol) for symbol in LONG])
    )
    with (
        running(repository, "--drain-timeout-s=60") as server,
        cellar.connect(server.address) as client,
        cellar.connect(server.address, retry=ONCE) as other,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor() as pool,
    ):
        undisturbed = client.session("letters").generate("a", max_steps=2000, seed=5).text()
        idle = other.session("letters")
        idle.step("a")
        stream = client.stream("slow", raw=True)
        channels = stream.open(2)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        generating = Event()

        def generate() -> str:
            text = ""
            for piece in client.session("letters").generate("a", max_steps=2000, seed=5):
                text += piece.text
                generating.set()
            return text

        long_step = pool.submit(client.session("slow").step, LONG, raw=True)
        stream.send(channels, [LONG, LONG[:26]])
        generation = pool.submit(generate)
        assert generating.wait(10)
        server.wait_for_metric('cellar_pending_steps{model="slow/1"}', len(LONG))
        server.terminate()

        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for _ in range(3):
            with pytest.raises(cellar.DrainingError) as told:
                idle.step("b")
            assert told.value.retry_after_s == 1.0
        with (
            cellar.connect(server.address, retry=ONCE) as late,
            pytest.raises(cellar.DrainingError),
        ):
            late.session("letters")

        prediction = long_step.result(20)
        assert prediction.position == len(LONG)
        assert prediction.raw is not None
        np.testing.assert_allclose(prediction.raw, expected[-1], rtol=1e-5, atol=1e-5)
        reply = stream.receive(timeout_s=20).check()
        assert reply.predictions.raw is not None
        np.testing.assert_array_equal(reply.predictions.raw[0], prediction.raw)
        np.testing.assert_allclose(reply.predictions.raw[1], expected[25], rtol=1e-5, atol=1e-5)
        assert generation.result(20) == undisturbed
        assert list(watch) == [], "a watcher does not hold up the end"
        assert server.wait(20) == 0
        assert server.wait_for("stopped", 1)
        assert "Traceback" not in server.errors()


def test_nobody_who_is_silent_holds_up_the_end(repository: Path) -> None:
    with (
        running(repository, "--drain-timeout-s=50") as server,
        socket.create_connection(("127.0.0.1", server.port)),
        http2.connect(server.port),  # and answers no ping
        http2.connect(server.port, window=0) as watcher,
        http2.connect(server.port) as liar,
        cellar.connect(server.address) as client,
    ):
        http2.call(watcher, b"/grpc.health.v1.Health/Watch")
        http2.go_away(liar, b'\n{"event": "forged"}\n')
        for peer in (watcher, liar):
            http2.heard(peer)
        client.session("letters").step("a")
        server.terminate()
        began = time.monotonic()
        assert server.wait(40) == 0
        assert time.monotonic() - began < 20, "it takes half a second where there is time"
        assert server.errors() == ""
        with pytest.raises(AssertionError, match="no 'forged'"):
            server.wait_for("forged", 1)


def test_a_second_signal_ends_at_once_and_sighup_never(repository: Path) -> None:
    with running(repository, "--drain-delay-s=50") as server:
        server.signal(signal.SIGHUP)
        server.wait_for("SIGHUP is ignored: to read settings, start anew", 10)
        server.terminate()
        server.wait_for("draining", 10)
        server.signal(signal.SIGHUP)
        with (
            cellar.connect(server.address, retry=ONCE) as client,
            pytest.raises(cellar.DrainingError),
        ):
            client.session("letters")
        server.signal(signal.SIGINT)
        assert server.wait(20) == -signal.SIGINT
        assert "Traceback" not in server.errors()
