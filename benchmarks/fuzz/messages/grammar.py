"""Messages of any type, made from its descriptor: a field that joins the wire is drawn as well."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

MARK = "quisquiliae"
"""Stands in texts that are sent; a log that holds it tells what callers send."""

_DEPTH = 5
_LENGTHS = (0, 1, 1, 2, 3, 8, 50, 500, 5000)
_TEXTS = (
    "", "a", "hello", "\0", "É", "日本", "\U0001f600", "\u202eabc", "a\u0301", "\ufeff", " ",
    "%s%n", "../../etc", "{0}", "\r\nx: y", MARK, MARK * 20, "z" * 129, "a" * 3000, "É" * 9000,
)  # fmt: skip
_FLOATS = (
    0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1.2e-38, 3.4028234e38, -3.4028234e38, 1e30, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
_INTEGERS = (0, 1, 2, 3, 7, 64, 127, 128, 2001, 65_537, 10**6, 2**20, 2**24, 2**53)

F = FieldDescriptor
_BITS: dict[int, tuple[int, bool]] = {  # of each integer type: how many, and whether signed
    F.TYPE_INT32: (32, True), F.TYPE_SINT32: (32, True), F.TYPE_SFIXED32: (32, True),
    F.TYPE_UINT32: (32, False), F.TYPE_FIXED32: (32, False),
    F.TYPE_INT64: (64, True), F.TYPE_SINT64: (64, True), F.TYPE_SFIXED64: (64, True),
    F.TYPE_UINT64: (64, False), F.TYPE_FIXED64: (64, False),
}  # fmt: skip


class Grammar:
    """Draws messages.

    Args:
        random: where chance comes from.
        texts: more texts to draw from, such as ids of sessions and names of models.
    """

    def __init__(self, random: Random, texts: Sequence[str] = ()) -> None:
        self._random = random
        self._texts = (*_TEXTS, *texts)

    def message(self, descriptor: Descriptor) -> Message:
        """A message with any of its fields set, to anything of their types."""
        return self._message(descriptor, _DEPTH)

    def spoiled(self, message: Message) -> Message:
        """A copy with a few fields, wherever they lie, set to something else."""
        copy = type(message)()
        copy.CopyFrom(message)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._spoil(copy)
        return copy

    def _spoil(self, message: Message) -> None:
        """Set one field anew, of this message or of one within."""
        fields: Sequence[Any] = message.DESCRIPTOR.fields
        if not fields:
            return
        field = self._random.choice(fields)
        inner = field.message_type is not None and not _is_map(field)
        if inner and self._random.random() < 0.75:
            held = getattr(message, field.name)
            if not field.is_repeated:
                self._spoil(held)
                held.SetInParent()
                return
            if len(held):
                self._spoil(self._random.choice(held))
                return
        message.ClearField(field.name)
        if self._random.random() < 0.9:
            self._set(message, field, _DEPTH)

    def _message(self, descriptor: Descriptor, depth: int) -> Message:
        made = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if self._random.random() < 0.5:
                self._set(made, field, depth)
        return made

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if _is_map(field):
            self._set_map(getattr(message, field.name), field)
        elif field.message_type is not None:
            if depth <= 0:
                return
            if field.is_repeated:
                for _ in range(self._random.choice((0, 1, 2, 20))):
                    made = self._message(field.message_type, depth - 1)
                    getattr(message, field.name).append(made)
            else:
                made = self._message(field.message_type, depth - 1)
                getattr(message, field.name).CopyFrom(made)
        elif field.is_repeated:
            drawn = self._drawn(field)
            values = [drawn() for _ in range(self._random.choice(_LENGTHS))]
            if values and self._random.random() < 0.3:
                values = values[:1] * len(values)
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, self._drawn(field)())

    def _set_map(self, held: Any, field: FieldDescriptor) -> None:
        entry = field.message_type
        assert entry is not None
        key, value = (self._drawn(entry.fields_by_name[name]) for name in ("key", "value"))
        for _ in range(self._random.choice((1, 3))):
            held[key()] = value()

    def _drawn(self, field: FieldDescriptor) -> Callable[[], Any]:
        """Draws a value that the field's type can hold."""
        random = self._random
        kind = field.type
        if kind in _BITS:
            bits, signed = _BITS[kind]
            return lambda: self._integer(bits, signed=signed)
        if kind in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
            return lambda: random.choice(_FLOATS)
        if kind == F.TYPE_BOOL:
            return lambda: random.random() < 0.5
        if kind == F.TYPE_STRING:
            return lambda: random.choice(self._texts)
        if kind == F.TYPE_BYTES:
            return lambda: random.randbytes(random.choice((0, 1, 100)))
        if kind == F.TYPE_ENUM:
            return lambda: random.choice((0, 1, 2, 99, 2**31 - 1))
        if field.message_type is not None:  # a map's value: left as it is made
            return GetMessageClass(field.message_type)
        raise AssertionError(f"{field.full_name} is of a type that is not drawn: {kind}")

    def _integer(self, bits: int, *, signed: bool) -> int:
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        edges = (least, least + 1, -1, most - 1, most, 2**31, 2**32 - 1, 2**63 - 1)
        number = self._random.choice((*_INTEGERS, *edges))
        return int(min(max(number, least), most))


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


__all__ = ["MARK", "Grammar"]
