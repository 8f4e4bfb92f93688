"""gRPC's own server falls when the path of a call is no text: nobody else may notice for long."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from cellar.v1 import model_pb2, model_pb2_grpc, session_pb2_grpc
from cellar.v1 import session_pb2 as pb
from tests import http2
from tests.e2e.process import ServerProcess, running

FALLS = 3
SOON_S = 10.0
# A call that begins as its server goes away may wait for ever with gRPC's own retries.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


def answers(address: str) -> bool:
    """Whether the server takes a new connection, and a call on it."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        models = model_pb2_grpc.ModelServiceStub(channel)
        try:
            models.ListModels(model_pb2.ListModelsRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return True


def wait_for_answers(address: str) -> None:
    until = time.monotonic() + SOON_S
    while not answers(address):
        assert time.monotonic() < until, "no server has taken over"
        time.sleep(0.01)


def call_a_bad_path(port: int) -> None:
    until = time.monotonic() + SOON_S
    while True:
        try:
            with closing(http2.connect(port)) as stranger:
                http2.call(stranger, b"/a\xff/b")
                http2.heard(stranger)
                return
        except OSError:  # the one before has not been replaced yet
            assert time.monotonic() < until, "no server has taken over"
            time.sleep(0.01)


def sent(messages: "SimpleQueue[pb.StreamRequest | None]") -> Iterator[pb.StreamRequest]:
    while (message := messages.get()) is not None:
        yield message


@pytest.fixture
def served(repository: Path) -> Iterator[ServerProcess]:
    with running(repository) as server:
        yield server


def test_a_path_that_is_no_text_ends_nothing(served: ServerProcess) -> None:
    messages: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
    with grpc.insecure_channel(served.address, options=OPTIONS) as channel:
        replies = session_pb2_grpc.SessionServiceStub(channel).Stream(sent(messages), timeout=60)
        messages.put(pb.StreamRequest(start=pb.StreamStart(model="letters")))
        next(replies)
        for _ in range(FALLS):
            call_a_bad_path(served.port)
            wait_for_answers(served.address)
        attach = pb.StreamAttach(session_ids=["a"], channels=[0], open=True)
        messages.put(pb.StreamRequest(attach=attach))
        assert list(next(replies).attached.channels) == [0], "what ran goes on"
        messages.put(None)
        assert list(replies) == []
        served.wait_for("the server fell, and another takes over", 0)
