from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_INPUT: _ClassVar[ErrorReason]
    ERROR_REASON_STEP_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_POSITION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_STARTED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_STREAMABLE: _ClassVar[ErrorReason]
    ERROR_REASON_REPLY_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_LIMIT: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_LOADING: _ClassVar[ErrorReason]
    ERROR_REASON_CANCELLED: _ClassVar[ErrorReason]
    ERROR_REASON_STATE_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_STALE_BRANCH: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_CHANGED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_QUOTA_EXCEEDED: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_BAD_INPUT: ErrorReason
ERROR_REASON_STEP_CONFLICT: ErrorReason
ERROR_REASON_MODEL_UNKNOWN: ErrorReason
ERROR_REASON_SESSION_UNKNOWN: ErrorReason
ERROR_REASON_SESSION_EXPIRED: ErrorReason
ERROR_REASON_SESSION_CLOSED: ErrorReason
ERROR_REASON_SESSION_EXISTS: ErrorReason
ERROR_REASON_POSITION_MISMATCH: ErrorReason
ERROR_REASON_NOT_STARTED: ErrorReason
ERROR_REASON_NOT_STREAMABLE: ErrorReason
ERROR_REASON_REPLY_LOST: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_SESSION_LIMIT: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_LOADING: ErrorReason
ERROR_REASON_CANCELLED: ErrorReason
ERROR_REASON_STATE_LOST: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_MODEL_UNAVAILABLE: ErrorReason
ERROR_REASON_STALE_BRANCH: ErrorReason
ERROR_REASON_STORE_FULL: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_MODEL_CHANGED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_QUOTA_EXCEEDED: ErrorReason
