"""Graphs of somebody else's on the wire: what is found out of them, and what a bad step does."""

from pathlib import Path

import numpy as np
import pytest

import cellar
from models.errors import ModelError
from service.server import Server
from service.settings import Settings
from tests.foreign import (
    chunked_case,
    embedding_case,
    foreign_case,
    lookup_case,
    mixing_case,
    named,
    random_case,
    ruined_case,
)
from tests.recurrent import write_repository
from tests.service.rpc.conftest import serving

CASES = {
    "fine": foreign_case(),
    "lookup": lookup_case(),
    "mixing": mixing_case(),
    "one-row": foreign_case(batch=1),
    "cuts": chunked_case("cuts"),
    "ruined": ruined_case(),
}


async def test_each_model_is_served_as_it_can_be(tmp_path: Path) -> None:
    write_repository(tmp_path, *(named(case, name) for name, case in CASES.items()))
    async with (
        serving(tmp_path) as wire,
        cellar.aio.connect(f"127.0.0.1:{wire.server.port}", timeout_s=20) as client,
    ):
        found = {
            model.name: (model.rows_run_alone, model.steps_run_alone, model.largest_value)
            for model in await client.models()
        }
        assert found == {
            "fine": (False, False, None),
            "lookup": (False, False, None),
            "mixing": (True, False, None),
            "one-row": (True, False, None),
            "cuts": (False, True, None),
            "ruined": (False, False, 1e36),
        }
        await check_neighbours(client)
        await check_refusals(client)


async def check_neighbours(client: cellar.aio.Client) -> None:
    """Sessions of one frame have the numbers of each alone."""
    rows = np.array([[1, 2], [-9, -9], [3, 1]], np.float32)
    for name in ("mixing", "one-row", "cuts"):
        alone = []
        for row in rows:
            async with await client.session(name) as session:
                once = await session.step([row.tolist()], raw=True)
                twice = await session.step([row.tolist(), row.tolist()], raw=True)
                alone.append((once.raw, twice.raw))
        async with client.stream(name, raw=True) as stream:
            channels = await stream.open(3)
            first = await stream.step(channels, rows)
            await stream.step(channels, rows)
            last = await stream.step(channels, rows)
        np.testing.assert_array_equal(first.predictions.raw, [once for once, _ in alone])
        np.testing.assert_array_equal(last.predictions.raw, [twice for _, twice in alone])


async def check_refusals(client: cellar.aio.Client) -> None:
    """A row that the model cannot read is refused by itself."""
    async with client.stream("lookup", raw=True) as stream:
        channels = await stream.open(3)
        rows = np.ones((3, 2), np.float32)
        await stream.step(channels, rows)
        rows[1] = 100
        reply = await stream.step(channels, rows, strict=False)
        (failure,) = reply.failures
        assert failure.channel == channels[1]
        assert isinstance(failure.error, cellar.BadInputError)
        assert "inputs: the model cannot read them: Gather 'table'" in str(failure.error)
        assert reply.positions.tolist() == [2, 2]
        after = await stream.step(channels, np.ones((3, 2), np.float32))
        assert after.positions.tolist() == [3, 2, 3]
    with pytest.raises(cellar.BadInputError, match="inputs, row 1: the model cannot read them"):
        await client.predict("lookup", [[[1, 1]], [[1, 1], [9, 1]]])
    async with await client.session("ruined") as session:
        with pytest.raises(cellar.BadInputError, match=r"b is 3e\+38: beyond 1e\+36"):
            await session.step([[1, 3e38]])
        assert (await session.step([[1, 1]])).position == 1


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (random_case(), "sums/1/model.onnx: its numbers hang on chance"),
        (
            embedding_case(rows=4, vocabulary=7),
            "the manifest's vocabulary has 7 symbols, but the embedding 'embedding' has 4 rows",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_at_load(
    tmp_path: Path, case: object, why: str
) -> None:
    write_repository(tmp_path, case)  # type: ignore[arg-type]
    server = Server(Settings(models=tmp_path, port=0, metrics_port=None))
    with pytest.raises(ModelError) as caught:
        await server.start()
    await server.stop()
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
