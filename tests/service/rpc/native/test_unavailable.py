"""Beside a bad model the others are served, and nobody is given one that was not meant."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from cellar.v1 import model_pb2, values_pb2
from cellar.v1 import session_pb2 as pb
from models.errors import ModelError
from service import loading
from service.server import Server
from service.settings import Settings
from service.trials import Trials
from tests.recurrent import char_case, series_case, write_repository
from tests.service.foreign import publish_foreign
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import refused

NOT_NOW = grpc.StatusCode.FAILED_PRECONDITION
# Of files that nobody has exported: which of them crash whoever loads them.
CRASHING = """
import json, os, signal, sys
print("ready", flush=True)
for line in sys.stdin:
    if "crashing" in json.loads(line)["path"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    print("passed", flush=True)
"""


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are tried by a process that needs nothing but Python."""

    def trials(*, limit_s: float, most_memory: int, most_bytes: int) -> Trials:
        return Trials(
            limit_s=limit_s,
            most_memory=most_memory,
            most_bytes=most_bytes,
            command=(sys.executable, "-c", CRASHING),
        )

    monkeypatch.setattr(loading, "Trials", trials)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of which one name is sound, and the others are not, each in its own way."""
    root = write_repository(
        tmp_path_factory.mktemp("bad"), char_case(), char_case(seed=1), series_case()
    )
    for name in ("crashing", "own"):
        publish_foreign(root, name)
    whole = (root / "letters" / "1" / "model.onnx").read_bytes()
    # The next version is still being copied.
    (root / "letters" / "3").mkdir()
    (root / "cut" / "1").mkdir(parents=True)
    (root / "cut" / "1" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    (root / "misnamed" / "v1").mkdir(parents=True)
    shutil.copy(root / "letters" / "1" / "model.onnx", root / "misnamed" / "v1")
    manifest = publish_foreign(root, "unfit").parent / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"s_next"', '"no such output"'))
    return root


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


async def listed(wire: Wire) -> dict[tuple[str, int], model_pb2.Model]:
    models = (await wire.models.ListModels(model_pb2.ListModelsRequest())).models
    return {(model.name, model.version): model for model in models}


async def open_session(wire: Wire, model: str, version: int = 0) -> Any:
    return await wire.sessions.OpenSession(
        pb.OpenSessionRequest(model=model, model_version=version)
    )


@pytest.mark.usefixtures("tried")
async def test_the_sound_ones_are_served_and_the_others_say_why(bad: Path, logs: list[Any]) -> None:
    async with serving(bad) as wire:
        models = await listed(wire)
        reasons = {key: model.unavailable_reason for key, model in models.items()}
        assert [key for key, reason in reasons.items() if not reason] == [
            ("letters", 1),
            ("letters", 2),
            ("own", 1),
            ("prices", 1),
        ]
        assert list(models) == sorted(models)
        for key, words in {
            ("crashing", 1): "crashing/1/model.onnx: the runtime crashed (SIGSEGV) while loading",
            ("cut", 1): "cut/1/model.onnx: not a readable ONNX model",
            ("letters", 3): "letters/3: there is no model.onnx",
            ("misnamed", 0): "misnamed/v1: a version is a whole number",
            ("unfit", 1): "unfit/1/model.onnx: ",
        }.items():
            assert reasons[key].startswith(words), reasons[key]
            model, version = key
            info = await refused(open_session(wire, model), NOT_NOW, "MODEL_UNAVAILABLE")
            assert dict(info.metadata) == (
                {"model": model, "version": str(version)} if version else {"model": model}
            )
        assert str(bad) not in str(reasons), "callers need not know where files are"
        for model, version in (("letters", 1), ("letters", 2), ("prices", 0), ("own", 0)):
            opened = await open_session(wire, model, version)
            await wire.sessions.Step(
                pb.StepRequest(
                    session_id=opened.session.id,
                    inputs=values_pb2.Inputs(text="a")
                    if model == "letters"
                    else values_pb2.Inputs(values=values_pb2.Values(data=[100.0])),
                )
            )
        page = wire.server.metrics.registry
        for label, served in (("letters/2", 1), ("letters/3", 0), ("misnamed", 0)):
            assert page.get_sample_value("cellar_model_available", {"model": label}) == served
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert sorted(entry["model"] for entry in errors if entry["event"] == "model unavailable") == [
        "crashing/1", "cut/1", "letters/3", "misnamed", "unfit/1",
    ]  # fmt: skip
    assert str(bad) in str(errors), "whoever runs the server must find them"
    (start,) = [entry for entry in logs if entry["event"] == "serving"]
    assert start["unavailable"] == ["crashing/1", "cut/1", "letters/3", "misnamed/?", "unfit/1"]


@pytest.mark.usefixtures("tried")
async def test_an_older_version_stands_in_for_nothing(bad: Path, logs: list[Any]) -> None:
    async with serving(bad) as wire:
        models = await listed(wire)
        assert [models["letters", number].default_version for number in (1, 2, 3)] == [
            False, False, True,
        ]  # fmt: skip
        stream = wire.sessions.Stream()
        await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
        predict = model_pb2.PredictRequest(model="letters", inputs=values_pb2.Inputs(text="a"))
        describe = model_pb2.GetModelRequest(name="letters")
        for call in (
            open_session(wire, "letters"),
            wire.models.GetModel(describe),
            wire.models.Predict(predict),
            stream.read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is NOT_NOW
            assert "letters/3" in str(caught.value.details())
            assert "name an older version to be served by that: 1, 2" in str(caught.value.details())
        assert (await open_session(wire, "letters", 2)).session.model_version == 2
        unknown = await refused(
            open_session(wire, "letters", 9), grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN"
        )
        assert unknown.reason
    (entry,) = [entry for entry in logs if entry["event"] == "default version unavailable"]
    assert (entry["model"], entry["served"], entry["log_level"]) == ("letters/3", [1, 2], "error")


async def test_a_name_left_out_means_the_only_one_in_the_folder(tmp_path: Path) -> None:
    """Not the only one that happens to be sound."""
    write_repository(tmp_path, char_case())
    async with serving(tmp_path) as wire:
        assert (await open_session(wire, "")).session.model == "letters"
    (tmp_path / "other" / "1").mkdir(parents=True)
    async with serving(tmp_path) as wire:
        await refused(open_session(wire, ""), grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")


def settings(root: Path, **more: Any) -> Settings:
    return Settings(
        models=root, port=0, metrics_port=None, max_sessions=8, spare_slots=8, max_paths=8,
        default_paths=8, **more,
    )  # fmt: skip


async def refusal(root: Path, **more: Any) -> str:
    server = Server(settings(root, **more))
    with pytest.raises(ModelError) as caught:
        await server.start()
    assert not server.engine.registry.shards() or "strict" in more
    return str(caught.value)


@pytest.mark.usefixtures("tried")
async def test_strict_refuses_to_start_beside_one(bad: Path) -> None:
    assert "crashing/1/model.onnx: the runtime crashed" in await refusal(bad, strict=True)


async def test_nothing_to_serve_is_no_start(tmp_path: Path) -> None:
    assert "no model in" in await refusal(tmp_path)
    (tmp_path / "one" / "1").mkdir(parents=True)
    assert await refusal(tmp_path) == f"{tmp_path / 'one' / '1'}: there is no model.onnx"
    (tmp_path / "two" / "1").mkdir(parents=True)
    found = await refusal(tmp_path)
    assert "none of the 2 models" in found
    assert "one/1: there is no model.onnx" in found


async def test_a_model_too_large_for_the_machine_leaves_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that shows late: what was begun of it is taken back."""
    write_repository(tmp_path, char_case(), series_case())
    warm_up = loading._warm_up

    def too_large(model: Any, served: Any) -> None:
        if model.name == "letters":
            raise MemoryError("Unable to allocate 3 PiB")
        warm_up(model, served)

    monkeypatch.setattr(loading, "_warm_up", too_large)
    server = Server(settings(tmp_path))
    await server.start()
    try:
        assert [served.name for served in server.engine.registry.all()] == ["prices"]
        (left_out,) = server.engine.registry.unavailable()
        assert left_out.reason == (
            "letters/1: there is not enough memory for 8 sessions of it: lower --max-sessions "
            "(Unable to allocate 3 PiB)"
        )
        samples = server.metrics.registry.get_sample_value
        assert samples("cellar_session_capacity", {"model": "letters/1"}) is None
        assert samples("cellar_model_available", {"model": "letters/1"}) == 0
    finally:
        await server.stop()


def wait_for(path: Path) -> None:
    """Until there is such a file."""
    give_up = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)


async def test_a_start_that_is_given_up_ends_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that hangs does not hold up the end of a server that still loads."""
    begun = tmp_path / "begun"
    hanging = f"print('ready', flush=True); input(); open({str(begun)!r}, 'w'); input()"

    def trials(*, limit_s: float, most_memory: int, most_bytes: int) -> Trials:
        return Trials(
            limit_s=limit_s,
            most_memory=most_memory,
            most_bytes=most_bytes,
            command=(sys.executable, "-c", hanging),
        )

    monkeypatch.setattr(loading, "Trials", trials)
    publish_foreign(tmp_path / "models", "own")
    server = Server(settings(tmp_path / "models"))
    starting = asyncio.create_task(server.start())
    await asyncio.to_thread(wait_for, begun)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 20)
