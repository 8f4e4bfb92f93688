"""Histories of a server that is killed: sessions can be rewound as before, to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cellar
from tests.e2e.process import running

STEPS = 1500


@pytest.mark.parametrize("end", ["killed", pytest.param("stopped", marks=pytest.mark.long)])
def test_it_outlives_the_process(repository: Path, tmp_path: Path, end: str) -> None:
    dice = np.random.default_rng(3)
    prices = (100 + dice.normal(size=2 * STEPS).cumsum()).astype(np.float32)
    flags = (f"--store=lmdb:{tmp_path / 'store'}", "--checkpoint-steps=200")
    with running(repository, *flags) as server, cellar.connect(server.address) as client:
        session = client.session("prices", id="kept", history_steps="all")
        session.feed(prices[:STEPS], chunk_steps=100)
        session.rewind(position=1234)
        session.feed(prices[STEPS : STEPS + 500], chunk_steps=100)
        branch = session.branch
        if end == "killed":
            server.kill()
        else:
            server.terminate()
            server.wait()
    read = np.concatenate([prices[:1234], prices[STEPS : STEPS + 500]])
    with running(repository, *flags) as server, cellar.connect(server.address) as client:
        session = client.attach("kept")
        info = session.refresh()
        assert (info.position, info.history_position, info.branch) == (1734, 0, branch)
        for position in (1700, 1234, 999, 0):
            session.rewind(position=position)
            with client.session("prices") as fed:
                if position:
                    fed.feed(read[:position], chunk_steps=100)
                same = session.step([101.5], raw=True), fed.step([101.5], raw=True)
                bits = [np.asarray(prediction.raw) for prediction in same]
                assert bits[0].size
                assert np.array_equal(bits[0], bits[1])
            session.rewind(position=position)
