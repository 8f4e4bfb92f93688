"""Bytes of requests, made once: what changes from one message to the next is written in place."""

from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from cellar.v1 import session_pb2, values_pb2

SERVICE = "/cellar.v1.SessionService/"
OUTPUTS = values_pb2.Outputs(argmax=True)
TOKENS = 26
"""Token ids sent are below this: every model measured has more."""


class FrameBytes:
    """A frame of so many sessions, one step each.

    ``channels`` (rows,) uint32, ``positions`` (rows,) uint64 and ``number`` (1,) uint64 are views
    of the message's bytes: all of them have a fixed width on the wire.
    """

    def __init__(self, rows: int, noise: np.random.Generator) -> None:
        # Marks of all bits random, to be found again in the message.
        channels = noise.integers(2**31, 2**32, size=rows, dtype=np.uint32)
        positions = noise.integers(2**63, 2**64, size=rows, dtype=np.uint64)
        number = noise.integers(2**63, 2**64, size=1, dtype=np.uint64)
        frame = session_pb2.StreamFrame(
            channels=channels.tolist(),
            positions=positions.tolist(),
            inputs=values_pb2.Inputs(
                tokens=values_pb2.Tokens(ids=noise.integers(TOKENS, size=rows).tolist())
            ),
            number=int(number[0]),
        )
        self._buffer = bytearray(session_pb2.StreamRequest(frame=frame).SerializeToString())
        self.channels = self._view(channels)
        self.positions = self._view(positions)
        self.number = self._view(number)

    def message(self) -> bytes:
        """The message as it stands."""
        return bytes(self._buffer)

    def _view(self, mark: NDArray[Any]) -> NDArray[Any]:
        offset = self._buffer.index(mark.tobytes())
        return np.frombuffer(self._buffer, mark.dtype, len(mark), offset)


class StepBytes:
    """A unary step of one session at a given position."""

    def __init__(self, session: str, tokens: list[int]) -> None:
        inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=tokens))
        whole = session_pb2.StepRequest(session_id=session, inputs=inputs)
        self._before = whole.SerializeToString()
        self._after = session_pb2.StepRequest(outputs=OUTPUTS).SerializeToString()
        assert session_pb2.StepRequest.DESCRIPTOR.fields_by_name["position"].number == 3
        self._before += b"\x18"  # field 3, a varint

    def message(self, position: int) -> bytes:
        """The request, as protobuf itself would write it."""
        return self._before + _varint(position) + self._after


def stream_start(model: str) -> bytes:
    """The first message of a stream."""
    start = session_pb2.StreamStart(model=model, outputs=OUTPUTS)
    return session_pb2.StreamRequest(start=start).SerializeToString()


def stream_attach(sessions: list[str], first_channel: int) -> bytes:
    """Opens sessions on consecutive channels."""
    channels = range(first_channel, first_channel + len(sessions))
    attach = session_pb2.StreamAttach(session_ids=sessions, channels=channels, open=True)
    return session_pb2.StreamRequest(attach=attach).SerializeToString()


def channel_to(address: str) -> grpc.aio.Channel:
    """A connection of its own, that takes large answers."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


__all__ = [
    "OUTPUTS",
    "SERVICE",
    "TOKENS",
    "FrameBytes",
    "StepBytes",
    "channel_to",
    "stream_attach",
    "stream_start",
]
