"""A fake server, whose model returns state + input, and which fails when told to.

State: one integer per session. Reading x at position p makes it ``state * 31 + (p + 1) * x``
modulo 1009, so any step lost, doubled, swapped or given to another session changes every number
that follows. The prediction's raw output is [state], its most likely token state % 10.
"""

# ruff: noqa: N802

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from cellar.v1 import (
    model_pb2,
    model_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    values_pb2,
)
from tests import reasons

VOCABULARY = "abcdefghij"
_branches = itertools.count(2**62)
VERSION = 3
WIDTHS = {"char": 1, "series": 1, "wide": 2}

# All but the one that only rows of a stream are told.
CODES = {
    each.name: grpc.StatusCode[each.status] for each in reasons.read() if each.name != "CANCELLED"
}


@dataclass(frozen=True)
class Refusal(Exception):  # noqa: N818
    """The server says no."""

    reason: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None

    def status(self) -> Any:
        """The rich status of a failed call."""
        info = Packed()
        info.Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain="cellar", metadata=self.metadata)
        )
        details = [info]
        if self.retry_after_s is not None:
            retry = Packed()
            delay = Duration(nanos=int(self.retry_after_s * 1e9))
            retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            details.append(retry)
        code = CODES[self.reason]
        return status_pb2.Status(
            code=code.value[0], message=f"told to say {self.reason}", details=details
        )


def abort(context: Any, refusal: Refusal) -> None:
    """Ends a call with a rich status."""
    details = refusal.status().SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(CODES[refusal.reason], f"told to say {refusal.reason}")


def advance(state: int, position: int, value: int) -> int:
    """One step of the fake model."""
    return (state * 31 + (position + 1) * value) % 1009


def run(values: list[int]) -> int:
    """The state of a session alone that has read these values."""
    state = 0
    for position, value in enumerate(values):
        state = advance(state, position, value)
    return state


@dataclass
class Fault:
    """What goes wrong with a method's next calls.

    before: refused before anything is applied. after: applied, and then the reply is lost.
    bare: this status code, without details.
    """

    count: int
    before: Refusal | None = None
    after: bool = False
    unavailable: bool = False
    bare: grpc.StatusCode | None = None
    delay_s: float = 0.0


@dataclass
class FakeSession:
    """One session."""

    model: str
    position: int = 0
    state: int = 0
    request: bytes = b""
    reply: Any = None
    before: int = -1
    settled: int = 0
    branch: int = field(default_factory=lambda: next(_branches))
    read: list[int] = field(default_factory=list)
    generated: tuple[int, int] = (0, -1)  # from where to where its last generation went
    history_steps: int = 0
    version: int = VERSION
    left: int = 0
    past: dict[int, int] = field(default_factory=dict)  # branches that crashes ended: what was kept

    def check_branch(self, claimed: int, *, or_left: bool = False) -> None:
        """Refuses what is for another branch."""
        if or_left and claimed == self.left:
            return
        if claimed and claimed != self.branch:
            facts = {"branch": str(self.branch), "position": str(self.position)}
            if claimed in self.past:
                facts["kept_position"] = str(self.past[claimed])
            raise Refusal("STALE_BRANCH", facts)

    def reset(self) -> None:
        """Begins anew, on another branch."""
        self.position, self.state, self.before = 0, 0, -1
        self.read.clear()
        self.past.clear()
        self.branch = next(_branches)

    def rewind(self, position: int) -> None:
        """Goes back to a position, on another branch."""
        self.left, self.branch = self.branch, next(_branches)
        del self.read[position:]
        self.position, self.state, self.before = position, run(self.read), -1
        self.generated = self.generated[0], position

    def upgrade(self, version: int) -> None:
        """Goes on with another version, on another branch."""
        self.left, self.branch = self.branch, next(_branches)
        self.version, self.before = version, -1

    def crash(self, kept: int) -> None:
        """Comes back without its last steps."""
        self.past[self.branch] = kept
        self.branch = next(_branches)
        if kept < self.position:
            del self.read[kept:]
            self.position, self.state, self.before = kept, run(self.read), -1


class FakeServer(model_pb2_grpc.ModelServiceServicer, session_pb2_grpc.SessionServiceServicer):
    """Serves on a real port.

    Attributes:
        calls: how often each method was called.
        frames: how many stream frames came.
        metadata: the metadata of the latest call.
        kill_after_frames: breaks a stream once this many frames were applied, replies unsent.
        kill_before_frames: breaks a stream when the frame after so many comes, unapplied.
        crash_after_frames: breaks a stream once so many frames were applied, replies unsent, and
            comes back without so many of the last steps of each session.
        break_within: breaks a stream after the first part of the reply to these frames; see split.
        stall_within: goes silent there.
        hold_frames: the replies to these frames are sent after those to the next.
        run_alone: models whose rows and steps share no runs, and whose values have a limit.
        undurable_steps: so many steps of each session, the last, are not on its disk; None: it has
            none.
        knows_branches: False for a server that is older than they are.
        knows_rewinds: the same.
        page_size: sessions on a page at most.
        kill_before_resets: breaks a stream when so many more resets come, before they are applied.
        kill_after_resets: the same, once they are applied, replies unsent.
        split: rows per reply message on a stream, in reversed order; 0 sends frames whole.
        credentials: of TLS, from the next start on; None: in the clear.
        tokens: those that are valid; None: no call needs one.
    """

    def __init__(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.sessions: dict[str, FakeSession] = {}
        self.closed: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.unavailable: list[model_pb2.Model] = []  # listed beside those that are served
        self.metadata: dict[str, str] = {}
        self.requests: list[Any] = []
        self.frames = 0
        self.kill_after_frames: set[int] = set()
        self.kill_before_frames: set[int] = set()
        self.crash_after_frames: dict[int, int] = {}
        self.kill_before_resets = 0
        self.kill_after_resets = 0
        self.break_within: set[int] = set()
        self.stall_within: set[int] = set()
        self.hold_frames: set[int] = set()
        self.split = 0
        self.page_size = 1000
        self.silent = False
        self.undurable_steps: int | None = None
        self.groups = 0
        self.knows_branches = True
        self.knows_rewinds = True
        self.run_alone: set[str] = set()
        self.pieces = 0
        self.lock = threading.RLock()
        self.release = threading.Event()
        self.port = port
        self.credentials = credentials
        self.tokens: set[str] | None = None
        self._held: socket.socket | None = None
        self.start()

    def start(self) -> None:
        """Listens, on the port that it had before, if any."""
        self._let_go()
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        model_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, self._server)
        where = f"127.0.0.1:{self.port}"
        if self.credentials is None:
            self.port = self._server.add_insecure_port(where)
        else:
            self.port = self._server.add_secure_port(where, self.credentials)
        self._server.start()

    def stop(self) -> None:
        """Drops everything at once. Sessions survive, as if stored.

        The port is kept: no server of another test answers there meanwhile.
        """
        self.release.set()
        self._server.stop(None).wait()
        self.release.clear()
        if self._held is None:
            self._held = socket.socket()
            with suppress(OSError):
                self._held.bind(("127.0.0.1", self.port))

    def end(self) -> None:
        """Stops it for good."""
        self.stop()
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def crash(self, lost_steps: int, *, only: str | None = None) -> None:
        """As if it had come back without that many of the last steps of each session."""
        with self.lock:
            for name, session in self.sessions.items():
                if only in (None, name):
                    session.crash(max(session.position - lost_steps, 0))

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def fail(self, method: str, **fault: Any) -> None:
        """The next ``count`` (default 1) calls of a method fail."""
        self.faults[method] = Fault(**{"count": 1, **fault})

    # Models

    def ListModels(self, request: Any, context: Any) -> Any:
        self._begin("ListModels", request, context)
        models = [self._model(name) for name in WIDTHS]
        for model in models:
            del model.vocabulary[:]
        models += self.unavailable
        return model_pb2.ListModelsResponse(models=models)

    def GetModel(self, request: Any, context: Any) -> Any:
        self._begin("GetModel", request, context)
        if request.name not in WIDTHS:
            abort(context, Refusal("MODEL_UNKNOWN"))
        return model_pb2.GetModelResponse(model=self._model(request.name, request.version))

    def Predict(self, request: Any, context: Any) -> Any:
        after = self._begin("Predict", request, context)
        values = self._values(request.inputs, request.model)
        predictions = values_pb2.Predictions()
        start = 0
        for steps in request.steps:
            own = values[start : start + steps]
            ends = range(1, steps + 1) if request.outputs.every_step else [steps]
            for end in ends:
                state = run(own[:end])
                predictions.argmax.append(state % len(VOCABULARY))
                predictions.raw.append(state)
            start += steps
        after()
        return model_pb2.PredictResponse(
            model=request.model,
            model_version=3,
            counts=list(request.steps) if request.outputs.every_step else [],
            predictions=predictions,
        )

    def _model(self, name: str, version: int = 0) -> Any:
        char = name == "char"
        return model_pb2.Model(
            name=name,
            version=version or VERSION,
            default_version=version in (0, VERSION),
            task="char" if char else "series",
            input=model_pb2.INPUT_KIND_TOKENS if char else model_pb2.INPUT_KIND_VALUES,
            width=WIDTHS[name],
            vocabulary=VOCABULARY if char else (),
            features=() if char else ["x", "y"][: WIDTHS[name]],
            prediction=model_pb2.PREDICTION_KIND_LOGITS
            if char
            else model_pb2.PREDICTION_KIND_DISTRIBUTION,
            prediction_width=1,
            session_bytes=8,
            rows_run_alone=name in self.run_alone,
            steps_run_alone=name in self.run_alone,
            largest_value=1e30 if name in self.run_alone else 0.0,
            fingerprint="f00d",
            scores={"loss": 1.5},
            provenance_json='{"seed": 7}',
        )

    # Sessions

    def OpenSession(self, request: Any, context: Any) -> Any:
        after = self._begin("OpenSession", request, context)
        if request.model not in WIDTHS:
            abort(context, Refusal("MODEL_UNKNOWN"))
        with self.lock:
            if request.session_id in self.sessions:
                abort(context, Refusal("SESSION_EXISTS"))
            self.sessions[request.session_id] = session = FakeSession(request.model)
            session.history_steps = request.history_steps
            session.version = request.model_version or VERSION
        after()
        return session_pb2.OpenSessionResponse(session=self._describe(request.session_id))

    def GetSession(self, request: Any, context: Any) -> Any:
        self._begin("GetSession", request, context)
        session = self._find(request, context)
        with self.lock:
            session.settled += request.settle
        return session_pb2.GetSessionResponse(session=self._describe(request.session_id))

    def ListSessions(self, request: Any, context: Any) -> Any:
        after = self._begin("ListSessions", request, context)
        with self.lock:
            names = [
                name for name, own in self.sessions.items() if request.model in ("", own.model)
            ]
        start = int(request.page_token or 0)
        stop = start + min(request.page_size, self.page_size)
        after()
        return session_pb2.ListSessionsResponse(
            sessions=map(self._describe, names[start:stop]),
            next_page_token=str(stop) if stop < len(names) else "",
        )

    def CloseSession(self, request: Any, context: Any) -> Any:
        after = self._begin("CloseSession", request, context)
        session = self._find(request, context)
        self._close(request.session_id)
        after()
        return session_pb2.CloseSessionResponse(position=session.position)

    def ResetSession(self, request: Any, context: Any) -> Any:
        after = self._begin("ResetSession", request, context)
        session = self._find(request, context)
        session.reset()
        after()
        return session_pb2.ResetSessionResponse(session=self._describe(request.session_id))

    def RewindSession(self, request: Any, context: Any) -> Any:
        if not self.knows_rewinds:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        after = self._begin("RewindSession", request, context)
        session = self._find(request, context, or_left=True)
        with self.lock:
            if request.position > session.position:
                abort(context, Refusal("BAD_INPUT", {"field": "position"}))
            start, stop = session.generated
            is_within = start <= request.position and stop == session.position
            if not is_within and (request.generated or not session.history_steps):
                abort(context, Refusal("HISTORY_MISSING"))
            session.rewind(request.position)
        after()
        return session_pb2.RewindSessionResponse(session=self._describe(request.session_id))

    def UpgradeSession(self, request: Any, context: Any) -> Any:
        after = self._begin("UpgradeSession", request, context)
        session = self._find(request, context, or_left=True)
        with self.lock:
            version = request.model_version or VERSION
            if version > VERSION:
                abort(context, Refusal("MODEL_UNKNOWN"))
            if version != session.version:
                if not session.history_steps:
                    abort(context, Refusal("HISTORY_MISSING"))
                session.upgrade(version)
        after()
        return session_pb2.UpgradeSessionResponse(session=self._describe(request.session_id))

    def ExportSession(self, request: Any, context: Any) -> Any:
        """A snapshot is what the session has read, as JSON."""
        after = self._begin("ExportSession", request, context)
        session = self._find(request, context)
        known = {"id": request.session_id, "model": session.model, "read": session.read}
        after()
        return session_pb2.ExportSessionResponse(
            snapshot=json.dumps(known).encode(), session=self._describe(request.session_id)
        )

    def ImportSession(self, request: Any, context: Any) -> Any:
        after = self._begin("ImportSession", request, context)
        try:
            known = json.loads(request.snapshot)
        except ValueError:
            abort(context, Refusal("SNAPSHOT_INVALID"))
        name = request.session_id or known["id"]
        self._copied(name, known["model"], known["read"], context)
        after()
        return session_pb2.ImportSessionResponse(session=self._describe(name))

    def ForkSession(self, request: Any, context: Any) -> Any:
        after = self._begin("ForkSession", request, context)
        session, name = self._find(request, context), request.new_session_id
        position = request.position if request.HasField("position") else session.position
        if position > len(session.read):
            abort(context, Refusal("HISTORY_MISSING"))
        model = request.model or session.model
        self._copied(name, model, session.read[:position], context)
        after()
        return session_pb2.ForkSessionResponse(session=self._describe(name))

    def _copied(self, name: str, model: str, read: list[int], context: Any) -> None:
        with self.lock:
            if name in self.sessions:
                abort(context, Refusal("SESSION_EXISTS"))
            session = FakeSession(model, position=len(read), state=run(read), read=list(read))
            self.sessions[name] = session

    def Step(self, request: Any, context: Any) -> Any:
        after = self._begin("Step", request, context)
        session = self._find(request, context)
        values = self._values(request.inputs, session.model)
        try:
            reply = self.step(
                session,
                values,
                request.position if request.HasField("position") else None,
                request.outputs,
                commit=not request.HasField("commit") or request.commit,
            )
        except Refusal as refusal:
            abort(context, refusal)
        after()
        if self.knows_branches:
            reply.branch = session.branch
        if self.undurable_steps is not None:
            reply.durable_position = max(reply.position - self.undurable_steps, 0)
        return reply

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        after = self._begin("Generate", request, context)
        session = self._find(request, context)
        if request.position != session.position:
            abort(context, Refusal("POSITION_MISMATCH", {"position": str(session.position)}))
        prompt = self._values(request.prompt, session.model)
        if not prompt and not session.position:
            abort(context, Refusal("NOT_STARTED"))
        outputs = values_pb2.Outputs(raw=True)
        if prompt:
            self.step(session, prompt, None, outputs)
        text = ""
        settled, began = session.settled, session.position
        for count in range(1, request.max_steps + 1):
            if self.pieces and count > self.pieces:
                context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
            token = session.state % len(VOCABULARY)
            with self.lock:
                if session.settled == settled:
                    self.step(session, [token], None, outputs)
                    session.generated = began, session.position
            if session.settled > settled:
                context.abort(grpc.StatusCode.CANCELLED, "the client goes on without it")
            text += VOCABULARY[token]
            stopped = any(each in text for each in request.stop)
            finish = session_pb2.FINISH_REASON_UNSPECIFIED
            if stopped:
                finish = session_pb2.FINISH_REASON_STOP
            elif count == request.max_steps:
                finish = session_pb2.FINISH_REASON_LENGTH
            char = session.model == "char"
            after()
            yield session_pb2.GenerateResponse(
                text=VOCABULARY[token] if char else "",
                tokens=[token] if char else [],
                values=[] if char else [token],
                position=session.position,
                finish_reason=finish,
                durable_position=None
                if self.undurable_steps is None
                else max(session.position - self.undurable_steps, 0),
            )
            if stopped:
                return

    def Forecast(self, request: Any, context: Any) -> Any:
        self._begin("Forecast", request, context)
        session = self._find(request, context)
        if not session.position:
            abort(context, Refusal("NOT_STARTED"))
        levels = list(request.quantiles) or [0.1, 0.5, 0.9]
        beside = WIDTHS[session.model] - 1
        rows, missing = divmod(len(request.future), beside) if beside else (0, len(request.future))
        if missing or (beside and not 0 <= request.horizon - rows <= 1):
            abort(context, Refusal("BAD_INPUT", {"field": "future"}))
        mean = [session.state + step for step in range(1, request.horizon + 1)]
        for step, value in enumerate(request.future[: request.horizon - 1]):  # of one column
            mean[step + 1] += 1000 * int(value)
        paths = request.paths or 2
        return session_pb2.ForecastResponse(
            position=session.position,
            levels=levels,
            quantiles=[each + 100 * level for each in mean for level in levels],
            mean=mean,
            paths=[each + path for path in range(paths) for each in mean]
            if request.include_paths
            else [],
        )

    # Stream

    def Stream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self._begin("Stream", None, context)
        start = next(requests).start
        if start.model not in WIDTHS:
            abort(context, Refusal("MODEL_UNKNOWN"))
        yield session_pb2.StreamResponse(
            started=session_pb2.StreamStarted(model=start.model, model_version=3)
        )
        channels: dict[int, tuple[str, int]] = {}  # session and branch
        held: list[Any] = []
        for request in requests:
            kind = request.WhichOneof("message")
            if kind == "attach":
                yield from self._attach(request.attach, start.model, channels, context)
            elif kind == "detach":
                for channel in request.detach.channels:
                    session_id, _ = channels.pop(channel)
                    if request.detach.close:
                        self._close(session_id)
                detached = session_pb2.StreamDetached(channels=request.detach.channels)
                yield session_pb2.StreamResponse(detached=detached)
            elif kind == "reset":
                if self.kill_before_resets:
                    self.kill_before_resets -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                answer = self._reset(request.reset, channels)
                if self.kill_after_resets:
                    self.kill_after_resets -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                yield session_pb2.StreamResponse(reset=answer)
            else:
                if self.frames in self.kill_before_frames:
                    self.kill_before_frames.discard(self.frames)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                self.frames += 1
                replies = list(self._frame(request.frame, start, channels))
                if self.frames in self.crash_after_frames:
                    self.crash(self.crash_after_frames.pop(self.frames))
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                if self.frames in self.kill_after_frames:
                    self.kill_after_frames.discard(self.frames)
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                if self.silent:
                    self.release.wait(10)
                    return
                if self.frames - 1 in self.break_within:
                    yield replies[0]
                    context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
                if self.frames - 1 in self.stall_within:
                    yield replies[0]
                    self.release.wait(10)
                    return
                if self.frames - 1 in self.hold_frames:
                    held = replies
                    continue
                yield from [*replies, *held]
                held = []

    def _attach(
        self, attach: Any, model: str, channels: dict[int, tuple[str, int]], context: Any
    ) -> Iterator[Any]:
        answer = session_pb2.StreamAttached()
        branches = attach.branches or [0] * len(attach.channels)
        self.requests.append(attach)
        with self.lock:
            for session_id, channel, branch in zip(
                attach.session_ids, attach.channels, branches, strict=True
            ):
                reason = ""
                if attach.open:
                    if session_id in self.sessions:
                        reason = "SESSION_EXISTS"
                    else:
                        self.sessions[session_id] = FakeSession(model)
                elif session_id not in self.sessions:
                    reason = "SESSION_CLOSED" if session_id in self.closed else "SESSION_UNKNOWN"
                if reason:
                    answer.errors.append(self._row(channel, Refusal(reason)))
                    continue
                session = self.sessions[session_id]
                try:
                    session.check_branch(branch)
                except Refusal as refusal:
                    answer.errors.append(self._row(channel, refusal))
                    continue
                channels[channel] = session_id, session.branch
                answer.channels.append(channel)
                answer.positions.append(session.position)
                if self.knows_branches:
                    answer.branches.append(session.branch)
        if "attach" in self.faults:
            del self.faults["attach"]
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to break")
        if not self.split:
            yield session_pb2.StreamResponse(attached=answer)
            return
        size = self.split
        for at in range(0, len(answer.channels), size):
            part = session_pb2.StreamAttached(
                channels=answer.channels[at : at + size],
                positions=answer.positions[at : at + size],
                branches=answer.branches[at : at + size],
            )
            yield session_pb2.StreamResponse(attached=part)
        if answer.errors:
            part = session_pb2.StreamAttached(errors=answer.errors)
            yield session_pb2.StreamResponse(attached=part)

    def _reset(self, reset: Any, channels: dict[int, tuple[str, int]]) -> Any:
        answer = session_pb2.StreamResetReply()
        with self.lock:
            for channel in reset.channels:
                session_id, branch = channels[channel]
                try:
                    if session_id not in self.sessions:
                        raise Refusal("SESSION_CLOSED")
                    session = self.sessions[session_id]
                    session.check_branch(branch)
                except Refusal as refusal:
                    answer.errors.append(self._row(channel, refusal))
                    continue
                session.reset()
                channels[channel] = session_id, session.branch
                answer.channels.append(channel)
                answer.branches.append(session.branch)
        return answer

    def _frame(self, frame: Any, start: Any, channels: dict[int, tuple[str, int]]) -> Iterator[Any]:
        assert len(set(frame.channels)) == len(frame.channels), "a channel appears twice"
        values = self._values(frame.inputs, start.model)
        steps = list(frame.steps) or [1] * len(frame.channels)
        rows = []
        for channel, count, position in zip(frame.channels, steps, frame.positions, strict=True):
            mine, values = values[:count], values[count:]
            try:
                session_id, branch = channels[channel]
                session = self.sessions.get(session_id)
                if session is None:
                    raise Refusal("SESSION_CLOSED")
                session.check_branch(branch)
                rows.append((channel, self.step(session, mine, position, start.outputs)))
            except Refusal as refusal:
                rows.append((channel, refusal))
        assert not values
        size = self.split or len(rows)
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        self.groups += 1  # frames of single steps: so many groups back is so many steps back
        for part in reversed(parts) if self.split else parts:
            reply = session_pb2.StreamReply(frame=frame.number)
            if self.undurable_steps is not None:
                reply.group = self.groups
                reply.durable_group = max(self.groups - self.undurable_steps, 0)
            for channel, answer in part:
                if isinstance(answer, Refusal):
                    reply.errors.append(self._row(channel, answer))
                    continue
                reply.channels.append(channel)
                reply.positions.append(answer.position)
                if start.outputs.every_step:
                    reply.counts.append(len(answer.predictions.raw))
                reply.predictions.MergeFrom(answer.predictions)
                if answer.replayed:
                    reply.replayed.append(channel)
            yield session_pb2.StreamResponse(reply=reply)

    # The model

    def step(
        self,
        session: FakeSession,
        values: list[int],
        position: int | None,
        outputs: Any,
        commit: bool = True,
    ) -> Any:
        """Applies steps exactly once."""
        with self.lock:
            content = repr((values, outputs)).encode()
            if position is not None and position != session.position:
                if position != session.before or not commit:
                    raise Refusal("POSITION_MISMATCH", {"position": str(session.position)})
                if content != session.request:
                    raise Refusal("STEP_CONFLICT", {"position": str(session.position)})
                replay = session_pb2.StepResponse()
                replay.CopyFrom(session.reply)
                replay.replayed = True
                return replay
            if 13 in values:
                row = str(values.index(13))
                raise Refusal("BAD_INPUT", {"field": "inputs", "row": row})
            state, states = session.state, []
            for offset, value in enumerate(values):
                state = advance(state, session.position + offset, value)
                states.append(state)
            predictions = self._predict(states if outputs.every_step else states[-1:], outputs)
            after = session.position + (len(values) if commit else 0)
            reply = session_pb2.StepResponse(position=after, predictions=predictions)
            if commit:
                session.before, session.request, session.reply = session.position, content, reply
                session.position, session.state = after, state
                session.read += values
            return reply

    def _predict(self, states: list[int], outputs: Any) -> Any:
        message = values_pb2.Predictions()
        for state in states:
            message.raw.append(state)
            message.argmax.append(state % 10)
            top = [(state + rank) % 10 for rank in range(outputs.top_k)]
            message.top_tokens.extend(top)
            message.top_probabilities.extend(1 / (rank + 2) for rank in range(outputs.top_k))
            message.quantiles.extend(state + 100 * level for level in outputs.quantiles)
            if outputs.probabilities:
                message.probabilities.extend([0.1] * 10)
            if outputs.HasField("sample"):
                message.sampled_tokens.append((state + outputs.sample.seed) % 10)
        return message

    def _values(self, inputs: Any, model: str) -> list[int]:
        kind = inputs.WhichOneof("kind")
        if kind == "text":
            return [VOCABULARY.index(each) if each in VOCABULARY else 13 for each in inputs.text]
        if kind == "tokens":
            return list(inputs.tokens.ids)
        data = [int(each) for each in inputs.values.data]
        width = WIDTHS[model]
        return [sum(data[at : at + width]) for at in range(0, len(data), width)]

    # Plumbing

    def _begin(self, method: str, request: Any, context: Any) -> Any:
        """Counts the call and fails it if told to; returns what to do once it is applied."""
        with self.lock:
            self.calls[method] += 1
            self.requests.append(request)
            self.metadata = dict(context.invocation_metadata())
            if self.tokens is not None:
                shown = self.metadata.get("authorization", "")
                if shown.removeprefix("Bearer ") not in self.tokens:
                    abort(context, Refusal("UNAUTHENTICATED"))
            fault = self.faults.get(method)
            if fault is None or not fault.count:
                return lambda: None
            fault.count -= 1
        if fault.delay_s:
            self.release.wait(fault.delay_s)
        if fault.before is not None:
            abort(context, fault.before)
        if fault.bare is not None:
            context.abort(fault.bare, "told to fail without details")
        if fault.unavailable:
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to be unavailable")

        def after() -> None:
            if fault.after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "told to lose the reply")

        return after

    def _find(self, request: Any, context: Any, *, or_left: bool = False) -> FakeSession:
        session = self.sessions.get(request.session_id)
        if session is None:
            is_closed = request.session_id in self.closed
            abort(context, Refusal("SESSION_CLOSED" if is_closed else "SESSION_UNKNOWN"))
        assert session is not None
        try:
            session.check_branch(request.branch, or_left=or_left)
        except Refusal as refusal:
            abort(context, refusal)
        return session

    def _close(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)
        self.closed.add(session_id)

    def _describe(self, session_id: str) -> Any:
        session = self.sessions[session_id]
        described = session_pb2.Session(
            id=session_id,
            model=session.model,
            model_version=session.version,
            status=session_pb2.SESSION_STATUS_OPEN,
            position=session.position,
            branch=session.branch if self.knows_branches else 0,
            idle_timeout=Duration(seconds=60),
        )
        described.open_time.FromSeconds(1_700_000_000)
        return described

    def _row(self, channel: int, refusal: Refusal) -> Any:
        row = session_pb2.RowError(
            channel=channel,
            code=CODES[refusal.reason].value[0],
            reason=refusal.reason,
            message=f"told to say {refusal.reason}",
        )
        if refusal.retry_after_s is not None:
            row.retry_delay.FromNanoseconds(int(refusal.retry_after_s * 1e9))
        if "position" in refusal.metadata:
            row.position = int(refusal.metadata["position"])
        if "branch" in refusal.metadata:
            row.branch = int(refusal.metadata["branch"])
        if "kept_position" in refusal.metadata:
            row.kept_position = int(refusal.metadata["kept_position"])
        return row
