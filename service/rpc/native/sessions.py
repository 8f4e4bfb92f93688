"""SessionService: decode, call the engine, encode."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc
from service.engine.calls.copies.fork import fork
from service.engine.calls.forecast import forecast
from service.engine.calls.generate import Piece, generate
from service.engine.calls.moves import call_off, export_to_move, release
from service.engine.calls.snapshots.exporting import export, import_session
from service.engine.calls.upgrades.upgrade import upgrade
from service.engine.engine import Engine
from service.engine.listing import Wanted
from service.engine.served.outputs import DEFAULT_LEVELS
from service.errors import DrainingError
from service.rpc.call_log import CallLog
from service.rpc.calls import Calls
from service.rpc.gate import lasting
from service.rpc.native import decode, encode
from service.rpc.native.streams import StreamCall


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Sessions over gRPC. Errors leave as exceptions; `Calls` gives them their status."""

    def __init__(self, engine: Engine, log: CallLog, receive_timeout_s: float) -> None:
        self._receive_timeout_s = receive_timeout_s
        self._engine = engine
        self._log = log
        self._streams: set[StreamCall] = set()

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> Any:
        self._engine.check_ready()
        served = self._engine.registry.find(request.model, request.model_version)
        served.require_streamable()
        session = self._engine.open(
            served,
            request.session_id,
            idle_timeout_s=decode.seconds(request, "idle_timeout"),
            ephemeral=request.ephemeral,
            initial=decode.initial_state(request, served.manifest),
            history_steps=decode.optional(request, "history_steps"),
        )
        info = self._engine.directory.describe(session.id)
        await self._engine.settled(session)
        return pb.OpenSessionResponse(session=encode.session(info))

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> Any:
        self._check_loaded()
        info = await self._engine.describe(
            request.session_id,
            settle=request.settle,
            branch=request.branch,
            owner=decode.optional(request, "owner"),
        )
        return pb.GetSessionResponse(session=encode.session(info))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> Any:
        self._check_loaded()
        wanted = Wanted(
            model=request.model,
            version=request.model_version,
            idle_for_s=decode.seconds(request, "idle_for"),
            page_size=request.page_size,
            owner=decode.optional(request, "owner"),
        )
        page = await self._engine.listing.page(wanted, request.page_token)
        return pb.ListSessionsResponse(
            sessions=map(encode.session, page.sessions), next_page_token=page.next
        )

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> Any:
        self._check_loaded()
        position = await self._engine.close(
            request.session_id, branch=request.branch, owner=decode.optional(request, "owner")
        )
        return pb.CloseSessionResponse(position=position)

    async def ResetSession(self, request: pb.ResetSessionRequest, context: Any) -> Any:
        info = await self._engine.reset(request.session_id, branch=request.branch)
        return pb.ResetSessionResponse(session=encode.session(info))

    async def RewindSession(self, request: pb.RewindSessionRequest, context: Any) -> Any:
        info = await self._engine.rewind(
            request.session_id,
            request.position,
            branch=request.branch,
            generated=request.generated,
        )
        return pb.RewindSessionResponse(session=encode.session(info))

    async def UpgradeSession(self, request: pb.UpgradeSessionRequest, context: Any) -> Any:
        info = await upgrade(
            self._engine, request.session_id, request.model_version, branch=request.branch
        )
        return pb.UpgradeSessionResponse(session=encode.session(info))

    async def Step(self, request: pb.StepRequest, context: Any) -> Any:
        session = self._engine.session(request.session_id)
        served = session.served
        outputs, sampling = decode.outputs(request.outputs)
        position = decode.position(request)
        step = decode.one_step(request.inputs, served.reader)
        if step is not None and (request.commit or not request.HasField("commit")):
            call = self._engine.step_once(
                session, step, outputs, sampling, position, request.branch
            )
        else:
            call = self._engine.step(
                session,
                decode.inputs(request.inputs, served.reader, self._engine.settings),
                outputs=outputs,
                sampling=sampling,
                position=position,
                branch=request.branch,
                commit=request.commit if request.HasField("commit") else True,
            )
        result = await call
        # Tokens come back as they were sent.
        names = served.names if request.inputs.HasField("text") else served.labels
        return pb.StepResponse(
            position=result.position,
            predictions=encode.predictions(result.answers, outputs, names),
            replayed=result.replayed,
            branch=call.branch,
            durable_position=self._engine.durable_position(
                session, position=result.position, branch=call.branch
            ),
        )

    async def Stream(self, requests: Any, context: Any) -> None:
        call = StreamCall(
            self._engine, context, self._log, receive_timeout_s=self._receive_timeout_s
        )
        self._streams.add(call)
        try:
            await call.serve()
        finally:
            self._streams.discard(call)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        session, prompt = self._engine.session(request.session_id), None
        call = lasting.get()
        if call is not None:
            call.model = session.served.name
        branch = session.shard.on_branch(session.slot, request.branch)
        if request.HasField("prompt") and request.prompt.WhichOneof("kind") is not None:
            prompt = decode.inputs(request.prompt, session.served.reader, self._engine.settings)
        pieces: AsyncGenerator[Piece, None] = generate(
            self._engine,
            request.session_id,
            prompt=prompt,
            max_steps=request.max_steps,
            sampling=decode.sampling(request.sampling),
            stop=request.stop,
            position=decode.position(request),
            branch=branch,
        )
        async with aclosing(pieces):  # a call that is cancelled ends its generation at once
            async for piece in pieces:
                durable = self._engine.durable_position(
                    session, position=piece.position, branch=branch
                )
                await context.write(encode.piece(piece, durable))

    async def Forecast(self, request: pb.ForecastRequest, context: Any) -> Any:
        result = await forecast(
            self._engine,
            request.session_id,
            horizon=request.horizon,
            paths=request.paths,
            levels=decode.levels("quantiles", request.quantiles) or DEFAULT_LEVELS,
            seed=request.seed,
            include_paths=request.include_paths,
            branch=request.branch,
            future=decode.future(request.future) if request.future else None,
        )
        return encode.forecast(result, include_paths=request.include_paths)

    async def ExportSession(self, request: pb.ExportSessionRequest, context: Any) -> Any:
        if request.move_to:
            exported, receipt = await export_to_move(
                self._engine, request.session_id, request.move_to, branch=request.branch
            )
            return pb.ExportSessionResponse(
                snapshot=exported.data, session=encode.session(exported.info), receipt=receipt
            )
        exported = await export(self._engine, request.session_id, branch=request.branch)
        return pb.ExportSessionResponse(
            snapshot=exported.data, session=encode.session(exported.info)
        )

    async def ImportSession(self, request: pb.ImportSessionRequest, context: Any) -> Any:
        info = await import_session(
            self._engine,
            request.snapshot,
            request.session_id,
            idle_timeout_s=decode.seconds(request, "idle_timeout"),
            receipt=request.receipt,
        )
        return pb.ImportSessionResponse(session=encode.session(info))

    async def ReleaseSession(self, request: pb.ReleaseSessionRequest, context: Any) -> Any:
        if request.cancel:
            await call_off(self._engine, request.session_id)
            return pb.ReleaseSessionResponse()
        receipt = await release(self._engine, request.session_id)
        return pb.ReleaseSessionResponse(receipt=receipt)

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Any) -> Any:
        info = await fork(
            self._engine,
            request.session_id,
            request.new_session_id,
            branch=request.branch,
            position=decode.position(request),
            model=request.model,
            version=request.model_version,
            idle_timeout_s=decode.seconds(request, "idle_timeout"),
            ephemeral=request.ephemeral,
            history_steps=decode.optional(request, "history_steps"),
        )
        return pb.ForkSessionResponse(session=encode.session(info))

    def _check_loaded(self) -> None:
        """A session that is not found may be one of a server that has not loaded its models."""
        if self._engine.loading:
            self._engine.check_ready()

    def end_streams(self) -> None:
        """Let every open stream finish its queued steps and end."""
        for call in self._streams:
            call.drain()

    def cut_calls(self) -> None:
        """End what still runs, with what the device has been given."""
        self._engine.end_generations(DrainingError("the server is shutting down"))
        for call in self._streams:
            call.cut()


def add_to(calls: Calls, engine: Engine) -> SessionServicer:
    """Register the service."""
    servicer = SessionServicer(engine, calls.log, calls.receive_timeout_s)
    session_pb2_grpc.add_SessionServiceServicer_to_server(servicer, calls)
    return servicer
