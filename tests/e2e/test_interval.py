"""A server that answers before the disk, and is killed: its clients never notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cellar
from cellar.sessions import branch
from cellar.streams import returning
from tests.e2e.process import ServerProcess

PATIENT = cellar.RetryPolicy(attempts=60, first_delay_s=0.1, longest_delay_s=0.3)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each crash has taken of a session, as its client finds out."""
    found: list[int] = []
    take, owe = branch.OnBranch._take_branch, returning._Owed.__init__

    def takes(self: branch.OnBranch, error: cellar.StaleBranchError) -> None:
        take(self, error)
        found.append(self.position - (self.position if self._played is None else self._played))

    def owes(self: returning._Owed, tenancy: int, pieces: object) -> None:
        owe(self, tenancy, pieces)  # type: ignore[arg-type]
        found.append(sum(len(data) for _, data in self.pieces))

    monkeypatch.setattr(branch.OnBranch, "_take_branch", takes)
    monkeypatch.setattr(returning._Owed, "__init__", owes)
    return found


class Mortal:
    """A server on one store and one port, and what kills it."""

    def __init__(self, few_models: Path, folder: Path) -> None:
        self._models, self._flags = few_models, (f"--store=lmdb:{folder}", "--durability=interval")
        self.server = ServerProcess(few_models, *self._flags)

    def kill(self) -> None:
        """SIGKILL, and start it anew."""
        self.server.kill()
        self.server.close()
        port = f"--port={self.server.port}"
        self.server = ServerProcess(self._models, *self._flags, port)


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_killed_servers_cost_nothing(
    few_models: Path, tmp_path: Path, lost: list[int], kills: int
) -> None:
    mortal = Mortal(few_models, tmp_path / "store")
    try:
        with cellar.connect(mortal.server.address, retry=PATIENT, timeout_s=60) as client:
            session, stream = client.session("letters"), client.stream("letters", raw=True)
            channels = stream.open(8)
            text, frames = "", []

            def read_on(count: int) -> None:
                nonlocal text
                for step in range(count):
                    piece = "hello world"[step % 11 :]
                    text += piece
                    session.step(piece)
                    text += "w" + session.generate("w", max_steps=3).text()
                    frames.append("helowrd "[step % 8 :] + "helowrd "[: step % 8])
                    stream.step(channels, frames[-1])

            for _ in range(kills):
                read_on(25)
                mortal.kill()
                assert stream.positions(channels).tolist() == [len(frames)] * 8
            read_on(1)
            assert session.position == len(text)
            last = session.step("h", raw=True).raw
            expected = client.session("letters").step(text + "h", raw=True).raw
            assert last is not None
            assert expected is not None
            assert np.array_equal(last, expected)
            reply = stream.step(channels, "h" * 8)
            rows = ["".join(frame[row] for frame in frames) + "h" for row in range(8)]
            with client.stream("letters", raw=True) as other:
                alone = other.step(other.open(8), rows)
            assert reply.predictions.raw is not None
            assert alone.predictions.raw is not None
            assert np.array_equal(reply.predictions.raw, alone.predictions.raw)
            assert len(lost) >= kills * 9, "every session was on another branch each time"
            assert sum(lost) > 0, "and crashes had taken something"
    finally:
        mortal.server.close()
