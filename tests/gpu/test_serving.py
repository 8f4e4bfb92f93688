"""The whole server on a GPU. `make test-gpu` runs this and the device's tests in tests/service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

import cellar
from tests.e2e.process import ServerProcess, running
from tests.e2e.test_crown import SESSIONS, Player, alone, sequences
from tests.recurrent import Case, char_case, series_case, torch_predictions, write_repository
from tests.service.engine.execution.cuda.places import GPU, require

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {"letters": char_case("lstm", layers=2), "prices": series_case("gru")}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, cases: dict[str, Case]) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"), *cases.values())


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServerProcess]:
    require(GPU)
    flags = (f"--device={GPU}", "--deterministic", "--max-batch=64", "--chunk-steps=16")
    with running(repository, *flags) as found:
        yield found


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[cellar.aio.Client]:
    async with cellar.aio.connect(server.address) as found:
        yield found


def test_it_says_that_it_runs_on_the_gpu(server: ServerProcess) -> None:
    for event in ("device", "model loaded", "serving"):
        assert server.wait_for(event, 1)["device"] == str(GPU)
    assert server.wait_for("device", 1)["provider"] == GPU.provider
    label = f'cellar_device_info{{device="{GPU}",provider="{GPU.provider}"}}'
    assert server.metric(label) == 1


def test_auto_takes_the_gpu(repository: Path) -> None:
    require(GPU)
    with running(repository, "--device=auto") as server:
        assert server.wait_for("serving", 1)["device"] == str(GPU)


@pytest.mark.parametrize("name", ["letters", "prices"])
async def test_interleaved_sessions_equal_each_alone_bit_for_bit(
    name: str, server: ServerProcess, client: cellar.aio.Client, cases: dict[str, Case]
) -> None:
    inputs = sequences(name)
    player = Player(client, name, inputs)
    await player.play()
    with cellar.connect(server.address) as lonely:
        for n in range(SESSIONS):
            found = np.concatenate(player.answers[n])
            assert np.array_equal(found, alone(lonely, name, inputs[n])), f"session {n}"
            expected, _ = torch_predictions(cases[name], inputs[n])
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_generations_and_forecasts(server: ServerProcess) -> None:
    """The same seed gives the same answer again."""
    with cellar.connect(server.address) as client:
        texts, paths = [], []
        for _ in range(2):
            with client.session("letters") as session:
                pieces = session.generate("hello ", max_steps=64, seed=7)
                texts.append("".join(piece.text for piece in pieces))
            with client.session("prices") as session:
                session.steps(np.array([100.0, 101.0, 102.0], np.float32))
                found = session.forecast(8, paths=64, seed=3, include_paths=True)
                paths.append(np.asarray(found.paths))
        assert texts[0] == texts[1]
        assert len(texts[0]) == 64
        assert np.array_equal(paths[0], paths[1])
        assert np.isfinite(paths[0]).all()
