"""Ask a server whether it is serving: exit code 0 or 1, for containers.

Usage: ``python -m service.healthcheck [HOST:PORT | unix:PATH]``. Without an address it asks where
``CELLAR_HOST`` and ``CELLAR_PORT`` say that the server of this machine listens.
"""

import os
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_EVERYWHERE = ("", "0.0.0.0", "::")


def is_serving(address: str, *, timeout_s: float = 3.0) -> bool:
    """Whether the server at an address says that it is serving."""
    options = (("grpc.enable_http_proxy", 0),)  # a proxy would answer for itself
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving


def address_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The address to ask; a server that listens everywhere is asked on loopback.

    Raises:
        ValueError: there is more than one argument.
    """
    if len(arguments) > 1:
        raise ValueError("usage: python -m service.healthcheck [HOST:PORT | unix:PATH]")
    if arguments:
        return arguments[0]
    host = environment.get("CELLAR_HOST", "").strip()
    if host.startswith("unix:"):
        return host
    host = host.removeprefix("[").removesuffix("]")
    if host in _EVERYWHERE:
        host = "127.0.0.1"
    port = environment.get("CELLAR_PORT", "").strip() or "8001"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 serving, 1 not, 2 asked wrongly."""
    try:
        address = address_of(arguments, os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if is_serving(address) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
