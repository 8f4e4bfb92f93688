"""Callers of Triton: one ``ModelStreamInfer`` stream per sequence, raw bytes, one step a message.

Runs in the environment of Triton's client, whose stubs of the protocol it takes; of this project
it imports what needs the standard library only.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import uvloop
from tritonclient.grpc import service_pb2 as pb  # type: ignore[import-not-found]

from benchmarks.load.lane import drive
from benchmarks.pipe import Reply, answer
from benchmarks.triton.traffic import SEQUENCE_STEPS, VOCABULARY

SERVICE = "/inference.GRPCInferenceService/"


class SequenceLane:
    """A stream with one sequence after the other."""

    steps = 1

    def __init__(self, channel: Any, model: str, fresh_ids: Iterator[int]) -> None:
        self._call = channel.stream_stream(SERVICE + "ModelStreamInfer")()
        self._model = model
        self._fresh_ids = fresh_ids
        self._requests: Iterator[bytes] = iter(())
        self._reply_bytes = 0
        self._last = b""

    async def exchange(self) -> None:
        """One step; the first of a new sequence when the last is over."""
        request = next(self._requests, None)
        if request is None:
            self._requests = iter(_sequence(self._model, next(self._fresh_ids)))
            request = next(self._requests)
            self._reply_bytes = 0
        await self._call.write(request)
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise RuntimeError(f"the stream ended: {await self._call.details()}")
        self._last = reply
        if len(reply) != self._reply_bytes:  # the first of a sequence, or an error
            await self.check()
            self._reply_bytes = len(reply)

    async def check(self) -> None:
        """The last answer holds one token, and no error."""
        response = pb.ModelStreamInferResponse.FromString(self._last)
        if response.error_message:
            raise RuntimeError(response.error_message)
        (content,) = response.infer_response.raw_output_contents
        if len(content) != 8:
            raise RuntimeError(f"an answer of {len(content)} bytes where 8 were expected")


def _sequence(model: str, number: int) -> list[bytes]:
    """The messages of one sequence, as many objects as there are different ones."""
    first, middle, last = (
        _request(model, number, start=start, end=end)
        for start, end in ((True, False), (False, False), (False, True))
    )
    return [first, *itertools.repeat(middle, SEQUENCE_STEPS - 2), last]


def _request(model: str, number: int, *, start: bool, end: bool) -> bytes:
    token = number % VOCABULARY
    tensor = pb.ModelInferRequest.InferInputTensor(name="tokens", datatype="INT64", shape=[1, 1])
    request = pb.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[token.to_bytes(8, "little")]
    )
    request.parameters["sequence_id"].int64_param = number
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    content: bytes = request.SerializeToString()
    return content


class Cases:
    """Callers by the name of their case: ``ready``, ``sequences`` to prepare one, and ``run``."""

    def __init__(self) -> None:
        self._lanes: dict[str, list[SequenceLane]] = {}
        self._fresh_ids = itertools.count(1)  # Triton 2.44 can crash on one that is used again

    async def ready(self, address: str) -> Reply:
        """Whether every model can be called."""
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            call: Any = channel.unary_unary(SERVICE + "ServerReady")
            try:
                reply = await call(b"")
            except grpc.aio.AioRpcError:
                return {"ready": False}
        return {"ready": pb.ServerReadyResponse.FromString(reply).ready}

    async def sequences(self, case: str, address: str, model: str, sequences: int) -> Reply:
        """So many at once."""
        channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        lanes = [SequenceLane(channel, model, self._fresh_ids) for _ in range(sequences)]
        for lane in lanes:
            await lane.exchange()
        self._lanes[case] = lanes
        return {}

    async def run(self, case: str, seconds: float) -> Reply:
        """One round."""
        return await drive(self._lanes[case], seconds=seconds)


_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


if __name__ == "__main__":
    _cases = Cases()
    _commands = (_cases.ready, _cases.sequences, _cases.run)
    uvloop.run(answer({command.__name__: command for command in _commands}))
