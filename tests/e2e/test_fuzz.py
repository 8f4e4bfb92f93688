"""A bounded run of ``make fuzz``: a server that is attacked, and those beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz.attack import SERVE_FLAGS, Attack
from benchmarks.fuzz.messages.subjects import publish
from benchmarks.processes import CellarServer

MESSAGES = 2500


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CellarServer]:
    server = CellarServer(publish(tmp_path / "models"), *SERVE_FLAGS)
    yield server
    server.close()


async def test_nobody_feels_hostile_messages(server: CellarServer) -> None:
    attack = Attack(server, 20, lambda text: None)
    await attack.run(MESSAGES, MESSAGES)
    tally = attack.tally
    new = {key: tally.found[key] for key in tally.failures}
    assert not new, "\n".join(f"{where}: {what}: {new[what, where]}" for what, where in new)
    assert tally.messages >= MESSAGES
    assert tally.witnessed
    assert server.terminate(30) == 0
