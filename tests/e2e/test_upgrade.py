"""Upgrades whose server is killed: there is the session as it was, or that of the other version."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import cellar
from tests.e2e.process import running
from tests.recurrent import SYMBOLS, char_case, write_repository

STEPS = 6000
AFTER_S = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # when it is killed; some while it reads


@pytest.mark.parametrize(
    "after_s", [None, *[pytest.param(each, marks=pytest.mark.long) for each in AFTER_S]]
)
def test_one_of_both_outlives_the_process(tmp_path: Path, after_s: float | None) -> None:
    repository = write_repository(
        tmp_path / "models",
        char_case(hidden=64),
        char_case(seed=1, hidden=64, symbols=SYMBOLS[::-1]),
    )
    dice = np.random.default_rng(3)
    text = "".join(SYMBOLS[number] for number in dice.integers(0, len(SYMBOLS), STEPS))
    flags = (f"--store=lmdb:{tmp_path / 'store'}", "--checkpoint-steps=500")
    branch: list[int] = []
    with running(repository, *flags) as server, cellar.connect(server.address) as client:
        session = client.session("letters", id="kept", version=1, history_steps="all")
        session.feed(text)

        def upgrade() -> None:
            with suppress(cellar.CellarError):
                branch.append(session.upgrade(timeout_s=5).branch)

        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        if after_s is None:
            upgrading.join()
            assert branch
        else:
            time.sleep(after_s)
        server.kill()
        upgrading.join()
    with running(repository, *flags) as server, cellar.connect(server.address) as client:
        (found,) = client.list_sessions()
        assert (found.id, found.position, found.history_position) == ("kept", STEPS, 0)
        assert found.version == 2 or not branch
        kept = client.attach("kept")
        if branch:
            assert kept.branch == branch[0]
        elif found.version == 1:
            assert kept.upgrade().version == 2
        for position in (STEPS, 4500):
            kept.rewind(position=position)
            with client.session("letters", version=2) as fed:
                fed.feed(text[:position])
                bits = [np.asarray(each.step("ab", raw=True).raw) for each in (kept, fed)]
            assert bits[0].size
            assert np.array_equal(bits[0], bits[1])
            kept.rewind(position=position)
