"""What callers ask for: every method there is, with every way to name a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cellar.v1 import model_pb2
from cellar.v1 import session_pb2 as pb
from cellar.v1.values_pb2 import Inputs, Values

_SESSIONS = "/cellar.v1.SessionService/"
_MODELS = "/cellar.v1.ModelService/"
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OK = "OK"
UNKNOWN = "NOT_FOUND/SESSION_UNKNOWN"
EXISTS = "ALREADY_EXISTS/SESSION_EXISTS"
_INVALID = "INVALID_ARGUMENT/SNAPSHOT_INVALID"
NO_MODEL = "NOT_FOUND/MODEL_UNKNOWN"
_ROW = f"{OK}+{UNKNOWN}"
_NOT_ATTACHED = "+INVALID_ARGUMENT/BAD_INPUT"


@dataclass(frozen=True)
class Target:
    """A session as its owner knows it: whoever guesses all of that gets no further.

    Attributes:
        token: of a page of its owner's list.
    """

    id: str
    owner: str
    branch: int
    position: int
    token: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One way to call a method.

    Attributes:
        path: of the method.
        label: what it tries.
        messages: what is sent, for a session.
        model: of the session that it wants.
        foreign: what is told whoever has no such session.
        own: what its owner is told.
        admin: what an admin is told, for whom it is another's.
        names_model: the call names the model, or the service does.
        opens: a session of the caller's may be left.
    """

    path: str
    label: str
    messages: Callable[[Target], Sequence[Message]]
    model: str = "letters"
    foreign: str = OK
    own: str = OK
    admin: str | None = None
    names_model: bool = False
    opens: bool = False
    is_endless: bool = False

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]} {self.label}"

    def sent(self, target: Target) -> list[bytes]:
        """The messages as bytes."""
        return [message.SerializeToString() for message in self.messages(target)]


def _one(service: str, method: str, label: str, make: Any, **others: Any) -> Request:
    return Request(path=service + method, label=label, messages=lambda at: [make(at)], **others)


def _session(method: str, label: str, make: Any, **others: Any) -> Request:
    return _one(_SESSIONS, method, label, make, **{"foreign": UNKNOWN, **others})


def _stream(label: str, rest: Callable[[Target], Sequence[Any]], **others: Any) -> Request:
    """A stream over letters that goes on with these."""

    def messages(at: Target) -> list[Message]:
        start = pb.StreamRequest(start=pb.StreamStart(model="letters"))
        return [start, *(pb.StreamRequest(**{_field(each): each}) for each in rest(at))]

    return Request(
        path=_SESSIONS + "Stream", label=label, messages=messages, names_model=True,
        **{"foreign": _ROW, **others},
    )  # fmt: skip


def _field(message: Message) -> str:
    return type(message).__name__.removeprefix("Stream").lower()


def _frame(at: Target, channel: int = 1) -> pb.StreamFrame:
    return pb.StreamFrame(
        channels=[channel], positions=[at.position], inputs=Inputs(text="x"), number=1
    )


def _attach(at: Target, **others: Any) -> pb.StreamAttach:
    return pb.StreamAttach(session_ids=[at.id], channels=[1], **others)


TEXT = Inputs(text="ab")
NUMBERS = Inputs(values=Values(data=[100.0, 101.5]))

REQUESTS: tuple[Request, ...] = (
    # ---- sessions ----
    _session(
        "OpenSession", "of an id that another has",
        lambda at: pb.OpenSessionRequest(model="letters", session_id=at.id),
        foreign=OK, own=EXISTS, names_model=True, opens=True,
    ),
    _session(
        "OpenSession", "ephemeral, of an id that another has",
        lambda at: pb.OpenSessionRequest(
            model="letters", session_id=at.id, ephemeral=True, idle_timeout=Duration(seconds=1)
        ),
        foreign=OK, own=EXISTS, names_model=True, opens=True,
    ),
    _session(
        "OpenSession", "with another state, of an id that another has",
        lambda at: pb.OpenSessionRequest(
            model="letters", session_id=at.id,
            initial_state=pb.SessionState(tensors=[pb.StateTensor(name="h_0", values=[0.5])]),
        ),
        foreign="INVALID_ARGUMENT/BAD_INPUT", own="INVALID_ARGUMENT/BAD_INPUT", names_model=True,
    ),
    _session("GetSession", "by id", lambda at: pb.GetSessionRequest(session_id=at.id)),
    _session(
        "GetSession", "settled, on its branch",
        lambda at: pb.GetSessionRequest(session_id=at.id, settle=True, branch=at.branch),
    ),
    _session(
        "GetSession", "on another branch",
        lambda at: pb.GetSessionRequest(session_id=at.id, branch=at.branch + 1),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _session(
        "GetSession", "of its owner",
        lambda at: pb.GetSessionRequest(session_id=at.id, owner=at.owner), admin=OK,
    ),
    _session(
        "GetSession", "of nobody", lambda at: pb.GetSessionRequest(session_id=at.id, owner=""),
        own=UNKNOWN,
    ),
    _session("ListSessions", "all", lambda at: pb.ListSessionsRequest(), foreign=OK),
    _session(
        "ListSessions", "of its owner", lambda at: pb.ListSessionsRequest(owner=at.owner),
        foreign=OK,
    ),
    _session(
        "ListSessions", "by its model", lambda at: pb.ListSessionsRequest(model="letters"),
        foreign=OK, names_model=True,
    ),
    _session(
        "ListSessions", "from a page of its owner's",
        lambda at: pb.ListSessionsRequest(page_size=1, page_token=at.token), foreign=OK,
    ),
    _session("CloseSession", "by id", lambda at: pb.CloseSessionRequest(session_id=at.id)),
    _session(
        "CloseSession", "on its branch",
        lambda at: pb.CloseSessionRequest(session_id=at.id, branch=at.branch),
    ),
    _session(
        "CloseSession", "of its owner",
        lambda at: pb.CloseSessionRequest(session_id=at.id, owner=at.owner), admin=OK,
    ),
    _session("ResetSession", "by id", lambda at: pb.ResetSessionRequest(session_id=at.id)),
    _session(
        "ResetSession", "on its branch",
        lambda at: pb.ResetSessionRequest(session_id=at.id, branch=at.branch),
    ),
    _session("Step", "by id", lambda at: pb.StepRequest(session_id=at.id, inputs=TEXT)),
    _session(
        "Step", "where it stands",
        lambda at: pb.StepRequest(
            session_id=at.id, inputs=Inputs(text="x"), position=at.position, branch=at.branch
        ),
    ),
    _session(
        "Step", "without a commit",
        lambda at: pb.StepRequest(session_id=at.id, inputs=TEXT, commit=False),
    ),
    _session("Step", "without inputs", lambda at: pb.StepRequest(session_id=at.id),
             own="INVALID_ARGUMENT/BAD_INPUT"),
    _session(
        "Generate", "by id",
        lambda at: pb.GenerateRequest(session_id=at.id, prompt=TEXT, max_steps=2),
    ),
    _session(
        "Generate", "where it stands",
        lambda at: pb.GenerateRequest(
            session_id=at.id, max_steps=1, position=at.position, branch=at.branch
        ),
    ),
    _session(
        "Forecast", "by id", lambda at: pb.ForecastRequest(session_id=at.id, horizon=2, paths=2),
        model="prices",
    ),
    _session(
        "Forecast", "on its branch",
        lambda at: pb.ForecastRequest(
            session_id=at.id, horizon=2, paths=2, branch=at.branch, include_paths=True
        ),
        model="prices",
    ),
    # ---- copies ----
    _session("ExportSession", "by id", lambda at: pb.ExportSessionRequest(session_id=at.id)),
    _session(
        "ExportSession", "on its branch",
        lambda at: pb.ExportSessionRequest(session_id=at.id, branch=at.branch), model="prices",
    ),
    _session(
        "ExportSession", "on another branch",
        lambda at: pb.ExportSessionRequest(session_id=at.id, branch=at.branch + 1),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _session(
        "ExportSession", "to move, on another branch",
        lambda at: pb.ExportSessionRequest(session_id=at.id, branch=at.branch + 1, move_to="x"),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _session(
        "ReleaseSession", "by id", lambda at: pb.ReleaseSessionRequest(session_id=at.id),
        own="INVALID_ARGUMENT/BAD_INPUT",
    ),
    _session(
        "ReleaseSession", "called off",
        lambda at: pb.ReleaseSessionRequest(session_id=at.id, cancel=True),
    ),
    _session(
        "ImportSession", "of an id that another has",
        lambda at: pb.ImportSessionRequest(snapshot=b"of somebody else", session_id=at.id),
        foreign=_INVALID, own=_INVALID,
    ),
    _session(
        "ForkSession", "to its own id",
        lambda at: pb.ForkSessionRequest(session_id=at.id, new_session_id=at.id), own=EXISTS,
    ),
    _session(
        "ForkSession", "where it stands, to its own id",
        lambda at: pb.ForkSessionRequest(
            session_id=at.id, new_session_id=at.id, position=at.position, branch=at.branch
        ),
        model="prices", own=EXISTS,
    ),
    _session(
        "ForkSession", "on another branch",
        lambda at: pb.ForkSessionRequest(session_id=at.id, branch=at.branch + 1),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _session(
        "RewindSession", "by id",
        lambda at: pb.RewindSessionRequest(session_id=at.id, position=at.position),
        own="FAILED_PRECONDITION/HISTORY_MISSING",
    ),
    _session(
        "RewindSession", "on its branch, within its last generation",
        lambda at: pb.RewindSessionRequest(
            session_id=at.id, position=1, branch=at.branch, generated=True
        ),
        own="FAILED_PRECONDITION/HISTORY_MISSING",
    ),
    _session(
        "RewindSession", "ahead of it",
        lambda at: pb.RewindSessionRequest(session_id=at.id, position=at.position + 1000),
        own="INVALID_ARGUMENT/BAD_INPUT",
    ),
    _session(
        "RewindSession", "on another branch",
        lambda at: pb.RewindSessionRequest(session_id=at.id, branch=at.branch + 1),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _session(
        "UpgradeSession", "to the version that it has",
        lambda at: pb.UpgradeSessionRequest(session_id=at.id),
    ),
    _session(
        "UpgradeSession", "on its branch, to no version",
        lambda at: pb.UpgradeSessionRequest(
            session_id=at.id, model_version=999, branch=at.branch
        ),
        own="NOT_FOUND/MODEL_UNKNOWN",
    ),
    _session(
        "UpgradeSession", "on another branch",
        lambda at: pb.UpgradeSessionRequest(session_id=at.id, branch=at.branch + 1),
        own="FAILED_PRECONDITION/STALE_BRANCH",
    ),
    # ---- streams ----
    _stream("attaches by id", lambda at: [_attach(at)]),
    _stream("attaches on its branch", lambda at: [_attach(at, branches=[at.branch])]),
    _stream(
        "attaches on another branch", lambda at: [_attach(at, branches=[at.branch + 1])],
        own=f"{OK}+FAILED_PRECONDITION/STALE_BRANCH",
    ),
    _stream(
        "attaches and steps", lambda at: [_attach(at), _frame(at)],
        foreign=f"{OK}{_NOT_ATTACHED}+{UNKNOWN}",
    ),
    _stream(
        "attaches and resets", lambda at: [_attach(at), pb.StreamReset(channels=[1])],
        foreign=f"{OK}{_NOT_ATTACHED}+{UNKNOWN}",
    ),
    _stream(
        "attaches and closes", lambda at: [_attach(at), pb.StreamDetach(channels=[1], close=True)]
    ),
    _stream(
        "steps a channel of nobody's", lambda at: [_frame(at)],
        foreign=f"{OK}{_NOT_ATTACHED}", own=f"{OK}{_NOT_ATTACHED}",
    ),
    _stream(
        "steps many channels of nobody's",
        lambda at: [
            pb.StreamFrame(channels=range(64), inputs=Inputs(text="x" * 64)),
            pb.StreamFrame(channels=range(64), steps=[2] * 64, inputs=Inputs(text="xy" * 64)),
        ],
        foreign=f"{OK}{_NOT_ATTACHED}", own=f"{OK}{_NOT_ATTACHED}",
    ),
    _stream(
        "closes channels of nobody's",
        lambda at: [pb.StreamDetach(channels=range(64), close=True)], foreign=OK,
    ),
    _stream(
        "resets channels of nobody's", lambda at: [pb.StreamReset(channels=range(64))],
        foreign=f"{OK}{_NOT_ATTACHED}", own=f"{OK}{_NOT_ATTACHED}",
    ),
    _stream(
        "opens an id that another has, steps and closes it",
        lambda at: [
            _attach(at, open=True),
            pb.StreamFrame(channels=[1], inputs=Inputs(text="x")),
            pb.StreamReset(channels=[1]),
            pb.StreamDetach(channels=[1], close=True),
        ],
        foreign=OK, own=f"{OK}+{EXISTS}{_NOT_ATTACHED}", opens=True,
    ),
    _stream(
        "leaves an ephemeral one of an id that another has",
        lambda at: [_attach(at, open=True, ephemeral=True)],
        foreign=OK, own=f"{OK}+{EXISTS}", opens=True,
    ),
    Request(
        path=_SESSIONS + "Stream", label="attaches before its start",
        messages=lambda at: [pb.StreamRequest(attach=_attach(at))],
        foreign="INVALID_ARGUMENT/BAD_INPUT", own="INVALID_ARGUMENT/BAD_INPUT",
    ),
    Request(
        path=_SESSIONS + "Stream", label="says nothing", messages=lambda _: [],
        foreign="INVALID_ARGUMENT/BAD_INPUT", own="INVALID_ARGUMENT/BAD_INPUT",
    ),
    # ---- models, health, reflection ----
    _one(_MODELS, "ListModels", "all", lambda _: model_pb2.ListModelsRequest()),
    _one(
        _MODELS, "GetModel", "by name", lambda _: model_pb2.GetModelRequest(name="letters"),
        names_model=True,
    ),
    _one(
        _MODELS, "Predict", "by name",
        lambda _: model_pb2.PredictRequest(model="letters", inputs=TEXT, steps=[2]),
        names_model=True,
    ),
    _one(_HEALTH, "Check", "the server", lambda _: health_pb2.HealthCheckRequest()),
    _one(
        _HEALTH, "Check", "a service",
        lambda _: health_pb2.HealthCheckRequest(service="cellar.v1.SessionService"),
    ),
    _one(_HEALTH, "List", "all", lambda _: health_pb2.HealthListRequest()),
    _one(
        _HEALTH, "Watch", "the server", lambda _: health_pb2.HealthCheckRequest(), is_endless=True
    ),
    Request(
        path=_REFLECTION, label="lists services",
        messages=lambda _: [reflection_pb2.ServerReflectionRequest(list_services="")],
    ),
    Request(
        path=_REFLECTION, label="reads a file",
        messages=lambda _: [
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="cellar.v1.Session")
        ],
    ),
)  # fmt: skip
