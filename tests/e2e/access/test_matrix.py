"""Every kind of caller, by every kind of TLS, at every method: what each is told, and changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cellar.v1 import session_pb2 as pb
from service.auth.principal import Role
from service.rpc.permissions import OPEN, ROLES
from tests.e2e.access.calls import Answer, Metadata, ask, page
from tests.e2e.access.houses import CLIENTS, KINDS, STRANGE, House, channel_to, house
from tests.e2e.access.requests import NO_MODEL, NUMBERS, OK, REQUESTS, TEXT, Request, Target
from tests.service.auth.tokens import bearer

REFUSED = "UNAUTHENTICATED/UNAUTHENTICATED"
DENIED = "PERMISSION_DENIED/PERMISSION_DENIED"
MAIN = {"letters": "alice-letters", "prices": "alice-prices"}
_USES = (
    "Step",
    "Generate",
    "Forecast",
    "ResetSession",
    "ExportSession",
    "ForkSession",
    "RewindSession",
    "UpgradeSession",
)
_SETTLED_S = 0.5  # a use in the meantime is told from none by this


def roles_of(path: str) -> frozenset[Role] | None:
    """Which roles a method wants, as it was decided; ``None``: it is open to all."""
    _, service, method = path.split("/")
    if service == "grpc.health.v1.Health":
        return None
    if service == "grpc.reflection.v1alpha.ServerReflection":
        return frozenset({Role.READ})
    looks = method in ("ListModels", "GetModel")
    return frozenset({Role.STEP, Role.READ}) if looks else frozenset({Role.STEP})


@dataclass(frozen=True)
class Caller:
    """Somebody who calls.

    Attributes:
        roles: what the token is for; ``None``: it is none that is valid.
        models: whether it may use those of the sessions.
    """

    name: str
    metadata: Metadata
    roles: frozenset[Role] | None = None
    models: bool = True

    def wanted(self, request: Request) -> str:
        """What is to be told."""
        roles = roles_of(request.path)
        if roles is None:
            return OK
        if self.roles is None:
            return REFUSED
        if Role.ADMIN not in self.roles and self.roles.isdisjoint(roles):
            return DENIED
        if request.names_model and not self.models:
            return NO_MODEL
        if self.name == "alice":
            return request.own
        if Role.ADMIN in self.roles and request.admin is not None:
            return request.admin
        return request.foreign


async def callers(house: House) -> list[Caller]:
    """All kinds of them; who has had his tokens taken away has had them."""
    house.join("alice", Role.STEP)
    house.join("bob", Role.STEP)
    house.join("narrow", Role.STEP, models=["fleeting"])
    house.join("reader", Role.READ)
    house.join("nothing")
    house.join("root", Role.ADMIN)
    house.join("late", *Role, expires_in_s=-1)
    house.join("gone", *Role)
    await house.look()
    assert (await house.ask("gone", "ListSessions", pb.ListSessionsRequest())).outcome == OK
    house.tokens.remove("gone")
    await house.look()
    named = house.named
    id_, _, secret = named["alice"].rpartition(".")
    flipped = ("A" if secret[0] != "A" else "B") + secret[1:]
    return [
        Caller("no token", ()),
        Caller("wrong secret", bearer(f"{id_}.{flipped}")),
        Caller("no secret", bearer(f"{id_}.")),
        Caller("unknown id", bearer(f"{id_[:-1]}.{secret}")),
        Caller("another's secret", bearer(f"{id_}.{named['bob'].rpartition('.')[2]}")),
        Caller("expired", bearer(named["late"])),
        Caller("revoked", bearer(named["gone"])),
        Caller("nothing", bearer(named["nothing"]), frozenset()),
        Caller("reader", bearer(named["reader"]), frozenset({Role.READ})),
        Caller("narrow", bearer(named["narrow"]), frozenset({Role.STEP}), models=False),
        Caller("bob", bearer(named["bob"]), frozenset({Role.STEP})),
        Caller("root", bearer(named["root"]), frozenset({Role.ADMIN})),
        Caller("alice", bearer(named["alice"]), frozenset({Role.STEP})),
    ]


# ---- what is not to change ----


class Owned:
    """Alice's sessions, which stand where they stood however often others try."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.targets: dict[str, Target] = {}

    async def open(self) -> None:
        """There they are; of one a stream of hers has the channel 1."""
        house = self._house
        for model, name in MAIN.items():
            await house.open("alice", name, model, idle_timeout={"seconds": 1000})
            await house.step("alice", name, _inputs(model))
        await house.open("alice", "alice-fleeting", ephemeral=True)
        self._answers = await self._say()
        stub: Any = house.streams.stream_stream(
            "/cellar.v1.SessionService/Stream",
            request_serializer=pb.StreamRequest.SerializeToString,
            response_deserializer=pb.StreamResponse.FromString,
        )
        self._stream = stub(metadata=bearer(house.named["alice"]), timeout=120)
        await self._tell(start=pb.StreamStart(model="letters"))
        attach = pb.StreamAttach(session_ids=["alice-letters", "alice-fleeting"], channels=[1, 2])
        assert list((await self._tell(attach=attach)).attached.positions) == [2, 0]
        request = pb.ListSessionsRequest(page_size=1)
        answer = await house.ask("alice", "ListSessions", request)
        token = pb.ListSessionsResponse.FromString(answer.messages[0]).next_page_token
        assert token
        for (_, name), session in (await house.listed("alice")).items():
            self.targets[name] = Target(name, "alice", session.branch, session.position, token)
        await asyncio.sleep(_SETTLED_S)
        self._stood = await house.listed("alice")

    async def _tell(self, **message: Any) -> pb.StreamResponse:
        await self._stream.write(pb.StreamRequest(**message))
        answer: pb.StreamResponse = await self._stream.read()
        return answer

    async def _say(self) -> list[bytes]:
        """What each would answer to a step that is not applied."""
        return [
            (
                await self._house.step("alice", name, _inputs(model), commit=False)
            ).SerializeToString()
            for model, name in MAIN.items()
        ]

    async def check(self, what: object) -> None:
        """Nothing has changed, nor was anything used."""
        stands = await self._house.listed("alice")
        assert stands.keys() == self._stood.keys(), what
        for key, now in stands.items():
            before = self._stood[key]
            drift_s = now.last_used_time.ToNanoseconds() - before.last_used_time.ToNanoseconds()
            assert abs(drift_s) < 1e9 * _SETTLED_S / 2, (what, "used")
            now.last_used_time.CopyFrom(before.last_used_time)
            assert now == before, what

    async def end(self) -> None:
        """She goes on as if nobody else had been there."""
        assert await self._say() == self._answers
        frame = pb.StreamFrame(channels=[1], positions=[2], inputs=TEXT, steps=[2], number=9)
        reply = (await self._tell(frame=frame)).reply
        assert (list(reply.positions), reply.frame, len(reply.errors)) == ([4], 9, 0)
        await self._stream.done_writing()
        assert await self._stream.read() is grpc.aio.EOF
        assert await self._stream.code() is grpc.StatusCode.OK


def _inputs(model: str) -> Any:
    return TEXT if model == "letters" else NUMBERS


@asynccontextmanager
async def scratch(house: House, request: Request) -> AsyncIterator[Target]:
    """A session of alice's for those who may use it up."""
    name = f"scratch-{request.model}"
    session = await house.open("alice", name, request.model)
    await house.step("alice", name, _inputs(request.model))
    answer = await house.ask("alice", "ListSessions", pb.ListSessionsRequest(page_size=1))
    token = pb.ListSessionsResponse.FromString(answer.messages[0]).next_page_token
    yield Target(name, "alice", session.branch, 2, token)
    await house.ask("alice", "CloseSession", pb.CloseSessionRequest(session_id=name))


def uses_up(caller: Caller, request: Request) -> bool:
    """Whether a session of alice's may be changed by it."""
    method = request.path.rpartition("/")[2]
    if caller.name == "root":
        return method == "CloseSession" and request.admin is not None
    return caller.name == "alice" and request.foreign != OK and method != "GetSession"


def check_inert(answer: Answer) -> None:
    """No stream has had a session."""
    for each in map(pb.StreamResponse.FromString, answer.messages):
        for told in (each.attached, each.reply, each.detached, each.reset):
            assert not told.channels, answer


async def tried(house: House, caller: Caller, request: Request, target: Target) -> Answer:
    """One cell: what is told is what is to be."""
    answer = await ask(
        house.channel, request.path, request.sent(target), caller.metadata,
        is_endless=request.is_endless,
    )  # fmt: skip
    wanted = caller.wanted(request)
    assert answer.outcome == wanted, (house.kind, caller.name, str(request), answer)
    if wanted in (REFUSED, DENIED, NO_MODEL):
        assert not answer.messages, (caller.name, str(request))
    if request.path.endswith("Stream") and caller.name != "alice" and not request.opens:
        check_inert(answer)
    if caller.name != "alice" and wanted == OK and request.path.endswith("ListSessions"):
        listed = pb.ListSessionsResponse.FromString(answer.messages[0]).sessions
        owners = {each.owner for each in listed}
        assert owners <= ({"alice"} if caller.name == "root" else set()), caller.name
    if wanted == OK and request.opens:
        close = pb.CloseSessionRequest(session_id=target.id)
        await ask(
            house.channel, "/cellar.v1.SessionService/CloseSession", [close.SerializeToString()],
            caller.metadata,
        )  # fmt: skip
    return answer


async def fill(house: House, *, looks_often: bool = False) -> int:
    """All cells of a kind of TLS; returns how many there were.

    It is looked at behind each caller, or each cell, whether anything of alice's has changed.
    """
    known = await callers(house)
    owned, count = Owned(house), 0
    await owned.open()
    for caller in known:
        # Those last that leave an id of the caller's own, which he has closed then.
        for request in sorted(REQUESTS, key=lambda request: request.opens):
            if uses_up(caller, request):
                async with scratch(house, request) as target:
                    await tried(house, caller, request, target)
            else:
                await tried(house, caller, request, owned.targets[MAIN[request.model]])
            if looks_often:
                await owned.check((house.kind, caller.name, str(request)))
            count += 1
        await owned.check((house.kind, caller.name))
    await owned.end()
    return count


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if kind == "tls" else ()) for kind in KINDS]
)
async def test_each_caller_is_told_what_he_may_know_and_changes_nothing_of_others(
    kind: str, models: Path, tmp_path: Path
) -> None:
    async with house(kind, models, tmp_path) as made:
        assert await fill(made) == 13 * len(REQUESTS)
        await check_pages(made)


async def test_whose_model_was_taken_away_may_look_and_close_and_nothing_else(
    models: Path, tmp_path: Path
) -> None:
    """Of sessions that are his own; by name, the model is one that is not there."""
    async with house("plain", models, tmp_path) as made:
        made.join("fickle", Role.STEP)
        await made.look()
        targets = {}
        for number, request in enumerate(REQUESTS):
            session = await made.open("fickle", f"s{number}", request.model)
            await made.step("fickle", session.id, _inputs(request.model))
            targets[request] = Target(session.id, "fickle", session.branch, 2)
        made.tokens.grant("fickle", Role.STEP, models=["fleeting"])
        await made.look()
        stood = await made.listed("fickle")
        closed = set()
        for request, target in targets.items():
            method = request.path.rpartition("/")[2]
            wanted = Caller("alice", (), frozenset({Role.STEP}), models=False).wanted(request)
            if method in _USES:
                wanted = DENIED
            if str(request) == "ListSessions by its model":
                wanted = OK  # for he has some, and has to find them
            answer = await ask(
                made.channel, request.path, request.sent(target), bearer(made.named["fickle"]),
                is_endless=request.is_endless,
            )  # fmt: skip
            assert answer.outcome == wanted, (str(request), answer)
            if method == "CloseSession":
                closed.add(("fickle", target.id))
        stands = await made.listed("fickle")
        assert stands.keys() == stood.keys() - closed
        assert all(stands[key].position == 2 for key in stands)


@pytest.mark.long
async def test_no_cell_changes_anything_with_a_store(models: Path, tmp_path: Path) -> None:
    async with house("mutual", models, tmp_path, store=f"lmdb:{tmp_path / 'store'}") as made:
        assert await fill(made, looks_often=True) == 13 * len(REQUESTS)


# ---- nothing is left out ----


def test_every_method_is_tried() -> None:
    assert {request.path for request in REQUESTS} == ROLES.keys()
    assert {path: roles_of(path) or OPEN for path in ROLES} == ROLES


async def test_the_table_is_of_what_the_server_serves(models: Path, tmp_path: Path) -> None:
    """By the descriptors that it tells of itself: a method that joins is in the matrix."""
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    async with house("plain", models, tmp_path) as made:
        made.join("root", Role.ADMIN)
        await made.look()

        async def told(**wanted: Any) -> Any:
            request = reflection_pb2.ServerReflectionRequest(**wanted)
            (message,) = (await made.ask("root", path, request)).messages
            return reflection_pb2.ServerReflectionResponse.FromString(message)

        found = set()
        services = (await told(list_services="")).list_services_response.service
        for name in [service.name for service in services]:
            files = (await told(file_containing_symbol=name)).file_descriptor_response
            for data in files.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(data)
                for service in file.service:
                    full = f"{file.package}.{service.name}"
                    found |= {f"/{full}/{method.name}" for method in service.method}
        assert found == ROLES.keys()
        kinds = {field.name for field in pb.StreamRequest.DESCRIPTOR.fields}
        sent = {
            pb.StreamRequest.FromString(message).WhichOneof("message")
            for request in REQUESTS
            if request.path.endswith("Stream")
            for message in request.sent(Target("a", "b", 1, 1))
        }
        assert sent == kinds


# ---- connections ----


@pytest.mark.parametrize(
    ("kind", "connects", "shows"),
    [("tls", "plain", None), ("mutual", "plain", None), ("mutual", "mutual", None),
     ("mutual", "mutual", STRANGE), ("plain", "tls", None)],
    ids=["tls", "mutual", "without a certificate", "with a strange one", "plain"],
)  # fmt: skip
async def test_who_does_not_connect_well_is_told_nothing_by_any_method(
    kind: str, connects: str, shows: Any, models: Path, tmp_path: Path
) -> None:
    async with house(kind, models, tmp_path) as made:
        made.join("alice", Role.STEP)
        made.join("root", Role.ADMIN)
        await made.look()
        target = Target("a", "alice", (await made.open("alice", "a")).branch, 0)
        with channel_to(made.server.port, connects, shows=shows) as channel:
            for request in REQUESTS:
                for who in ("alice", "root"):
                    metadata = bearer(made.named[who])
                    answer = await ask(channel, request.path, request.sent(target), metadata)
                    assert (answer.outcome, answer.messages) == ("UNAVAILABLE", ()), str(request)
        with channel_to(made.server.port, kind, shows=CLIENTS) as channel:
            path = "/cellar.v1.SessionService/ListSessions"
            answer = await ask(channel, path, [b""], bearer(made.named["alice"]))
            listed = pb.ListSessionsResponse.FromString(answer.messages[0]).sessions
            assert [(each.id, each.position) for each in listed] == [("a", 0)]


# ---- pages ----


async def check_pages(house: House) -> None:
    """The HTTP port: probes need nothing, no certificate either; the rest a reader's token."""
    port = house.server.metrics_port
    assert port is not None
    named = house.named
    readers, others = ("reader", "root"), ("alice", "bob", "narrow", "nothing")
    statuses: list[tuple[str | None, int]] = [(None, 401), ("late", 401), ("gone", 401)]
    statuses += [*((who, 403) for who in others), *((who, 200) for who in readers)]
    for who, status in statuses:
        token = None if who is None else named[who]
        for path, wanted in (("/livez", 200), ("/readyz", 200), ("/metrics", status)):
            found, body = await asyncio.to_thread(page, port, path, token, house.https)
            assert found == wanted, (house.kind, who, path, body)
            if path == "/readyz":
                assert ("models" in json.loads(body)) == (who in readers), who
            elif path == "/metrics" and wanted != 200:
                assert b"cellar_" not in body
