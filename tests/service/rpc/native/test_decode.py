"""Messages that are small on the wire, and say far too much."""

from typing import Any

import pytest

from cellar.v1 import values_pb2 as pb
from service.engine.served.inputs import InputReader
from service.errors import BadInputError
from service.rpc.native import decode
from service.settings import EngineSettings
from tests.recurrent import char_case, series_case

LIMITS = EngineSettings(max_request_steps=10, max_frame_steps=20)
MANY = 2**18 + 1


@pytest.mark.parametrize(
    ("case", "inputs"),
    [
        (char_case(), pb.Inputs(text="a" * MANY)),
        (char_case(), pb.Inputs(tokens=pb.Tokens(ids=[1] * MANY))),
        (series_case(), pb.Inputs(values=pb.Values(data=[1.0] * MANY))),
    ],
    ids=["text", "tokens", "values"],
)
def test_far_too_many_steps_are_not_looked_at(
    case: Any, inputs: pb.Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InputReader(case.manifest)
    for name in ("text", "tokens", "values"):
        monkeypatch.setattr(reader, name, lambda _: pytest.fail("they were read"))
    with pytest.raises(BadInputError, match=f"^inputs: {MANY} steps exceed the limit of 20"):
        decode.inputs(inputs, reader, LIMITS)


def test_as_many_as_the_limits_allow_are_read() -> None:
    reader = InputReader(char_case().manifest)
    limits = EngineSettings(max_frame_steps=MANY)
    assert len(decode.inputs(pb.Inputs(text="a" * MANY), reader, limits)) == MANY


def test_no_large_outputs_are_remembered() -> None:
    """Whoever sends many different ones would fill the memory with them for good."""
    decode._known_outputs.cache_clear()
    for count in range(1000, 1010):
        found, _ = decode.outputs(pb.Outputs(quantiles=[0.5] * count))
        assert found.quantiles == (0.5,) * count
    assert decode._known_outputs.cache_info().currsize == 0
    assert decode.outputs(pb.Outputs(argmax=True)) is decode.outputs(pb.Outputs(argmax=True))


def test_far_too_many_quantiles_are_not_looked_at() -> None:
    levels = [0.5] * (2**14 + 1)
    with pytest.raises(BadInputError, match=r"^outputs\.quantiles: 16385 levels are more"):
        decode.outputs(pb.Outputs(quantiles=levels))
    with pytest.raises(BadInputError, match=r"^quantiles: 16385 levels are more"):
        decode.levels("quantiles", levels)
