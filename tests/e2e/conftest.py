"""Real servers with small models, and real clients."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import cellar
from models.repository import ModelRepository
from tests.e2e.load import ROOM
from tests.e2e.process import ServerProcess, running
from tests.recurrent import Case, char_case, series_case, write_repository
from training.export.exporter import export
from training.families.char.network import CharNetwork

LIMITS = ("--max-frame-steps=2000", "--max-message-bytes=65536", "--max-paths=200")


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    """Untrained networks, by name. ``slow`` takes milliseconds a step."""
    return {
        "letters": char_case("lstm", layers=2),
        "prices": series_case("gru"),
        "slow": char_case("lstm", hidden=640, name="slow"),
    }


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, cases: dict[str, Case]) -> Path:
    """All models of these tests, with ``hello``, which has learned a word."""
    root = write_repository(tmp_path_factory.mktemp("models"), *cases.values())
    proto, manifest = export(train_hello(), name="hello")
    ModelRepository(root).publish(proto, manifest)
    return root


@pytest.fixture(scope="session")
def few_models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``letters`` and ``prices``, for servers of one test: a start of all takes twice as long."""
    root = tmp_path_factory.mktemp("few")
    for name in ("letters", "prices"):
        shutil.copytree(repository / name, root / name)
    return root


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[ServerProcess]:
    """A server for all tests that leave it alive."""
    with running(repository, *LIMITS) as server:
        yield server
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.errors()


@pytest.fixture(scope="module")
def served_models(few_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and one that a server cannot serve."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(few_models, root, dirs_exist_ok=True)
    (root / "cut" / "1").mkdir(parents=True)
    (root / "cut" / "1" / "model.onnx").write_bytes(b"\x08")
    return root


@pytest.fixture(scope="module")
def served(
    served_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server of them with a store; of one module alone."""
    store = tmp_path_factory.mktemp("served") / "store"
    flags = (f"--store=lmdb:{store}", *ROOM)
    with running(served_models, *flags) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[cellar.Client]:
    with cellar.connect(server.address, timeout_s=20) as client:
        yield client


@pytest.fixture
async def aclient(server: ServerProcess) -> AsyncIterator[cellar.aio.Client]:
    async with cellar.aio.connect(server.address, timeout_s=20) as client:
        yield client


def train_hello() -> CharNetwork:
    """A network that has read "hello" over and over."""
    torch.manual_seed(0)
    network = CharNetwork(vocabulary=tuple("helo"), hidden=16, embedding=8)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    text = torch.tensor([["helo".index(symbol) for symbol in "hello" * 6]])
    for _ in range(80):
        logits, _ = network(text[:, :-1], network.initial_state(1))
        loss = cross_entropy(logits[0], text[0, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
