"""Bytes of requests, made once: what changes from one message to the next is written in place."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
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


_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Papers:
    """What a caller shows; nothing of it where nothing is asked for.

    Attributes:
        authority: a PEM file of the server's authority: TLS.
        certificate, key: PEM files of his own.
        token: of a principal.
    """

    authority: str = ""
    certificate: str = ""
    key: str = ""
    token: str = field(default="", repr=False)


class Wire:
    """A connection of its own, that takes large answers; a token goes along with every call.

    Args:
        address: of the server.
        papers: see `Papers`.
    """

    def __init__(self, address: str, papers: Papers | None = None) -> None:
        papers = papers or Papers()
        self._metadata = None
        if papers.token:
            self._metadata = (("authorization", f"Bearer {papers.token}"),)
        if not papers.authority:
            self._channel = grpc.aio.insecure_channel(address, _OPTIONS)
            return
        credentials = grpc.ssl_channel_credentials(
            Path(papers.authority).read_bytes(),
            Path(papers.key).read_bytes() if papers.key else None,
            Path(papers.certificate).read_bytes() if papers.certificate else None,
        )
        self._channel = grpc.aio.secure_channel(address, credentials, _OPTIONS)

    def unary_unary(self, method: str) -> Any:
        """As a channel's; what is made of it takes bytes alone."""
        return self._with_token(self._channel.unary_unary(method))

    def unary_stream(self, method: str) -> Any:
        """See `unary_unary`."""
        return self._with_token(self._channel.unary_stream(method))

    def stream_stream(self, method: str) -> Any:
        """See `unary_unary`."""
        return self._with_token(self._channel.stream_stream(method))

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    def _with_token(self, call: Any) -> Any:
        return call if self._metadata is None else partial(call, metadata=self._metadata)


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
    "Papers",
    "StepBytes",
    "Wire",
    "stream_attach",
    "stream_start",
]
