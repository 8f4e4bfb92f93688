"""What is sent: one case is one call, made from a key and from nothing else."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Literal

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.fuzz.messages.grammar import MARK, Grammar
from benchmarks.fuzz.messages.mutation import mutated, varint
from benchmarks.fuzz.messages.names import LABELS, LETTERS, NAMES, PRICES
from cellar.v1 import model_pb2, session_pb2, values_pb2

Ending = Literal["finish", "cancel", "leave"]
"""The caller is done and waits for the end; takes back the call; or goes without being done."""


def _methods(services: Iterable[Any]) -> Iterator[MethodDescriptor]:
    for service in services:
        yield from service.methods


_SERVICES = (
    *session_pb2.DESCRIPTOR.services_by_name.values(),
    *model_pb2.DESCRIPTOR.services_by_name.values(),
)
METHODS: tuple[MethodDescriptor, ...] = tuple(_methods(_SERVICES))
OTHER_METHODS: tuple[MethodDescriptor, ...] = tuple(
    _methods(
        (
            *health_pb2.DESCRIPTOR.services_by_name.values(),
            *reflection_pb2.DESCRIPTOR.services_by_name.values(),
        )
    )
)
_BY_PATH = {f"/{each.containing_service.full_name}/{each.name}": each for each in METHODS}
_STREAM = _BY_PATH["/cellar.v1.SessionService/Stream"]
_SESSION_ID = session_pb2.Session.DESCRIPTOR.fields_by_name["id"].full_name
_POOL = 4
_DOOMED = 60
_LARGE = 16 * 2**20
_LETTERS = "abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Names a case: the same key makes the same messages."""

    seed: int
    batch: int
    item: int

    def __str__(self) -> str:
        return f"{self.seed}:{self.batch}:{self.item}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read what `str` wrote.

        Raises:
            ValueError: it is no key.
        """
        seed, batch, item = map(int, text.split(":"))
        return cls(seed=seed, batch=batch, item=item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call.

    Attributes:
        kind: how its messages came about.
        method: which method is called.
        messages: what is sent; one message, but for calls that stream them.
        ending: how the caller leaves it.
        after_s: when it leaves, after the call began.
        deadline_s: what it gives the call; ``None`` is for ever.
        compressed: the messages are sent by gzip, which makes much of little.
    """

    key: Key
    kind: str
    method: MethodDescriptor
    messages: tuple[bytes, ...]
    ending: Ending = "finish"
    after_s: float = 0.0
    deadline_s: float | None = None
    compressed: bool = False

    @property
    def path(self) -> str:
        """The method as HTTP/2 names it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


def pool(batch: int) -> dict[str, str]:
    """The sessions that all cases of a batch may name: ids, with the model of each."""
    models = (LETTERS, PRICES, LABELS)
    return {f"{model}-{batch}-{number}": model for model in models for number in range(_POOL)}


def doomed(batch: int) -> list[str]:
    """Ids of sessions that are there to be closed."""
    return [f"doomed-{batch}-{number}" for number in range(_DOOMED)]


def named(message: Message) -> Iterator[str]:
    """The ids of sessions that a message names, or opens."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.name in ("session_id", "session_ids") or field.full_name == _SESSION_ID:
            yield from values
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in values:
                yield from named(inner)


def make_case(key: Key) -> Case:
    """The case of a key."""
    return _Maker(key).case()


class _Maker:
    """Makes one case."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._random = Random(str(key))
        self._sessions = pool(key.batch)

    @cached_property
    def _grammar(self) -> Grammar:
        return Grammar(self._random, (*self._sessions, *NAMES))

    def case(self) -> Case:
        kinds: Mapping[str, tuple[int, Callable[[], Case]]] = {
            "good": (10, self._as_it_should_be),
            "bytes": (28, self._bytes),
            "values": (25, self._values),
            "any fields": (6, self._any_fields),
            "stream": (18, self._stream),
            "cancelled": (8, self._cancelled),
            "deadline": (2, self._deadline),
            "others": (3, self._other),
        }
        if self._random.random() < 0.001:
            return self._large()
        (make,) = self._random.choices(
            [made for _, made in kinds.values()], [weight for weight, _ in kinds.values()]
        )
        return make()

    def _made(self, kind: str, method: MethodDescriptor, *messages: bytes) -> Case:
        return Case(key=self._key, kind=kind, method=method, messages=messages)

    def _as_it_should_be(self) -> Case:
        method = self._random.choice(METHODS)
        return self._made("good", method, *self._script(method))

    def _bytes(self) -> Case:
        method = self._random.choice(METHODS)
        return self._made("bytes", method, mutated(self._random, _bytes_of(self._good(method))))

    def _values(self) -> Case:
        method = self._random.choice(METHODS)
        message = self._grammar.spoiled(self._good(method))
        return self._made("values", method, _bytes_of(message))

    def _any_fields(self) -> Case:
        method = self._random.choice(METHODS)
        return self._made("any fields", method, _bytes_of(self._grammar.message(method.input_type)))

    def _other(self) -> Case:
        method = self._random.choice(OTHER_METHODS)
        data = _bytes_of(self._grammar.message(method.input_type))
        if self._random.random() < 0.5:
            data = mutated(self._random, data)
        case = self._made("others", method, data)
        return _leaving(case, "cancel", self._random.uniform(0, 0.05))  # a watch has no end

    def _cancelled(self) -> Case:
        method = self._random.choice(METHODS)
        case = self._made("cancelled", method, *self._script(method))
        ending: Ending = "cancel"
        if method.client_streaming and self._random.random() < 0.5:
            ending = "leave"
        return _leaving(case, ending, self._random.choice((0, 0.001, 0.01, 0.05)))

    def _deadline(self) -> Case:
        method = self._random.choice(METHODS)
        return Case(
            key=self._key,
            kind="deadline",
            method=method,
            messages=self._script(method),
            deadline_s=self._random.choice((0.001, 0.01, 0.05)),
        )

    def _large(self) -> Case:
        """About as large as a message may be, or a little larger; or much larger, compressed."""
        compressed = self._random.random() < 0.3
        size = _LARGE + self._random.choice((-64, -64, 1, 1000, 3 * _LARGE * compressed))
        method = self._random.choice(METHODS)
        field = b"\x0a" + varint(size - 5) + bytes(size - 5)
        return Case(
            key=self._key, kind="large", method=method, messages=(field,), compressed=compressed
        )

    def _script(self, method: MethodDescriptor) -> tuple[bytes, ...]:
        if method.client_streaming:
            return tuple(_bytes_of(each) for each in self._conversation())
        return (_bytes_of(self._good(method)),)

    def _stream(self) -> Case:
        """Messages of a stream: as they should be, spoiled, out of order, or some of each."""
        messages = self._conversation()
        if self._random.random() < 0.3:
            self._random.shuffle(messages)
        spoilt = self._random.choice((0.0, 0.1, 0.5))
        data = [self._spoiled(each) if self._random.random() < spoilt else _bytes_of(each)
                for each in messages]  # fmt: skip
        case = self._made("stream", _STREAM, *data)
        ending: Ending = self._random.choice(("finish", "finish", "finish", "cancel", "leave"))
        return _leaving(case, ending, self._random.choice((0.001, 0.01, 0.05)))

    def _spoiled(self, message: Message) -> bytes:
        if self._random.random() < 0.5:
            return mutated(self._random, _bytes_of(message))
        return _bytes_of(self._grammar.spoiled(message))

    def _conversation(self) -> list[Message]:
        """A stream's messages as a good client sends them."""
        model = self._random.choice((LETTERS, PRICES, LABELS))
        mine = [session for session, of in self._sessions.items() if of == model]
        new = [f"{self._key}-{number}" for number in range(self._random.choice((1, 4, 40)))]
        channels = list(range(len(new)))
        start = session_pb2.StreamStart(model=model, outputs=self._outputs(model))
        messages: list[Message] = [
            session_pb2.StreamRequest(start=start),
            _attach(new, channels, opened=True, ephemeral=self._random.random() < 0.3),
        ]
        if self._random.random() < 0.5:
            messages.append(_attach(mine, [1000 + number for number in range(len(mine))]))
        for number in range(self._random.choice((0, 1, 4, 12))):
            named = self._random.sample(channels, self._random.randint(1, len(channels)))
            steps = [self._random.choice((1, 1, 2, 40)) for _ in named]
            frame = session_pb2.StreamFrame(
                channels=named,
                steps=steps if self._random.random() < 0.5 or max(steps) > 1 else [],
                inputs=self._inputs(model, sum(steps)),
                number=number,
            )
            messages.append(session_pb2.StreamRequest(frame=frame))
            if self._random.random() < 0.2:
                reset = session_pb2.StreamReset(channels=named)
                messages.append(session_pb2.StreamRequest(reset=reset))
        if self._random.random() < 0.6:
            gone = session_pb2.StreamDetach(channels=channels, close=self._random.random() < 0.7)
            messages.append(session_pb2.StreamRequest(detach=gone))
        return messages

    def _good(self, method: MethodDescriptor) -> Message:
        """A request that should be answered; of a method that is not known here, anything."""
        session, model = self._random.choice(list(self._sessions.items()))
        count = self._random.choice((1, 1, 1, 3, 40, 400))
        match method.name:
            case "OpenSession":
                return session_pb2.OpenSessionRequest(model=model, session_id=str(self._key))
            case "ListSessions":
                return session_pb2.ListSessionsRequest(
                    model=self._random.choice(("", model)),
                    page_size=self._random.choice((0, 1, 7, 1000, 2**32 - 1)),
                )
            case "Step":
                return session_pb2.StepRequest(
                    session_id=session,
                    inputs=self._inputs(model, count),
                    outputs=self._outputs(model),
                )
            case "Generate":
                return session_pb2.GenerateRequest(
                    session_id=session,
                    prompt=self._inputs(model, count),
                    max_steps=self._random.choice((1, 5, 100)),
                    sampling=self._sampling(),
                    stop=self._random.choice(((), ("ab",), ("zz", "q"))),
                )
            case "Forecast":
                return session_pb2.ForecastRequest(
                    session_id=session, horizon=3, paths=8, quantiles=[0.1, 0.9], seed=1
                )
            case "Predict":
                model = self._random.choice(NAMES)
                return model_pb2.PredictRequest(
                    model=model,
                    inputs=self._inputs(model, count),
                    steps=self._random.choice(([], [count], [1] * count)),
                    outputs=self._outputs(model),
                )
            case "GetModel":
                return model_pb2.GetModelRequest(name=model)
            case "Stream":
                return self._random.choice(self._conversation())
            case "CloseSession":
                session = self._random.choice(doomed(self._key.batch))
        if "session_id" in method.input_type.fields_by_name:
            return GetMessageClass(method.input_type)(session_id=session)
        return self._grammar.message(method.input_type)

    def _inputs(self, model: str, steps: int) -> values_pb2.Inputs:
        if model == PRICES:
            data = [self._random.uniform(1, 200) for _ in range(steps)]
            return values_pb2.Inputs(values=values_pb2.Values(data=data))
        ids = [self._random.randrange(len(_LETTERS)) for _ in range(steps)]
        if self._random.random() < 0.5:
            return values_pb2.Inputs(text="".join(_LETTERS[each] for each in ids))
        return values_pb2.Inputs(tokens=values_pb2.Tokens(ids=ids))

    def _outputs(self, model: str) -> values_pb2.Outputs:
        made = values_pb2.Outputs(
            raw=self._random.random() < 0.3, every_step=self._random.random() < 0.2
        )
        if model == PRICES:
            made.quantiles.extend(self._random.choice(((), (0.5,), (0.01, 0.99))))
        else:
            made.argmax = self._random.random() < 0.5
            made.top_k = self._random.choice((0, 0, 1, 3))
        if model in (LETTERS, PRICES) and self._random.random() < 0.2:
            made.sample.CopyFrom(self._sampling())
        return made

    def _sampling(self) -> values_pb2.Sampling:
        return values_pb2.Sampling(
            temperature=self._random.choice((0.0, 0.5, 1.0)), seed=self._random.randrange(2**64)
        )


def _leaving(case: Case, ending: Ending, after_s: float) -> Case:
    return Case(
        key=case.key,
        kind=case.kind,
        method=case.method,
        messages=case.messages,
        ending=ending,
        after_s=after_s,
    )


def _attach(
    sessions: Sequence[str],
    channels: Sequence[int],
    *,
    opened: bool = False,
    ephemeral: bool = False,
) -> session_pb2.StreamRequest:
    attach = session_pb2.StreamAttach(
        session_ids=sessions, channels=channels, open=opened, ephemeral=ephemeral
    )
    return session_pb2.StreamRequest(attach=attach)


def _bytes_of(message: Message) -> bytes:
    return message.SerializeToString()


__all__ = [
    "MARK",
    "METHODS",
    "OTHER_METHODS",
    "Case",
    "Ending",
    "Key",
    "doomed",
    "make_case",
    "named",
    "pool",
]
