"""Sessions' states in the hand, with real clients and processes: exported, imported, forked."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cellar
from cellar.cli import main
from tests.e2e.process import ServerProcess, running

TEXT, MORE = "the quick brown fox", " jumps"
READ: dict[str, tuple[Any, Any]] = {
    "letters": (TEXT, MORE),
    "prices": ([100.0, 101.5, 99.25, 102.0], [103.0, 101.0]),
}


def raw(session: cellar.Session, inputs: Any) -> NDArray[np.float32]:
    """The raw predictions after each step."""
    found = session.steps(inputs, raw=True).raw
    assert found is not None
    return found


def test_sessions_go_on_in_another_process_and_over_its_end(
    repository: Path, tmp_path: Path, client: cellar.Client
) -> None:
    """Killed right after the answers: what was told is there, and comes to the same bits."""
    store = f"--store=lmdb:{tmp_path / 'store'}"
    snapshots, expected = {}, {}
    for model, (first, more) in READ.items():
        with client.session(model) as source, client.session(model) as fed:
            raw(source, first)
            raw(fed, first)
            snapshots[model] = source.export()
            expected[model] = raw(fed, more)
    branches: dict[str, int] = {}
    with running(repository, store) as server, cellar.connect(server.address) as there:
        for model, (first, _) in READ.items():
            session = there.import_session(snapshots[model], id=model, idle_timeout_s=100)
            fork = session.fork(id=f"{model}-forked")
            assert fork.position == session.position == len(first)
            branches |= {own.id: own.branch for own in (session, fork)}
        server.kill()
    assert len(set(branches.values())) == 4
    with running(repository, store) as server, cellar.connect(server.address) as there:
        infos = {info.id: info for info in there.list_sessions()}
        assert {name: info.branch for name, info in infos.items()} == branches
        assert {info.idle_timeout_s for info in infos.values()} == {100}
        for model, (first, more) in READ.items():
            for name in (model, f"{model}-forked"):
                assert infos[name].position == len(first)
                assert np.array_equal(raw(there.attach(name), more), expected[model])


async def test_the_asynchronous_client(server: ServerProcess) -> None:
    async with (
        cellar.aio.connect(server.address) as client,
        client.session("letters", ephemeral=True) as session,
    ):
        await session.step(TEXT)
        async with (
            session.fork(position=len(TEXT)) as fork,
            client.import_session(await session.export(), id="copy") as copy,
        ):
            predictions = [await own.step(MORE, raw=True) for own in (session, fork, copy)]
            assert fork.model == copy.model == session.model
        rows = [own.raw for own in predictions if own.raw is not None]
        assert [np.array_equal(row, rows[0]) for row in rows] == [True] * 3
        with pytest.raises(cellar.SnapshotInvalidError):
            await client.import_session(b"none")
        with pytest.raises(cellar.StateMismatchError):
            await session.fork(model="prices")
        with pytest.raises(cellar.HistoryMissingError):
            await session.fork(position=1)
        with pytest.raises(cellar.BadInputError, match="snapshot: bytes"):
            await client.import_session("text")  # type: ignore[arg-type]


def test_a_generation_that_is_left_is_not_in_the_fork(client: cellar.Client) -> None:
    with client.session("letters") as session:
        generation = session.generate(TEXT, max_steps=5000)
        next(generation)
        told = session.position
        with session.fork() as fork:
            assert fork.position >= told
            assert fork.position == session.position
        generation.close()


@pytest.fixture
def at_server(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLAR_SERVER", server.address)


@pytest.mark.usefixtures("at_server")
def test_the_commands(
    client: cellar.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "today.snapshot"
    with client.session("letters", id="today") as session:
        session.step(TEXT)
        assert main(["export", "today", "--out", str(file)]) == 0
        assert f"today is in {file}" in capsys.readouterr().out
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [own.name for own in tmp_path.iterdir()] == [file.name]
        assert main(["import", str(file)]) == 1
        assert "is open already" in capsys.readouterr().err
        assert main(["import", str(file), "--session", "again", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert (again["id"], again["position"], again["model"]) == ("again", len(TEXT), "letters")
        assert main(["fork", "today", "--as", "tomorrow"]) == 0
        assert capsys.readouterr().out.startswith(f"tomorrow is at position {len(TEXT)}")
        assert main(["fork", "today", "--model", "prices/1"]) == 1
        assert "shapes" in capsys.readouterr().err
        file.write_bytes(file.read_bytes()[:-1])
        assert main(["import", str(file), "--session", "other"]) == 1
        assert "cut off" in capsys.readouterr().err
        assert main(["import", str(tmp_path / "none")]) == 2
        capsys.readouterr()
        for name in ("again", "tomorrow"):
            assert client.close_session(name) == len(TEXT)
