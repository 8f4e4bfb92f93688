"""A disk that fails under a real server: it says so, ends, and nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cellar
from tests.e2e.process import running

# A server some calls of whose store fail for good, once there is a certain file.
FAILING = """
import os, sys
from service import server
from service.store.embedded import LmdbStore
from service.store.store import StoreFailedError

sign, name = sys.argv[1:3]
call = getattr(LmdbStore, name)

def failing(store, *given):
    if os.path.exists(sign):
        raise StoreFailedError("the disk failed")
    return call(store, *given)

setattr(LmdbStore, name, failing)
server.main(sys.argv[3:])
"""


def go_on(session: cellar.Session) -> Iterator[int]:
    """A step after the other, for ever; how many were answered."""
    while True:
        session.step("d")
        yield 1


@pytest.mark.parametrize(
    "call",
    [
        "append",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("write", "drop", "erase")),
    ],
)
def test_a_disk_that_fails_ends_the_server(call: str, few_models: Path, tmp_path: Path) -> None:
    sign, store = tmp_path / "failed", f"--store=lmdb:{tmp_path / 'store'}"
    flags = (store, "--checkpoint-steps=1", "--erase-s=0.5")
    with running(few_models, *flags, program=("-c", FAILING, str(sign), call)) as server:
        with (
            cellar.connect(server.address, timeout_s=1) as client,
            grpc.insecure_channel(server.address) as own,
        ):
            watch = health_pb2_grpc.HealthStub(own).Watch(health_pb2.HealthCheckRequest())
            session = client.session("letters", id="a")
            other = client.session("letters")
            for letter in "abc":
                session.step(letter)
                other.step(letter)
            sign.touch()
            with suppress(cellar.CellarError):
                other.close()  # there is something to erase
            answered: list[int] = []
            with pytest.raises(cellar.CellarError) as told:
                answered.extend(go_on(session))
            assert not isinstance(told.value, cellar.StateLostError)
            statuses = [each.status for each in watch]
        assert server.wait() == 1
        answer = health_pb2.HealthCheckResponse
        assert statuses == [answer.SERVING, answer.NOT_SERVING]
        assert server.wait_for("store lost", 1)["reason"] == "the disk failed"
        (line,) = server.errors().splitlines()
        assert line.startswith("cellar-serve: the store has failed")
    with running(few_models, store) as server, cellar.connect(server.address) as client:
        assert client.attach("a").position >= 3 + len(answered)
