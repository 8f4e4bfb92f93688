"""Arguments: what is wrong is named before anything is sent."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import cellar
from cellar.connection.channel_options import KNOWN
from tests.client.fake import FakeServer

Use = Callable[[cellar.Client, Any], object]

WHOLE = [-1, None, math.nan, True, 1.5, "3", 10**30, np.float32(2), [1]]
NUMBER = [None, math.nan, math.inf, True, "1", 10**400, [1.0]]
SECONDS = [-1, 0, math.nan, math.inf, True, "3", 10**30, np.array([1.0])]


def session(use: Callable[[cellar.Session, Any], object], model: str = "char") -> Use:
    """Something done with a session that has read something."""

    def done(client: cellar.Client, value: Any) -> object:
        with client.session(model) as opened:
            opened.step(1)
            return use(opened, value)

    return done


def stream(use: Callable[[cellar.Stream, Any], object]) -> Use:
    """Something done with a stream of one channel, 0."""

    def done(client: cellar.Client, value: Any) -> object:
        with client.stream("char") as opened:
            opened.open(1)
            return use(opened, value)

    return done


ARGUMENTS: list[tuple[str, list[Any], Use]] = [
    ("inputs", [None, 1.5, [1, None], [True]], session(lambda s, v: s.step(v))),
    ("inputs", [None, [1.0, None], True], session(lambda s, v: s.step(v), "series")),
    ("version", WHOLE, lambda c, v: c.session("char", version=v)),
    ("version", WHOLE, lambda c, v: c.stream("char", version=v)),
    ("version", WHOLE, lambda c, v: c.model("char", version=v)),
    ("version", WHOLE, lambda c, v: c.predict("char", ["a"], version=v)),
    ("model", [None, 3, b"char"], lambda c, v: c.session(v)),
    ("model", [None, 3], lambda c, v: c.model(v)),
    ("id", [3, b"a"], lambda c, v: c.session("char", id=v)),
    ("id", [None, 3], lambda c, v: c.attach(v)),
    ("model", [None, 3], lambda c, v: list(c.list_sessions(v))),
    ("version", WHOLE, lambda c, v: list(c.list_sessions("char", version=v))),
    ("idle_for_s", SECONDS, lambda c, v: list(c.list_sessions(idle_for_s=v))),
    ("owner", [3, b"a"], lambda c, v: list(c.list_sessions(owner=v))),
    ("id", [None, 3, "a\nb"], lambda c, v: c.close_session(v)),
    ("owner", [3, b"a"], lambda c, v: c.close_session("a", owner=v)),
    ("branch", WHOLE, lambda c, v: c.close_session("a", branch=v)),
    ("id", [None, 3, "a\nb"], lambda c, v: c.reset_session(v)),
    ("sequences", [None, 3, 1.5], lambda c, v: c.predict("char", v)),
    ("resume", [None, 1, "no"], lambda c, v: c.session("char", resume=v)),
    ("idle_timeout_s", SECONDS, lambda c, v: c.session("char", idle_timeout_s=v)),
    (
        "initial_state",
        [3, [1.0], {1: [0.0]}, np.zeros(3)],
        lambda c, v: c.session("char", initial_state=v),
    ),
    (
        "initial_state['h']",
        ["a", None, [[1], [1, 2]], [math.nan], [1e39], [True], [1j]],
        lambda c, v: c.session("char", initial_state={"g": [1], "h": v}),
    ),
    ("timeout_s", SECONDS, lambda c, v: c.models(timeout_s=v)),
    ("timeout_s", SECONDS, lambda c, v: c.session("char", timeout_s=v)),
    ("timeout_s", SECONDS, lambda c, v: c.predict("char", ["a"], timeout_s=v)),
    ("timeout_s", SECONDS, session(lambda s, v: s.step("a", timeout_s=v))),
    ("timeout_s", SECONDS, session(lambda s, v: s.generate(max_steps=1, timeout_s=v))),
    ("timeout_s", SECONDS, session(lambda s, v: s.forecast(1, timeout_s=v), "series")),
    ("timeout_s", SECONDS, session(lambda s, v: s.refresh(timeout_s=v))),
    ("timeout_s", SECONDS, stream(lambda s, v: s.step([0], "a", timeout_s=v))),
    ("timeout_s", SECONDS, stream(lambda s, v: s.open(1, timeout_s=v))),
    ("timeout_s", SECONDS, stream(lambda s, v: s.detach(0, timeout_s=v))),
    ("timeout_s", SECONDS, stream(lambda s, v: s.reset(0, timeout_s=v))),
    ("timeout_s", SECONDS, lambda c, v: list(c.list_sessions(timeout_s=v))),
    ("top_k", WHOLE, session(lambda s, v: s.step("a", top_k=v))),
    ("top_k", WHOLE, lambda c, v: c.stream("char", top_k=v)),
    ("argmax", [None, 1, "yes"], session(lambda s, v: s.step("a", argmax=v))),
    ("raw", [None, 1], lambda c, v: c.predict("char", ["a"], raw=v)),
    ("sample", [1, True, {}], session(lambda s, v: s.step("a", sample=v))),
    ("quantiles", ["0.5", True, {0.5: 1}], session(lambda s, v: s.step("a", quantiles=v))),
    ("quantiles[1]", [[0.5, 1], [0.5, None]], session(lambda s, v: s.step("a", quantiles=v))),
    ("commit", [None, 0, "no"], session(lambda s, v: s.step("a", commit=v))),
    ("every_step", [None, 1], lambda c, v: c.stream("char", every_step=v)),
    ("every_step", [None, 1], lambda c, v: c.predict("char", ["a"], every_step=v)),
    ("chunk_steps", [0, *WHOLE], session(lambda s, v: s.feed("abc", chunk_steps=v))),
    ("max_steps", WHOLE, session(lambda s, v: s.generate(max_steps=v))),
    ("temperature", NUMBER, session(lambda s, v: s.generate(temperature=v))),
    ("top_p", NUMBER, session(lambda s, v: s.generate(top_p=v))),
    ("top_k", WHOLE, session(lambda s, v: s.generate(top_k=v))),
    (
        "seed",
        [each for each in WHOLE if each is not None],
        session(lambda s, v: s.generate(seed=v)),
    ),
    ("stop", [3, None, b"a", True], session(lambda s, v: s.generate(stop=v))),
    ("stop[1]", [["a", 3]], session(lambda s, v: s.generate(stop=v))),
    ("horizon", WHOLE, session(lambda s, v: s.forecast(v), "series")),
    ("paths", WHOLE, session(lambda s, v: s.forecast(1, paths=v), "series")),
    ("seed", WHOLE, session(lambda s, v: s.forecast(1, seed=v), "series")),
    ("include_paths", [None, 1], session(lambda s, v: s.forecast(1, include_paths=v), "series")),
    ("quantiles", [None, "a"], session(lambda s, v: s.forecast(1, quantiles=v), "series")),
    ("count", WHOLE, stream(lambda s, v: s.open(v))),
    ("ids", [3, None], stream(lambda s, v: s.attach(v))),
    ("channels", [None, 0.0, "0", True, [[0]]], stream(lambda s, v: s.step(v, "a"))),
    ("channels", [None, 0.5, "0", [True]], stream(lambda s, v: s.detach(v))),
    ("channels", [None, 0.5, "0", [True]], stream(lambda s, v: s.reset(v))),
    ("channels", [None, 0.5], stream(lambda s, v: s.positions(v))),
    ("channel", [None, 0.5, -1], stream(lambda s, v: s.session_id(v))),
    ("strict", [None, 1], stream(lambda s, v: s.step([0], "a", strict=v))),
    ("close", [None, 1], stream(lambda s, v: s.detach(0, close=v))),
]


@pytest.mark.parametrize(("name", "values", "use"), ARGUMENTS)
def test_an_argument_that_is_wrong_is_named(
    name: str, values: list[Any], use: Use, client: cellar.Client, server: FakeServer
) -> None:
    for value in values:
        if value is None and name in ("timeout_s", "idle_timeout_s", "idle_for_s"):
            continue
        with pytest.raises(cellar.BadInputError) as caught:
            use(client, value)
        assert caught.value.message.startswith(f"{name}: "), caught.value.message
        assert caught.value.field == name
        assert not caught.value.reason, "the client says so, before anything is sent"
    assert server.sessions == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout_s", value) for value in [None, *SECONDS]),
        ("server", None),
        ("server", 8001),
        ("retry", 3),
        ("credentials", "tls"),
        ("metadata", 3),
        ("keepalive_s", "30"),
        ("keepalive_s", -1),
        ("options", 3),
        ("options", "grpc.dscp"),
        ("options[0]", ["grpc.dscp"]),
        ("options[0]", [(1, 2)]),
        ("grpc.keepalive_time_ms", [("grpc.keepalive_time_ms", None)]),
        ("grpc.keepalive_time_ms", {"grpc.keepalive_time_ms": 1.5}),
        ("grpc.keepalive_time_ms", {"grpc.keepalive_time_ms": 2**31}),
    ],
)
async def test_connect_names_what_is_wrong(name: str, value: Any) -> None:
    argument = "options" if name.startswith(("options", "grpc.")) else name
    for connect in (cellar.connect, cellar.aio.connect):
        with pytest.raises(cellar.BadInputError, match=f"^{name.replace('[', '.')[:7]}"):
            connect(**{argument: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attempts", [0, -1, 1.5, True]),
        ("first_delay_s", [-1, math.nan, None]),
        ("longest_delay_s", [-1, math.inf, "1"]),
        ("growth", [0.5, math.nan]),
    ],
)
def test_a_retry_policy_names_what_is_wrong(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(cellar.BadInputError, match=f"^{name}: "):
            cellar.RetryPolicy(**{name: value})


def test_numpy_numbers_are_numbers(client: cellar.Client) -> None:
    given: dict[str, Any] = {"version": np.int64(0), "idle_timeout_s": np.float32(60)}
    with client.session("series", **given) as opened:
        given = {"top_k": np.uint8(0), "commit": np.bool_(True)}
        opened.step(np.array(1.0), **given)
        given = {"quantiles": np.array([0.25, 0.5]), "seed": np.uint64(3)}
        assert opened.forecast(2, **given).levels == (0.25, 0.5)
        assert opened.forecast(2, quantiles=0.5).levels == (0.5,)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("topk", "did you mean top_k?"),
        ("argmx", "did you mean argmax?"),
        ("temprature", "sample=cellar.Sampling(temperature=…)"),
        ("seed", "sample=cellar.Sampling(seed=…)"),
        ("xyz", "there are argmax, top_k, "),
    ],
)
async def test_an_option_that_there_is_not_is_refused(
    option: str, hint: str, client: cellar.Client, server: FakeServer
) -> None:
    given: Any = {option: 1}
    with client.session("char") as opened:
        calls = server.calls.total()
        for use in (
            lambda: opened.step("a", **given),
            lambda: opened.steps("a", **given),
            lambda: opened.peek("a", **given),
            lambda: opened.feed("a", **given),
            lambda: client.stream("char", **given),
            lambda: client.predict("char", ["a"], **given),
        ):
            with pytest.raises(cellar.BadInputError) as caught:
                use()
            assert (caught.value.field, hint in caught.value.message) == (option, True)
        assert server.calls.total() == calls
    async with cellar.aio.connect(server.address) as other:
        with pytest.raises(cellar.BadInputError, match=f"^{option}: "):
            await other.stream("char", **given)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("grpc.max_send_mesage_length", "grpc.max_send_message_length"),
        ("max_send_message_length", "grpc.max_send_message_length"),
        ("grpc.keepalive_time", "grpc.keepalive_time_ms"),
    ],
)
def test_a_misspelt_option_of_the_channel_is_refused(name: str, meant: str) -> None:
    with pytest.raises(cellar.BadInputError, match=f"did you mean {meant}"):
        cellar.connect("localhost:1", options=[(name, 1)])


def test_options_of_the_channel_that_grpc_knows_are_passed_on() -> None:
    core = import_module("grpc._cython.cygrpc").__file__
    assert core is not None
    with open(core, "rb") as file:
        text = file.read()
    gone = [name for name in KNOWN if name.encode() not in text]
    assert len(gone) <= 2, gone
    unlike = [("grpc.experimental.something_new", 1), (KNOWN[0], 10**6)]
    cellar.connect("localhost:1", options=unlike).close()


def test_one_string_is_one_stop(client: cellar.Client, server: FakeServer) -> None:
    with client.session("char") as opened:
        opened.generate("a", max_steps=2, stop="return").text()
        assert list(server.requests[-1].stop) == ["return"]
        opened.generate("a", max_steps=2, stop=("a", "bc")).text()
        assert list(server.requests[-1].stop) == ["a", "bc"]
        with client.stream("char") as frames:
            assert frames.attach(opened.id).tolist() == [0]


def test_reprs_tell(client: cellar.Client, server: FakeServer) -> None:
    assert repr(client) == f"<cellar client of {server.address}>"
    assert repr(client.model("char")).startswith("<model char 3, char: reads tokens (10 symbols)")
    assert "reads values (x, y), predicts distribution" in repr(client.model("wide"))
    with client.session("char", id="mine") as opened:
        assert repr(opened) == "<cellar session 'mine' of char 3, at 0>"
        assert repr(opened.step("a", top_k=1)).startswith("<prediction at 1: argmax=0, symbol='a'")
        assert repr(opened.steps("ab")) == "<2 predictions at 2 to 3: argmax, raw>"
        assert "iterate over it" in repr(opened.generate())
        pieces = list(opened.generate(max_steps=2))
        assert repr(pieces[-1]).endswith(" up to 5, the last: length>")
    with client.session("series") as opened:
        opened.step(1)
        assert repr(opened.forecast(3)) == (
            "<forecast of 3 steps from 1: mean, quantiles at 0.1, 0.5, 0.9>"
        )
    with client.stream("char") as frames:
        reply = frames.step(frames.open(2), "ab")
        assert repr(frames) == "<cellar stream of char 3: 2 channels, 0 frames in flight>"
        assert repr(reply) == "<reply to frame 0: 2 rows; <2 predictions at 1: argmax, raw>>"
    assert repr(frames).endswith(", closed>")
    found = client.predict("char", ["a", "bc"])
    assert (
        repr(found)
        == "<predictions for 2 sequences by char 3: <2 predictions at 1 to 2: argmax, raw>>"
    )


def test_errors_tell_and_travel(client: cellar.Client) -> None:
    with pytest.raises(cellar.ModelUnknownError) as caught:
        client.model("nobody")
    told = repr(caught.value)
    assert told.startswith("ModelUnknownError('told to say MODEL_UNKNOWN', reason='MODEL_UNKNOWN'")
    for error in (caught.value, cellar.UnansweredError([1, 2])):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert (str(again), again.__dict__) == (str(error), error.__dict__)
