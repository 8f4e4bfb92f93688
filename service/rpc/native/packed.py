"""Replies whose packed columns are written as bytes.

On the wire a packed repeated field and a bytes field are the same: a length, then the elements,
little-endian. Filling a bytes field from an array costs a copy; filling a repeated one costs a
Python number per element. So the replies of streams are built as twins of the messages in
``session.proto`` and ``values.proto``, made from their descriptors, with every packed column of
fixed width turned into bytes. Clients cannot tell.

Only for writing: a reader must accept columns that a client sends in several pieces.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from cellar.v1 import session_pb2, values_pb2

_FIXED_WIDTH = {
    FieldDescriptorProto.TYPE_FIXED32,
    FieldDescriptorProto.TYPE_SFIXED32,
    FieldDescriptorProto.TYPE_FIXED64,
    FieldDescriptorProto.TYPE_SFIXED64,
    FieldDescriptorProto.TYPE_FLOAT,
    FieldDescriptorProto.TYPE_DOUBLE,
}


def _twin(descriptor: Any) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(file)
    del file.service[:]
    for message in file.message_type:
        for field in message.field:
            if field.label == FieldDescriptorProto.LABEL_REPEATED and field.type in _FIXED_WIDTH:
                field.label = FieldDescriptorProto.LABEL_OPTIONAL
                field.type = FieldDescriptorProto.TYPE_BYTES
    return file


def _messages() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    for dependency in session_pb2.DESCRIPTOR.dependencies:
        if dependency.name != values_pb2.DESCRIPTOR.name:
            pool.AddSerializedFile(dependency.serialized_pb)
    pool.Add(_twin(values_pb2.DESCRIPTOR))
    pool.Add(_twin(session_pb2.DESCRIPTOR))
    return message_factory.GetMessageClassesForFiles([session_pb2.DESCRIPTOR.name], pool)


StreamResponse: Any = _messages()["cellar.v1.StreamResponse"]
"""The twin of ``session_pb2.StreamResponse``."""
