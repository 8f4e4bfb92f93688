"""Ask a server on this machine whether it is serving: exit code 0 or 1, for containers."""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(address: str, *, timeout_s: float = 3.0) -> bool:
    """Whether the server at an address says that it is serving."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving


if __name__ == "__main__":
    sys.exit(0 if is_serving(f"127.0.0.1:{os.environ.get('CELLAR_PORT', '8001')}") else 1)
