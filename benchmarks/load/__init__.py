"""The callers: raw bytes on ``grpc.aio`` and uvloop, as lean as Python allows."""
