"""Who may call what: tokens and roles, for every method there is."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cellar.v1 import model_pb2, session_pb2
from cellar.v1 import session_pb2 as pb
from models.manifest import Provenance
from service.auth.principal import Role
from service.rpc.permissions import LASTING, OPEN, ROLES
from tests import http2
from tests.service.auth.tokens import Tokens, bearer
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.test_sessions import text
from tests.service.rpc.test_calls import counts

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
FILES = (session_pb2, model_pb2, health_pb2, reflection_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
GUARDED = sorted(path for path, roles in ROLES.items() if roles is not OPEN)


def test_every_method_of_every_service_is_in_the_table() -> None:
    assert ROLES.keys() == METHODS.keys()
    assert set(LASTING) <= ROLES.keys()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


@pytest.fixture
async def guarded(repository: Path, tokens: Tokens) -> AsyncIterator[Wire]:
    async with serving(repository, tokens=tokens.path) as wire:
        yield wire


async def outcome(wire: Wire, path: str, metadata: Sequence[tuple[str, str]]) -> Any:
    """The code and the details of a call with an empty request."""
    method = METHODS[path]
    kind = f"{'stream' if method.client_streaming else 'unary'}_"
    kind += "stream" if method.server_streaming else "unary"
    call = getattr(wire.channel, kind)(path)
    kwargs = {"metadata": metadata, "timeout": 10}
    try:
        if method.client_streaming:
            stream = call(**kwargs)
            await stream.done_writing()
            while await stream.read() is not grpc.aio.EOF:
                pass
        elif method.server_streaming:
            stream = call(b"", **kwargs)
            async for _ in stream:
                stream.cancel()
        else:
            await call(b"", **kwargs)
            return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED, ""
    return await stream.code(), await stream.details()


@pytest.fixture
async def both(repository: Path, tmp_path: Path) -> AsyncIterator[Any]:
    tokens = Tokens(tmp_path / "tokens.json")
    right: dict[str, str] = {role: tokens.add(role, role) for role in Role}
    right["none"] = tokens.add("none")
    right["expired"] = tokens.add("expired", *Role, expires_in_s=-1)
    async with serving(repository, tokens=tokens.path) as wire:
        yield wire, right


async def test_nobody_gets_in_without_a_token_that_is_valid(both: Any) -> None:
    wire, known = both
    right = known[Role.ADMIN]
    name, secret = right.rsplit(".", 1)
    wrong = {
        "none": (),
        "empty": (("authorization", ""),),
        "wrong secret": bearer(f"{name}.{secret[:-1]}{'A' if secret[-1] != 'A' else 'B'}"),
        "no secret": bearer(name + "."),
        "unknown": bearer(f"nobody.{secret}"),
        "other's secret": bearer(f"{known[Role.READ].rsplit('.', 1)[0]}.{secret}"),
        "expired": bearer(known["expired"]),
        "digest": bearer(f"{name}.{'0' * 64}"),
        "basic": (("authorization", f"Basic {right}"),),
        "bare": (("authorization", right),),
        "two": bearer(right) * 2,
        "junk": bearer("x" * 8000),
        "another header": (("x-authorization", f"Bearer {right}"),),
    }
    for path in GUARDED:
        told: dict[str, list[str]] = {}
        for kind, metadata in wrong.items():
            code, details = await outcome(wire, path, metadata)
            assert code is UNAUTHENTICATED, (path, kind, code)
            told.setdefault(details, []).append(kind)
        without, formless = {"another header", "none"}, {"bare", "basic", "empty"}
        tokens = wrong.keys() - without - formless
        assert sorted(map(sorted, told.values())) == sorted(
            map(sorted, (without, formless, tokens))
        ), f"who guesses learns nothing: {told}"
    assert not wire.server.engine.directory.sessions


async def test_each_role_may_do_its_own_and_nothing_else(both: Any) -> None:
    wire, known = both
    for path in GUARDED:
        for role in Role:
            code, details = await outcome(wire, path, bearer(known[role]))
            if role is Role.ADMIN or role in ROLES[path]:
                assert code not in (UNAUTHENTICATED, DENIED), (path, role, details)
            else:
                assert code is DENIED, (path, role, code, details)
        code, details = await outcome(wire, path, bearer(known["none"]))
        assert code is DENIED
        assert "'none' has none" in details


async def test_the_scheme_is_written_as_one_likes(both: Any) -> None:
    wire, known = both
    path = "/cellar.v1.ModelService/ListModels"
    for scheme in ("bearer", "BEARER", "Bearer "):
        metadata = (("authorization", f"{scheme} {known[Role.STEP]}"),)
        assert await outcome(wire, path, metadata) == (grpc.StatusCode.OK, "")


async def test_health_is_open(both: Any) -> None:
    wire, _ = both
    for path in sorted(ROLES.keys() - set(GUARDED)):
        for metadata in ((), bearer("no.token")):
            code, _ = await outcome(wire, path, metadata)
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED), path


async def test_what_there_is_nobody_is_told_without_a_token(both: Any) -> None:
    wire, known = both
    unknown = grpc.StatusCode.UNIMPLEMENTED
    for path in ("/cellar.v1.SessionService/Nope", "/nobody/knows", "/x"):
        call = wire.channel.unary_unary(path)
        for metadata, code in (((), UNAUTHENTICATED), (bearer(known[Role.READ]), unknown)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", metadata=metadata)
            assert caught.value.code() is code
    assert counts(wire) == {("unknown", "UNAUTHENTICATED"): 3, ("unknown", "UNIMPLEMENTED"): 3}


async def test_what_is_refused_is_not_read(both: Any) -> None:
    """A body of which most never comes: the refusal does not wait for it."""
    wire, _ = both
    call = wire.channel.stream_unary("/cellar.v1.SessionService/Step")(timeout=10)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(b"\x12" * 100)  # and it never says that it is done
    assert await call.code() is UNAUTHENTICATED


@pytest.mark.parametrize("header", [b"Bearer \xff\xfe.\x80", b"Bearer \xc3\xa9.x", b"\xe2\x82"])
async def test_what_no_client_would_send_is_refused_as_well(both: Any, header: bytes) -> None:
    wire, known = both
    path = "/cellar.v1.ModelService/ListModels"
    with http2.connect(wire.server.port) as peer:
        http2.call(peer, path.encode(), authorization=header)
        for _ in range(200):
            if counts(wire):
                break
            await asyncio.sleep(0.02)
    assert counts(wire) == {("ListModels", "UNAUTHENTICATED"): 1}
    assert await outcome(wire, path, bearer(known[Role.STEP])) == (grpc.StatusCode.OK, "")


# ---- models ----


async def test_a_model_that_one_may_not_use_is_as_one_that_is_not_there(
    guarded: Wire, tokens: Tokens
) -> None:
    mine = bearer(tokens.add("mine", Role.STEP, models=["let*"]))
    await guarded.server.access.look()  # type: ignore[union-attr]
    listed = await guarded.models.ListModels(model_pb2.ListModelsRequest(), metadata=mine)
    assert {model.name for model in listed.models} == {"letters"}
    told = set()
    for model in ("prices", "absent"):
        for call in (
            guarded.models.GetModel(model_pb2.GetModelRequest(name=model), metadata=mine),
            guarded.models.Predict(model_pb2.PredictRequest(model=model), metadata=mine),
            guarded.sessions.OpenSession(pb.OpenSessionRequest(model=model), metadata=mine),
            guarded.sessions.ListSessions(pb.ListSessionsRequest(model=model), metadata=mine),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            told.add(str(caught.value.details()).replace(model, "..."))
        stream = guarded.sessions.Stream(metadata=mine)
        await stream.write(pb.StreamRequest(start=pb.StreamStart(model=model)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        told.add(str(caught.value.details()).replace(model, "..."))
    assert told == {"model: '...' is not served; there is: letters"}


async def test_sessions_of_a_model_that_one_may_not_use_any_more_stand_still(
    guarded: Wire, tokens: Tokens
) -> None:
    who = bearer(tokens.add("who", Role.STEP))
    await guarded.server.access.look()  # type: ignore[union-attr]
    sessions, named = guarded.sessions, dict[str, Any](session_id="s")
    await sessions.OpenSession(pb.OpenSessionRequest(model="letters", **named), metadata=who)
    await sessions.Step(pb.StepRequest(inputs=text("a"), **named), metadata=who)
    tokens.grant("who", Role.STEP, models=["prices"])
    await guarded.server.access.look()  # type: ignore[union-attr]
    for call in (
        sessions.Step(pb.StepRequest(inputs=text("a"), **named), metadata=who),
        sessions.Step(pb.StepRequest(inputs=text("ab"), **named), metadata=who),
        sessions.ResetSession(pb.ResetSessionRequest(**named), metadata=who),
        sessions.Forecast(pb.ForecastRequest(horizon=1, **named), metadata=who),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="may not use 'letters' any more") as caught:
            await call
        assert caught.value.code() is DENIED
    generation = sessions.Generate(pb.GenerateRequest(max_steps=1, **named), metadata=who)
    assert await generation.code() is DENIED
    listing = pb.ListSessionsRequest(model="letters")
    (listed,) = (await sessions.ListSessions(listing, metadata=who)).sessions
    assert listed.position == 1
    await sessions.CloseSession(pb.CloseSessionRequest(**named), metadata=who)


async def test_a_generation_ends_when_its_caller_may_not_use_the_model(
    guarded: Wire, tokens: Tokens
) -> None:
    who = bearer(tokens.add("who", Role.STEP))
    await guarded.server.access.look()  # type: ignore[union-attr]
    await guarded.sessions.OpenSession(
        pb.OpenSessionRequest(model="letters", session_id="s"), metadata=who
    )
    request = pb.GenerateRequest(session_id="s", prompt=text("a"), max_steps=100_000)
    generation = guarded.sessions.Generate(request, metadata=who, timeout=20)
    await generation.read()
    tokens.grant("who", Role.STEP, models=["prices"])
    await guarded.server.access.look()  # type: ignore[union-attr]
    guarded.server._calls._gate.look()  # type: ignore[union-attr]
    await messages_until_end(generation)
    assert await generation.code() is DENIED


async def test_provenance_is_for_readers(guarded: Wire, tokens: Tokens) -> None:
    step, read = tokens.add("step", Role.STEP), tokens.add("read", Role.READ)
    await guarded.server.access.look()  # type: ignore[union-attr]
    served = guarded.server.engine.registry.find("letters", 0)
    provenance = Provenance(
        command="cellar-train", created=datetime.now(UTC), data="secret.csv", data_sha256="0" * 64,
        seed=1, steps=1, seconds=1.0, config={}, versions={},
    )  # fmt: skip
    served.manifest = served.manifest.model_copy(update={"provenance": provenance})
    request = model_pb2.GetModelRequest(name="letters")
    signature = await guarded.models.GetModel(request, metadata=bearer(step))
    whole = await guarded.models.GetModel(request, metadata=bearer(read))
    assert whole.model.provenance_json
    assert not signature.model.provenance_json
    whole.model.ClearField("provenance_json")
    assert signature == whole


async def test_a_file_that_became_bad_is_shown_and_keeps_nobody_out(
    guarded: Wire, tokens: Tokens
) -> None:
    def shown() -> float | None:
        return guarded.server.metrics.registry.get_sample_value("cellar_tokens_file_ok")

    token, path = tokens.add("who", Role.STEP), "/cellar.v1.ModelService/ListModels"
    await guarded.server.access.look()  # type: ignore[union-attr]
    assert shown() == 1
    tokens.path.write_text("nonsense")
    await guarded.server.access.look()  # type: ignore[union-attr]
    assert shown() == 0
    assert await outcome(guarded, path, bearer(token)) == (grpc.StatusCode.OK, "")
    assert guarded.server.health.state.is_ready


# ---- calls that last ----


async def messages_until_end(call: Any) -> int:
    """How many come until a call ends, whichever way."""
    count = 0
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            count += 1
    return count


async def started(wire: Wire, token: str) -> Any:
    stream = wire.sessions.Stream(metadata=bearer(token), timeout=20)
    await stream.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    assert (await stream.read()).WhichOneof("message") == "started"
    await stream.write(
        pb.StreamRequest(attach=pb.StreamAttach(session_ids=["s"], channels=[1], open=True))
    )
    assert (await stream.read()).WhichOneof("message") == "attached"
    return stream


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda tokens: tokens.remove("who"), UNAUTHENTICATED),
        (lambda tokens: tokens.grant("who", Role.READ), DENIED),
        (lambda tokens: tokens.grant("who", Role.STEP, models=["prices"]), DENIED),
    ],
    ids=["revoked", "role", "model"],
)
async def test_a_stream_ends_when_its_caller_may_not_go_on(
    guarded: Wire, tokens: Tokens, change: Any, code: grpc.StatusCode
) -> None:
    other = tokens.add("other", Role.STEP)
    token = tokens.add("who", Role.STEP)
    await guarded.server.access.look()  # type: ignore[union-attr]
    stream, kept = await started(guarded, token), guarded.sessions.Stream(metadata=bearer(other))
    await kept.write(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    assert (await kept.read()).WhichOneof("message") == "started"
    frames = 5
    for number in range(frames):
        frame = pb.StreamFrame(number=number, channels=[1], inputs=text("x"))
        await stream.write(pb.StreamRequest(frame=frame))
    change(tokens)  # the server sees it by itself
    assert await messages_until_end(stream) == frames, "what was read is answered first"
    assert await stream.code() is code
    await kept.done_writing()
    assert await kept.read() is grpc.aio.EOF
    assert await kept.code() is grpc.StatusCode.OK


async def test_a_stream_ends_when_its_token_expires(guarded: Wire, tokens: Tokens) -> None:
    token = tokens.add("who", Role.STEP, expires_in_s=2.5)
    await guarded.server.access.look()  # type: ignore[union-attr]
    stream = await started(guarded, token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    assert caught.value.code() is UNAUTHENTICATED
    assert caught.value.details() == "the token is not valid"


async def test_a_generation_and_a_reflection_end_too(guarded: Wire, tokens: Tokens) -> None:
    token = tokens.add("who", Role.STEP, Role.READ)
    await guarded.server.access.look()  # type: ignore[union-attr]
    await guarded.sessions.OpenSession(
        pb.OpenSessionRequest(model="letters", session_id="g"), metadata=bearer(token)
    )
    request = pb.GenerateRequest(session_id="g", prompt=text("x"), max_steps=100_000)
    generation = guarded.sessions.Generate(request, metadata=bearer(token), timeout=20)
    assert await generation.read() is not grpc.aio.EOF
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    reflection: Any = guarded.channel.stream_stream(path)(metadata=bearer(token), timeout=20)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    await reflection.write(asked.SerializeToString())
    assert await reflection.read() is not grpc.aio.EOF
    assert guarded.server._other_calls() == 1
    tokens.remove("who")
    for call in (generation, reflection):
        await messages_until_end(call)
        assert await call.code() is UNAUTHENTICATED
    assert guarded.server._other_calls() == 0


async def test_a_generation_ends_when_its_model_is_taken_away(
    guarded: Wire, tokens: Tokens
) -> None:
    token = tokens.add("who", Role.STEP)
    await guarded.server.access.look()  # type: ignore[union-attr]
    await guarded.sessions.OpenSession(
        pb.OpenSessionRequest(model="letters", session_id="g"), metadata=bearer(token)
    )
    request = pb.GenerateRequest(session_id="g", prompt=text("x"), max_steps=100_000)
    generation = guarded.sessions.Generate(request, metadata=bearer(token), timeout=20)
    assert await generation.read() is not grpc.aio.EOF
    tokens.grant("who", Role.STEP, models=["prices"])
    await messages_until_end(generation)
    assert await generation.code() is DENIED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await guarded.sessions.Generate(request, metadata=bearer(token)).read()
    assert caught.value.code() is DENIED
    assert "'who' may not use 'letters' any more" in str(caught.value.details())


async def test_a_revoked_token_lets_nobody_in_and_a_new_one_does(
    guarded: Wire, tokens: Tokens
) -> None:
    path = "/cellar.v1.ModelService/ListModels"
    old = tokens.add("who", Role.STEP)
    assert (await outcome(guarded, path, bearer(old)))[0] is UNAUTHENTICATED
    await guarded.server.access.look()  # type: ignore[union-attr]
    assert (await outcome(guarded, path, bearer(old)))[0] is grpc.StatusCode.OK
    tokens.remove("who")
    new = tokens.add("who", Role.STEP)
    await guarded.server.access.look()  # type: ignore[union-attr]
    assert (await outcome(guarded, path, bearer(old)))[0] is UNAUTHENTICATED
    assert (await outcome(guarded, path, bearer(new)))[0] is grpc.StatusCode.OK
