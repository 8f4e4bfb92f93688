"""Frames that are read without a parser mean what the parser would read."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2
from service.rpc.native import frame_layout as layouts
from service.rpc.native.decode import LARGEST

fixed32 = st.one_of(st.sampled_from([0, 2**32 - 1]), st.integers(0, 2**32 - 1))
fixed64 = st.one_of(st.sampled_from([0, LARGEST, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
token = st.one_of(st.integers(0, 200), st.integers(-(2**31), 2**31 - 1))
columns: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]), st.lists(fixed64, min_size=1, max_size=1), st.lists(fixed64)
)
inputs = st.one_of(
    st.builds(lambda ids: values_pb2.Inputs(tokens=values_pb2.Tokens(ids=ids)), st.lists(token)),
    st.builds(lambda text: values_pb2.Inputs(text=text), st.text(max_size=8)),
    st.builds(
        lambda data: values_pb2.Inputs(values=values_pb2.Values(data=data)),
        st.lists(st.floats(width=32)),
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> pb.StreamRequest:
    """Frames, the commonest and others, and requests that are no frames."""
    match draw(st.sampled_from(["one", "one", "frame", "detach", "nothing"])):
        case "one":
            ids = [draw(token)]
            frame = pb.StreamFrame(
                channels=[draw(fixed32)],
                positions=draw(st.lists(fixed64, max_size=1)),
                inputs=values_pb2.Inputs(tokens=values_pb2.Tokens(ids=ids)),
                number=draw(fixed64),
            )
            return pb.StreamRequest(frame=frame)
        case "frame":
            frame = pb.StreamFrame(
                channels=draw(st.lists(fixed32, max_size=3)),
                steps=draw(st.lists(fixed32, max_size=2)),
                positions=draw(columns),
                inputs=draw(inputs),
                number=draw(fixed64),
            )
            return pb.StreamRequest(frame=frame)
        case "detach":
            return pb.StreamRequest(detach=pb.StreamDetach(channels=draw(st.lists(fixed32))))
    return pb.StreamRequest()


def check(message: bytes) -> bool:
    """Whether it was read, and if so as the parser reads it."""
    found = layouts.one_token(message)
    if found is None:
        return False
    request = pb.StreamRequest.FromString(message)
    assert request.WhichOneof("message") == "frame"
    frame = request.frame
    channel, position, read, number = found
    assert list(frame.channels) == [channel]
    assert not frame.steps
    assert [min(sent, LARGEST) for sent in frame.positions] == (
        [] if position is None else [position]
    )
    assert frame.inputs.WhichOneof("kind") == "tokens"
    # Below zero it need not be the same: no vocabulary goes so far either way.
    assert [sent % 2**32 for sent in frame.inputs.tokens.ids] == [read]
    assert frame.number == number
    return True


@given(requests())
@settings(max_examples=300, deadline=None)
def test_a_request_is_read_as_the_parser_reads_it_or_not_at_all(request: pb.StreamRequest) -> None:
    frame = request.frame
    is_one = (
        request.WhichOneof("message") == "frame"
        and (len(frame.channels), len(frame.steps)) == (1, 0)
        and len(frame.positions) <= 1
        and len(frame.inputs.tokens.ids) == 1
    )
    assert check(request.SerializeToString()) == is_one


@given(requests(), st.integers(0, 60), st.integers(0, 255))
@example(pb.StreamRequest(), 0, 0)
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_nearly_a_frame_are_no_other_frame(
    request: pb.StreamRequest, place: int, byte: int
) -> None:
    message = bytearray(request.SerializeToString())
    if message:
        message[place % len(message)] = byte
    check(bytes(message))
