"""A load of which every call, row and step is known, for what the metrics make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from cellar.v1 import model_pb2, model_pb2_grpc, session_pb2, session_pb2_grpc, values_pb2
from service.rpc import status

TIMEOUT_S = 20
CAPACITY = 40
"""Sessions of a model that the server may have; nobody else has any while `Load.send` is used."""
ROOM = (f"--max-open-sessions={CAPACITY}", f"--max-sessions={CAPACITY // 2}")
"""How a server is told of it; half of them have a row on the device."""
NONE = "none"


class Load:
    """Sends calls, one after the other, and counts what came of each from where callers stand.

    Attributes:
        calls: that ended, by method and code.
        timed: those of which there is a latency, by method, model and class of the code.
        refusals: by reason and kind.
        steps: that were applied, by model.
        events: that happened to sessions.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.calls: Counter[tuple[str, ...]] = Counter()
        self.timed: Counter[tuple[str, ...]] = Counter()
        self.refusals: Counter[tuple[str, ...]] = Counter()
        self.steps: Counter[tuple[str, ...]] = Counter()
        self.events: Counter[tuple[str, ...]] = Counter()
        self.generated = 0
        self.replayed = 0
        self._channel = channel
        self._sessions: Any = session_pb2_grpc.SessionServiceStub(channel)
        self._models: Any = model_pb2_grpc.ModelServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    def send(self, rounds: int) -> None:
        """All kinds of calls, good and bad, so many times; nothing is left open."""
        for number in range(rounds):
            self._ask_for_models()
            self._step(f"one-{number}")
            self._forecast(f"prices-{number}")
            self._generate(f"two-{number}")
            for channels in self.stream(f"many-{number}"):
                assert channels
            self._open_too_many(f"full-{number}")
            self._unheard()

    def stream(self, name: str) -> Iterator[int]:
        """A stream with good and bad rows; yields the channels that it has at the time."""
        requests = _Requests()
        replies = self._sessions.Stream(iter(requests), timeout=TIMEOUT_S)
        requests.put(start=session_pb2.StreamStart(model="letters"))
        next(replies)
        ids = [f"{name}-{row}" for row in range(4)]
        requests.put(attach=session_pb2.StreamAttach(session_ids=ids, channels=range(4), open=True))
        assert len(next(replies).attached.channels) == 4
        self.events["opened",] += 4
        requests.put(attach=session_pb2.StreamAttach(session_ids=["nobody"], channels=[9]))
        assert len(next(replies).attached.errors) == 1
        self.refusals["SESSION_UNKNOWN", "row"] += 1
        yield 4
        for _ in range(10):
            self._frame(requests, replies, "abca", good=4)
        # Two that are not attached, one that cannot be read, one at a wrong position.
        self._frame(requests, replies, "aaaa", channels=[0, 1, 7, 8], good=2)
        self._frame(requests, replies, [0, 1, 10_000, 2], good=3)
        self.refusals["BAD_INPUT", "row"] += 3
        self._frame(requests, replies, "aaaa", positions=[12, 12, 10, 77], good=3)
        self.refusals["POSITION_MISMATCH", "row"] += 1
        requests.put(detach=session_pb2.StreamDetach(channels=[0], close=True))
        assert list(next(replies).detached.channels) == [0]
        self.events["closed",] += 1
        yield 3
        requests.put(detach=session_pb2.StreamDetach(channels=[1, 2, 3], close=True))
        next(replies)
        self.events["closed",] += 3
        requests.end()
        assert list(replies) == []
        self.calls["Stream", "OK"] += 1

    def _frame(
        self, requests: _Requests, replies: Any, inputs: Any, *, good: int, **c: Any
    ) -> None:
        steps = (
            values_pb2.Inputs(text=inputs)
            if isinstance(inputs, str)
            else values_pb2.Inputs(tokens=values_pb2.Tokens(ids=inputs))
        )
        columns = {"channels": [0, 1, 2, 3], **c}
        requests.put(frame=session_pb2.StreamFrame(inputs=steps, number=1, **columns))
        rows = 0
        while rows < len(columns["channels"]):
            reply = next(replies).reply
            rows += len(reply.channels) + len(reply.errors)
        self.steps["letters/1",] += good

    def _ask_for_models(self) -> None:
        self._call(self._models.ListModels, model_pb2.ListModelsRequest())
        self._call(self._models.GetModel, model_pb2.GetModelRequest(name="letters"), "letters/1")
        self._call(
            self._models.GetModel, model_pb2.GetModelRequest(name="x" * 99), bad="MODEL_UNKNOWN"
        )
        inputs = values_pb2.Inputs(text="abcab")
        asked = model_pb2.PredictRequest(model="letters", inputs=inputs, steps=[2, 3])
        self._call(self._models.Predict, asked, "letters/1")
        self.steps["letters/1",] += 5
        self._call(self._health.Check, health_pb2.HealthCheckRequest())

    def _open(self, name: str, model: str) -> None:
        asked = session_pb2.OpenSessionRequest(session_id=name, model=model)
        self._call(self._sessions.OpenSession, asked, f"{model}/1")
        self.events["opened",] += 1

    def _close(self, name: str, model: str) -> None:
        asked = session_pb2.CloseSessionRequest(session_id=name)
        self._call(self._sessions.CloseSession, asked, f"{model}/1")
        self.events["closed",] += 1

    def _step(self, name: str) -> None:
        def step(text: str, **more: Any) -> Any:
            inputs = values_pb2.Inputs(text=text)
            return session_pb2.StepRequest(**{"session_id": name, "inputs": inputs, **more})

        own, call = "letters/1", self._sessions.Step
        self._open(name, "letters")
        again = session_pb2.OpenSessionRequest(session_id=name, model="letters")
        self._call(self._sessions.OpenSession, again, own, bad="SESSION_EXISTS")
        for _ in range(20):
            self._call(call, step("a"), own)
        self._call(call, step("abcabca"), own)
        self._call(call, step("ab", commit=False), own)
        self._call(call, step("a", position=27), own)
        self.steps[own,] += 28
        self._call(call, step("a", position=27), own)
        self.replayed += 1
        self._call(call, step("b", position=27), own, bad="STEP_CONFLICT")
        self._call(call, step("a", position=5), own, bad="POSITION_MISMATCH")
        for _ in range(3):
            self._call(call, step("É"), own, bad="BAD_INPUT")
        self._call(call, step("a", session_id="nobody"), bad="SESSION_UNKNOWN")
        self._call(self._sessions.GetSession, session_pb2.GetSessionRequest(session_id=name), own)
        self._call(
            self._sessions.ResetSession, session_pb2.ResetSessionRequest(session_id=name), own
        )
        self._close(name, "letters")
        self._call(call, step("a"), bad="SESSION_CLOSED")

    def _forecast(self, name: str) -> None:
        own = "prices/1"
        self._open(name, "prices")
        asked = session_pb2.ForecastRequest(session_id=name, horizon=5, paths=10)
        self._call(self._sessions.Forecast, asked, own, bad="NOT_STARTED")
        inputs = values_pb2.Inputs(values=values_pb2.Values(data=[100.0, 101.0, 102.0]))
        steps = session_pb2.StepRequest(session_id=name, inputs=inputs)
        self._call(self._sessions.Step, steps, own)
        self._call(self._sessions.Forecast, asked, own)
        self.steps[own,] += 3 + 4 * 10  # the last draw is not read
        self._close(name, "prices")

    def _generate(self, name: str) -> None:
        own = "letters/1"
        self._open(name, "letters")
        asked = session_pb2.GenerateRequest(
            session_id=name, prompt=values_pb2.Inputs(text="abc"), max_steps=12
        )
        pieces = self._call(self._sessions.Generate, asked, own, reads=list)
        assert sum(len(piece.text) for piece in pieces) == 12
        self.generated += 12
        self.steps[own,] += 3 + 12
        self._close(name, "letters")

    def _open_too_many(self, name: str) -> None:
        names = [f"{name}-{row}" for row in range(CAPACITY)]
        for each in names:
            self._open(each, "prices")
        more = session_pb2.OpenSessionRequest(model="prices")
        self._call(self._sessions.OpenSession, more, "prices/1", bad="SESSION_LIMIT")
        inputs = values_pb2.Inputs(values=values_pb2.Values(data=[100.0]))
        for each in (*names, *names):  # in turn, so that who comes has been out for longest
            step = session_pb2.StepRequest(session_id=each, inputs=inputs)
            self._call(self._sessions.Step, step, "prices/1")
            self.steps["prices/1",] += 1
        for each in names:
            self._close(each, "prices")

    def _unheard(self) -> None:
        for method in ("/cellar.v1.SessionService/Guess", "/no.Such/Thing"):
            call: Any = self._channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=TIMEOUT_S)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            self.calls["unknown", "UNIMPLEMENTED"] += 1

    def _call(
        self,
        call: Any,
        request: Any,
        model: str = NONE,
        *,
        bad: str | None = None,
        reads: Callable[[Any], Any] = lambda reply: reply,
    ) -> Any:
        """Make one call, and count it under what it came to."""
        method = call._method.decode().rpartition("/")[2]
        reply, code = None, grpc.StatusCode.OK
        if bad is None:
            reply = reads(call(request, timeout=TIMEOUT_S))
        else:
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=TIMEOUT_S)
            code = caught.value.code()
            assert _reason(caught.value) == bad, caught.value.details()
            self.refusals[bad, "call"] += 1
        self.calls[method, code.name] += 1
        self.timed[method, model, status.class_of(code)] += 1
        return reply


def _reason(error: Any) -> str:
    """The reason in an error's details."""
    info = ErrorInfo()
    found: Any = rpc_status.from_call(error)
    assert found.details[0].Unpack(info)
    return str(info.reason)


class _Requests:
    """What a stream sends, as it comes."""

    def __init__(self) -> None:

        self._queue: SimpleQueue[Any] = SimpleQueue()

    def put(self, **message: Any) -> None:
        self._queue.put(session_pb2.StreamRequest(**message))

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)
