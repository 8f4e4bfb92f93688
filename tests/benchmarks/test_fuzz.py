"""What ``make fuzz`` sends, and what it takes for a fault."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from benchmarks.fuzz.aftermath import grows
from benchmarks.fuzz.judge import findings, is_counted
from benchmarks.fuzz.messages.cases import METHODS, Case, Key, make_case, named
from benchmarks.fuzz.messages.grammar import Grammar
from benchmarks.fuzz.messages.mutation import mutated, split
from benchmarks.fuzz.senders.calls import Code, Outcome
from cellar.v1 import session_pb2, values_pb2

DRAWS = 400


def fields_set(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        yield field.full_name
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                if isinstance(inner, Message):
                    yield from fields_set(inner)


def fields_of(descriptor: Any, seen: set[str]) -> set[str]:
    found: set[str] = set()
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            found.add(field.full_name)
            if field.message_type is not None:
                found |= fields_of(field.message_type, seen)
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_field_of_every_request_is_drawn(method: Any) -> None:
    grammar = Grammar(Random(1))
    drawn = {name for _ in range(DRAWS) for name in fields_set(grammar.message(method.input_type))}
    assert drawn >= fields_of(method.input_type, set())


def test_every_field_is_spoiled_at_some_time() -> None:
    good = session_pb2.StepRequest(session_id="a", inputs=values_pb2.Inputs(text="abc"))
    grammar = Grammar(Random(1))
    spoiled = [grammar.spoiled(good) for _ in range(DRAWS)]
    wanted = fields_of(session_pb2.StepRequest.DESCRIPTOR, set())
    assert {name for message in spoiled for name in fields_set(message)} >= wanted
    assert any(message.session_id != "a" for message in spoiled)  # type: ignore[attr-defined]
    assert good == session_pb2.StepRequest(session_id="a", inputs=values_pb2.Inputs(text="abc"))


def test_a_key_makes_the_same_case_and_others_make_others() -> None:
    keys = [Key(seed=3, batch=1, item=item) for item in range(200)]
    cases = [make_case(Key.parse(str(key))) for key in keys]
    assert cases == [make_case(key) for key in keys]
    assert len({case.messages for case in cases}) > 150
    assert {case.method.name for case in cases} >= {method.name for method in METHODS}
    assert {case.ending for case in cases} == {"finish", "cancel", "leave"}


def test_a_message_is_split_into_its_fields() -> None:
    frame = session_pb2.StreamFrame(channels=[1, 2], positions=[3], number=7)
    data = frame.SerializeToString()
    assert len(split(data)) == 3
    assert b"".join(split(data)) == data
    assert b"".join(split(data[:-1])) == data[:-1]


def test_mutations_are_of_all_kinds() -> None:
    data = make_case(Key(seed=1, batch=0, item=0)).messages[0]
    frame = session_pb2.StreamFrame(channels=[1, 2], inputs=values_pb2.Inputs(text="ab"))
    random, broken = Random(1), 0
    for _ in range(DRAWS):
        try:
            session_pb2.StreamFrame.FromString(mutated(random, frame.SerializeToString()))
        except DecodeError:
            broken += 1
        mutated(random, data)
    assert 0.2 < broken / DRAWS < 0.8


def test_sessions_that_a_message_names() -> None:
    attach = session_pb2.StreamAttach(session_ids=["a", "b"], channels=[0, 1])
    assert set(named(session_pb2.StreamRequest(attach=attach))) == {"a", "b"}
    opened = session_pb2.OpenSessionResponse(session=session_pb2.Session(id="c", model="m"))
    assert set(named(opened)) == {"c"}


def case(*, left: bool = False, name: str = "Step") -> Case:
    method = next(method for method in METHODS if method.name == name)
    message = GetMessageClass(method.input_type)().SerializeToString()
    return Case(
        key=Key(seed=1, batch=2, item=3),
        kind="bytes",
        method=method,
        messages=(message,),
        ending="cancel" if left else "finish",
    )


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(code=Code.OK), None),
        (Outcome(code=Code.INVALID_ARGUMENT, reason="BAD_INPUT"), None),
        (Outcome(code=Code.RESOURCE_EXHAUSTED, reason="OVERLOADED"), None),
        (Outcome(code=Code.CANCELLED, left=True), None),
        (Outcome(code=Code.CANCELLED), "CANCELLED: "),
        (Outcome(code=Code.INVALID_ARGUMENT), "INVALID_ARGUMENT without a reason: "),
        (Outcome(code=Code.INVALID_ARGUMENT, reason="NEW"), "INVALID_ARGUMENT without a reason: "),
        (Outcome(code=Code.UNKNOWN, message="x 12 'y'"), "UNKNOWN: x … …"),
        (Outcome(code=Code.INTERNAL, reason="INTERNAL"), "INTERNAL: "),
        (Outcome(code=Code.UNAVAILABLE, reason="LOADING"), "UNAVAILABLE: "),
        (Outcome(code=Code.DATA_LOSS, reason="STATE_LOST"), "DATA_LOSS: "),
        (Outcome(code=None), "the call has no end"),
        (Outcome(code=Code.OK, faults=["a reply is no message"]), "a reply is no message"),
    ],
)
def test_what_is_a_fault(outcome: Outcome, fault: str | None) -> None:
    found = findings(case(left=outcome.left), outcome)
    assert [each.what for each in found] == ([] if fault is None else [fault])
    for each in found:
        assert "--case 1:2:3" in each.how


def test_which_calls_the_metrics_must_know() -> None:
    assert is_counted(case(), Outcome(code=Code.OK))
    assert is_counted(case(), Outcome(code=Code.NOT_FOUND, reason="SESSION_UNKNOWN"))
    assert not is_counted(case(), Outcome(code=grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert not is_counted(case(), Outcome(code=Code.OK, left=True))


def test_memory_that_grows() -> None:
    assert not grows([100.0 + number % 3 for number in range(40)])
    assert not grows([100.0, 300.0])  # too few to tell
    assert grows([100.0 + 2 * number for number in range(40)]) == pytest.approx(50, abs=12)
