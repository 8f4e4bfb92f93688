"""A real server on a real port, with small untrained models."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellar.v1 import model_pb2_grpc, session_pb2_grpc
from service.server import Server
from service.settings import Settings
from tests.recurrent import char_case, series_case, write_repository


@dataclass
class Wire:
    """The server, and stubs that speak to it."""

    server: Server
    channel: grpc.aio.Channel
    sessions: Any  # protoc writes no types for stubs
    models: Any


@pytest.fixture(scope="session")
def several_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters in two versions, and prices."""
    return write_repository(
        tmp_path_factory.mktemp("models"), char_case(), char_case(seed=1), series_case()
    )


@pytest.fixture(scope="session")
def one_model(several_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest letters alone: a model takes a server 40 ms, and a test has its own server."""
    root = tmp_path_factory.mktemp("one")
    shutil.copytree(several_models / "letters" / "2", root / "letters" / "2")
    return root


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> Path:
    """What the server of a test serves: one model, unless it uses ``several_models``."""
    wanted = "several_models" if "several_models" in request.fixturenames else "one_model"
    found: Path = request.getfixturevalue(wanted)
    return found


@pytest.fixture
async def wire(repository: Path) -> AsyncIterator[Wire]:
    async with serving(repository) as wire:
        yield wire


@asynccontextmanager
async def serving(repository: Path, **others: Any) -> AsyncIterator[Wire]:
    """A server with small limits, where no others are wanted."""
    limits: dict[str, Any] = {
        "max_sessions": 64,
        "host_memory": 0,
        "spare_slots": 512,
        "max_paths": 256,
        "default_paths": 64,
        "max_request_steps": 1000,
        "max_frame_steps": 2000,
        "max_message_bytes": 65_536,
        "drain_timeout_s": 5,
        "max_queue_s": 60,  # a busy machine runs steps slowly, and refuses none for it here
    }
    settings = Settings(models=repository, port=0, metrics_port=0, **{**limits, **others})
    server = Server(settings)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Wire(
                server=server,
                channel=channel,
                sessions=session_pb2_grpc.SessionServiceStub(channel),
                models=model_pb2_grpc.ModelServiceStub(channel),
            )
    finally:  # or it listens to gRPC's log for good, and fails tests that have no part in it
        await server.stop()
