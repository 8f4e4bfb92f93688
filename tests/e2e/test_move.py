"""``cellar move`` between real processes, which are killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.e2e.process import ServerProcess, running
from tests.e2e.test_copies import READ, raw

STEPS = ("frozen", "accepted", "released", "opened", "closed")


class CutOffError(Exception):
    """Whoever moves it is gone."""


class Pair:
    """Two servers with stores, either of which may be killed and started again."""

    def __init__(self, repository: Path, folder: Path, stack: ExitStack) -> None:
        self._repository, self._folder, self._stack = repository, folder, stack
        self.servers: dict[str, ServerProcess] = {}
        self.clients: dict[str, cellar.Client] = {}
        for side in ("source", "target"):
            self.start(side)

    def start(self, side: str) -> None:
        store = f"--store=lmdb:{self._folder / side}"
        self.servers[side] = self._stack.enter_context(running(self._repository, store))
        client = cellar.connect(self.servers[side].address)
        self.clients[side] = self._stack.enter_context(client)

    def kill(self, side: str) -> None:
        self.servers[side].kill()
        self.start(side)

    def move(self, name: str, told: Callable[[str], None] = lambda _: None) -> Any:
        source, target = self.clients["source"], self.clients["target"]
        return source.move_session(name, target, name="there", told=told)


@pytest.fixture
def pair(repository: Path, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(repository, tmp_path, stack)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_whoever_is_cut_off_or_killed_behind_any_step(pair: Pair) -> None:
    expected = {}
    for model, (first, more) in READ.items():
        with pair.clients["source"].session(model) as fed:
            raw(fed, first)
            expected[model] = raw(fed, more)
    for number, step in enumerate(STEPS):
        model = list(READ)[number % 2]
        first, more = READ[model]
        session = pair.clients["source"].session(model, id=step)
        raw(session, first)

        def cut_off(now: str, step: str = step) -> None:
            if now == step:
                raise CutOffError

        with pytest.raises(CutOffError):
            pair.move(step, cut_off)
        for side in ("source", "target"):
            if number % 2 == (side == "source") or step == "released":
                pair.kill(side)
        assert pair.move(step).position == len(first)
        assert pair.move(step).position == len(first)  # it is done
        with pytest.raises(cellar.CellarError):
            pair.clients["source"].attach(step).step(first[:1])
        there = pair.clients["target"].attach(step)
        assert np.array_equal(raw(there, more), expected[model])


def test_the_command_moves_and_calls_off(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = (pair.servers[side].address for side in ("source", "target"))
    raw(pair.clients["source"].session("letters", id="s"), "abc")
    line = ["move", "s", "--to", target, "--server", source]

    def cut_off(_: str) -> None:
        raise CutOffError

    with suppress(CutOffError):
        pair.clients["source"].move_session("s", pair.clients["target"], told=cut_off)
    with pytest.raises(cellar.SessionMovingError):
        pair.clients["source"].attach("s").step("d")
    assert main(["move", "s", "--cancel", "--server", source]) == 0
    assert "steps here again" in capsys.readouterr().out
    pair.clients["source"].attach("s").step("d")
    with pair.clients["target"].session("letters", id="s"):  # it is in the way
        assert main(line) == 1
        told = capsys.readouterr()
        assert "frozen" in told.out
        assert f"go on with: cellar move s --to {target}" in told.err
        assert "call it off with: cellar move s --cancel" in told.err
    assert main(line) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"s is on {target}, at position 4"
    assert main([*line, "--json"]) == 0  # there is nothing left to do
    assert pair.clients["target"].attach("s").position == 4
    assert main(["move", "s", "--server", source]) == 2
