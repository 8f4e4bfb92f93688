"""A server whose models have two shards each answers like one whose models have one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cellar
from tests.e2e.conftest import LIMITS
from tests.e2e.process import ServerProcess, running
from tests.e2e.test_crown import Player, alone, sequences
from tests.recurrent import Case, torch_predictions


@pytest.fixture(scope="module")
def sharded(few_models: Path) -> Iterator[ServerProcess]:
    with running(
        few_models, *LIMITS, "--shards=2", "--max-sessions=101", "--max-open-sessions=101"
    ) as server:
        yield server
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.errors()


@pytest.mark.parametrize("name", ["letters", "prices"])
async def test_interleaved_sessions_equal_each_session_alone(
    name: str, sharded: ServerProcess, client: cellar.Client, cases: dict[str, Case]
) -> None:
    """Together on two shards here, alone on the one shard of the other server."""
    inputs = sequences(name)
    async with cellar.aio.connect(sharded.address, timeout_s=20) as there:
        player = Player(there, name, inputs)
        await player.play()
    for n, given in list(enumerate(inputs))[::4]:
        together = np.concatenate(player.answers[n])
        assert together.tobytes() == alone(client, name, given).tobytes(), f"session {n}"
        reference, _ = torch_predictions(cases[name], given)
        np.testing.assert_allclose(together, reference, rtol=1e-5, atol=1e-5)


def test_metrics_add_up_over_shards(sharded: ServerProcess) -> None:
    def metric(name: str, labels: str = "") -> float:
        return sharded.metric(f'{name}{{model="letters/1"{labels}}}')

    before = metric("cellar_steps_total")
    batches = metric("cellar_batch_size_sum")
    with cellar.connect(sharded.address, timeout_s=20) as client:
        assert metric("cellar_session_capacity") == 101
        with client.stream("letters", argmax=True) as stream:
            channels = stream.attach([client.session("letters").id for _ in range(50)])
            for _ in range(3):
                stream.send(channels, np.full(50, 1))
            for reply in stream.replies():
                reply.check()
            assert metric("cellar_sessions", ',tier="device"') == 50
        assert metric("cellar_steps_total") - before == 150
        assert metric("cellar_batch_size_sum") - batches == 150
        assert metric("cellar_pending_steps") == 0
