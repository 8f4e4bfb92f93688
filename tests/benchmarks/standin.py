"""A server in a few lines, with a journal in memory that outlives it, and faults to be found."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from benchmarks.chaos.oracle.alone import Alone, Past
from benchmarks.chaos.oracle.history import Floats
from benchmarks.chaos.run import PRICES, TEXT, ZOO
from cellar.v1 import session_pb2, session_pb2_grpc, values_pb2
from models.compile.arena import compile_model
from models.manifest import TokensInput
from models.repository import ModelRepository
from service.engine.execution.cpu.runner import CpuRunner

pb: Any = session_pb2  # some of its fields may be newer than this tree
_SLOTS = 4096
_INTERVAL_S = 0.1


class RefusedError(Exception):
    def __init__(self, reason: str, session: Session | None = None) -> None:
        super().__init__(reason)
        self.reason, self.session = reason, session


@dataclass
class Session:
    id: str
    model: str
    slot: int
    branch: int
    position: int = 0
    last: tuple[int, bytes] | None = None  # the latest request: its position and its inputs
    rows: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))  # its predictions


Entry = tuple[Any, ...]


class Model:
    """Steps of one model, one row after another."""

    def __init__(self, name: str) -> None:
        model = ModelRepository(ZOO).load(name)
        self.tokens = isinstance(model.manifest.input, TokensInput)
        self.runner = CpuRunner(compile_model(model), slots=_SLOTS + 1, max_batch=1)
        self.alone = Alone(model, rows=64)

    def step(self, slot: int, inputs: Floats, *, fresh: bool) -> Floats:
        found: list[Floats] = []
        for each in inputs:
            column = np.array([[int(each)]]) if self.tokens else np.array([[[each]]], np.float32)
            rows = self.runner.step(
                read=np.array([slot]),
                write=np.array([slot]),
                fresh=np.array([fresh and not found]),
                inputs=column,
                lengths=np.ones(1, np.int64),
                every_step=False,
            )
            found.append(rows[0].copy())
        return np.array(found)


class StandIn(session_pb2_grpc.SessionServiceServicer):
    """Sessions whose truth is a journal, as a server keeps them; see `benchmarks.chaos`.

    Args:
        fault: one of those in `FAULTS`, or empty.
        loses_tails: the journal is written at intervals, and a crash takes what came since.
    """

    def __init__(self, fault: str = "", *, loses_tails: bool = False) -> None:
        self.port = 0
        self.deaths: list[str] = []
        self._fault, self._chance = fault, random.Random(3)
        self._loses_tails = loses_tails or fault == "reply before its group"
        self._models = {name: Model(name) for name in (TEXT, PRICES)}
        self._journal: list[Entry] = []
        self._durable = 0
        self._sessions: dict[str, Session] = {}
        self._free: list[int] = []
        self._server: Any = None
        self._syncing: asyncio.Task[None] | None = None

    # -- its life -------------------------------------------------------------------------

    async def start(self) -> None:
        self._sessions, self._free = {}, list(range(_SLOTS))
        for entry in self._journal:
            self._apply(entry)
        self._server = grpc.aio.server()
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        self._syncing = asyncio.create_task(self._sync())

    async def kill(self) -> None:
        await self._end()
        if self._loses_tails:
            lost = self._journal[self._durable :]
            events = [entry for entry in lost if entry[0] != "step"]  # they are waited for
            self._journal = self._journal[: self._durable] + events
            if self._fault != "reply before its group":
                self._journal += [
                    ("branch", each.id, self._chance.getrandbits(62) + 1)
                    for each in self._sessions.values()
                ]
        if self._fault == "lost group":
            steps = [at for at, entry in enumerate(self._journal) if entry[0] == "step"]
            for at in reversed(steps[-50:]):
                del self._journal[at]
        if self._fault == "doubled step":
            self._journal += [each for each in self._journal[-50:] if each[0] == "step"]
        if self._fault == "flipped bit":
            for at, entry in enumerate(self._journal):
                if entry[0] == "step" and at % 50 == 0:
                    flipped = np.frombuffer(entry[2], np.float32).copy()
                    flipped[0] = max(1.0, flipped[0] - 1)
                    self._journal[at] = ("step", entry[1], flipped.tobytes())

    async def terminate(self) -> None:
        self._durable = len(self._journal)
        await self._end()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def fill_disk(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def has_died(self) -> bool:
        return False

    async def close(self) -> None:
        await self._end()

    async def _end(self) -> None:
        assert self._syncing is not None
        self._syncing.cancel()
        await self._server.stop(0)

    async def _sync(self) -> None:
        while True:
            self._durable = len(self._journal)
            await asyncio.sleep(_INTERVAL_S)

    # -- what its sessions have read ------------------------------------------------------

    def _commit(self, *entry: Any) -> Any:
        self._journal.append(entry)
        return self._apply(entry)

    def _apply(self, entry: Entry) -> Any:
        kind, name = entry[:2]
        if kind == "open":
            slot = self._free.pop()
            opened = Session(id=name, model=entry[2], slot=slot, branch=entry[3])
            self._sessions[name] = opened
            return opened
        if name not in self._sessions:
            return None  # what a planted fault has left
        session = self._sessions[name]
        if kind == "close":
            self._free.append(self._sessions.pop(name).slot)
        elif kind == "branch":
            session.branch = entry[2]
        elif kind == "reset":
            session.branch, session.position, session.last = entry[2], 0, None
        else:
            inputs = np.frombuffer(entry[2], np.float32)
            fresh = session.position == 0
            session.rows = self._models[session.model].step(session.slot, inputs, fresh=fresh)
            session.last = (session.position, entry[2])
            session.position += len(inputs)
        return session

    def _find(self, name: str, branch: int = 0) -> Session:
        session = self._sessions.get(name)
        if session is None:
            raise RefusedError("SESSION_UNKNOWN")
        if branch not in (0, session.branch) and self._fault != "duplicate across a reset":
            raise RefusedError("STALE_BRANCH", session)
        return session

    def _step(self, session: Session, inputs: Floats, position: int) -> bool:
        """Returns whether it is a replay."""
        data = inputs.astype(np.float32).tobytes()
        if position == session.position:
            self._commit("step", session.id, data)
            return False
        if session.last == (position, data):
            return True
        raise RefusedError("POSITION_MISMATCH", session)

    # -- the wire -------------------------------------------------------------------------

    async def OpenSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.session_id in self._sessions:
            return await _refuse(context, RefusedError("SESSION_EXISTS"))
        name, model = request.session_id, request.model
        opened = self._commit("open", name, model, self._chance.getrandbits(62) + 1)
        return pb.OpenSessionResponse(session=_told(opened))

    async def GetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            session = self._find(request.session_id, request.branch)
        except RefusedError as error:
            return await _refuse(context, error)
        return pb.GetSessionResponse(session=_told(session))

    async def CloseSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            session = self._find(request.session_id, request.branch)
        except RefusedError as error:
            return await _refuse(context, error)
        self._commit("close", session.id)
        return pb.CloseSessionResponse(position=session.position)

    async def ResetSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            session = self._find(request.session_id, request.branch)
        except RefusedError as error:
            return await _refuse(context, error)
        self._commit("reset", session.id, self._chance.getrandbits(62) + 1)
        return pb.ResetSessionResponse(session=_told(session))

    async def Step(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            session = self._find(request.session_id, request.branch)
            replayed = self._step(session, _inputs(request.inputs), request.position)
        except RefusedError as error:
            return await _refuse(context, error)
        rows = session.rows if request.outputs.every_step else session.rows[-1:]
        predictions = values_pb2.Predictions(raw=rows.ravel().tolist())
        return pb.StepResponse(
            position=session.position, predictions=predictions, replayed=replayed
        )

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Draws as the oracle does: it is not what is tested here."""
        try:
            session = self._find(request.session_id, request.branch)
            self._step(session, _inputs(request.prompt), request.position)
        except RefusedError as error:
            await _refuse(context, error)
            return
        start, read = session.position, self._read(session)
        past = Past(
            inputs=np.concatenate([read, np.zeros(request.max_steps, np.float32)]),
            drawn=np.arange(start + request.max_steps) >= start,
            seeds=np.full(start + request.max_steps, request.sampling.seed, np.uint64),
        )
        (told,) = self._models[session.model].alone.run([past])
        for at in range(start, len(past), 8):
            some = told.inputs[at : at + 8]
            self._commit("step", session.id, some.tobytes())
            reason = pb.FINISH_REASON_LENGTH if at + 8 >= len(past) else 0
            yield pb.GenerateResponse(
                tokens=some.astype(int).tolist(), position=session.position, finish_reason=reason
            )

    def _read(self, session: Session) -> Floats:
        steps: list[Floats] = []
        for kind, name, *rest in self._journal:
            if name == session.id:
                steps = [] if kind in ("open", "reset") else steps
                if kind == "step":
                    steps.append(np.frombuffer(rest[0], np.float32))
        return np.concatenate(steps)

    async def Stream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        names: dict[int, tuple[str, int]] = {}
        every = False
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "start":
                every, model = request.start.outputs.every_step, request.start.model
                yield pb.StreamResponse(started=pb.StreamStarted(model=model))
            elif kind == "attach":
                yield pb.StreamResponse(attached=self._attach(request.attach, names, model))
            elif kind == "frame":
                yield pb.StreamResponse(reply=self._frame(request.frame, names, every))

    def _attach(self, attach: Any, names: dict[int, tuple[str, int]], model: str) -> Any:
        attached = pb.StreamAttached()
        for name, channel in zip(attach.session_ids, attach.channels, strict=True):
            exists = name in self._sessions
            if exists == attach.open:
                reason = "SESSION_EXISTS" if exists else "SESSION_UNKNOWN"
                attached.errors.add(channel=channel, reason=reason)
                continue
            if attach.open:
                self._commit("open", name, model, self._chance.getrandbits(62) + 1)
            session = self._sessions[name]
            names[channel] = (name, session.branch)
            attached.channels.append(channel)
            attached.positions.append(session.position)
            attached.branches.append(session.branch)
        return attached

    def _frame(self, frame: Any, names: dict[int, tuple[str, int]], every: bool) -> Any:
        reply, rows = pb.StreamReply(frame=frame.number), []
        inputs, at = _inputs(frame.inputs), 0
        counts = frame.steps or [1] * len(frame.channels)
        for channel, position, count in zip(frame.channels, frame.positions, counts, strict=True):
            steps, at = inputs[at : at + count], at + count
            try:
                session = self._find(*names[channel])
                if self._step(session, steps, position):
                    reply.replayed.append(channel)
            except RefusedError as error:
                where = None if error.session is None else error.session.position
                reply.errors.add(channel=channel, reason=error.reason, position=where)
                continue
            reply.channels.append(channel)
            reply.positions.append(session.position)
            found = session.rows if every else session.rows[-1:]
            reply.counts.append(len(found))
            rows.append(found)
        if self._fault == "rows exchanged" and self._chance.random() < 0.1:
            rows[:2] = rows[1::-1] if len({len(each) for each in rows[:2]}) == 1 else rows[:2]
        if rows:
            reply.predictions.raw.extend(np.concatenate(rows).ravel().tolist())
        return reply


FAULTS = {
    "lost group": "lost",
    "reply before its group": "lost",
    "doubled step": "doubled",
    "duplicate across a reset": "doubled",
    "rows exchanged": "different",
    "flipped bit": "different",
}
"""What is planted, and what it must be found to be."""


def _inputs(inputs: Any) -> Floats:
    return np.array(inputs.tokens.ids or inputs.values.data, np.float32)


def _told(session: Session) -> Any:
    return pb.Session(
        id=session.id, model=session.model, position=session.position, branch=session.branch
    )


async def _refuse(context: Any, error: RefusedError) -> Any:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="cellar")
    if error.session is not None:
        info.metadata["position"] = str(error.session.position)
        info.metadata["branch"] = str(error.session.branch)
    detail = any_pb2.Any()
    detail.Pack(info)
    details = status_pb2.Status(code=code_pb2.ABORTED, message=error.reason, details=[detail])
    await context.abort(
        grpc.StatusCode.ABORTED,
        error.reason,
        (("grpc-status-details-bin", details.SerializeToString()),),
    )
