"""The future of what a model reads beside the value, over a real connection."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from cellar.v1 import model_pb2
from cellar.v1 import session_pb2 as pb
from tests.recurrent import series_case, write_repository
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import open_session, refused, values


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cases = series_case(features=True, name="volumes"), series_case()
    return write_repository(tmp_path_factory.mktemp("models"), *cases)


@pytest.fixture
async def wire(repository: Path) -> AsyncIterator[Wire]:
    async with serving(repository) as wire:
        yield wire


def request(*future: float, session: str = "v", horizon: int = 3) -> pb.ForecastRequest:
    return pb.ForecastRequest(
        session_id=session, horizon=horizon, seed=5, include_paths=True, future=future
    )


async def test_a_future_changes_the_steps_behind_it(wire: Wire) -> None:
    model = (await wire.models.GetModel(model_pb2.GetModelRequest(name="volumes"))).model
    assert list(model.features) == ["Close", "Volume", "hour"]
    await open_session(wire, "volumes", "v")
    await wire.sessions.Step(pb.StepRequest(session_id="v", inputs=values(100, 1, 5, 101, 2, 6)))
    first = await wire.sessions.Forecast(request(0.5, 7, -0.5, 8))
    again = await wire.sessions.Forecast(request(0.5, 7, -0.5, 8, 9, 9))
    assert first == again, "the row of the last step is not read"
    other = await wire.sessions.Forecast(request(0.5, 7, 2.5, 8))
    paths = (np.array(reply.paths).reshape(64, 3) for reply in (first, other))
    assert (np.not_equal(*paths).any(axis=0) == [False, False, True]).all()
    assert first.position == 2
    info = await wire.sessions.GetSession(pb.GetSessionRequest(session_id="v"))
    assert info.session.position == 2


@pytest.mark.parametrize(
    ("session", "future", "row", "words"),
    [
        ("v", (), None, "Volume, hour beside Close: a forecast of 3 steps takes 2 rows of them"),
        ("v", (1, 2, 3), None, "3 values are no whole number of rows: each row has 2 (Volume, hou"),
        ("v", (1,) * 8, None, "not 4"),
        ("v", (1, 2, float("nan"), 4), "1", "future, row 1: Volume is nan: it must be finite"),
        ("p", (1, 2), None, "the model reads nothing beside Close: leave the field out"),
    ],
)
async def test_a_future_that_does_not_fit_is_refused_by_name(
    wire: Wire, session: str, future: tuple[float, ...], row: str | None, words: str
) -> None:
    await open_session(wire, "volumes", "v")
    await open_session(wire, "prices", "p")
    await wire.sessions.Step(pb.StepRequest(session_id="v", inputs=values(100, 1, 5)))
    await wire.sessions.Step(pb.StepRequest(session_id="p", inputs=values(100)))
    call = wire.sessions.Forecast(request(*future, session=session))
    info = await refused(call, grpc.StatusCode.INVALID_ARGUMENT, "BAD_INPUT")
    assert info.metadata["field"] == "future"
    assert info.metadata.get("row") == row
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.sessions.Forecast(request(*future, session=session))
    assert words in str(caught.value.details())
    engine = wire.server.engine
    assert engine.registry.find("volumes", 1).usage.spares == 0
    assert engine.memory.used == 0
