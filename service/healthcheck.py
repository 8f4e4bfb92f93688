"""Ask a server whether it is serving: exit code 0 or 1, for containers.

Usage: ``python -m service.healthcheck [HOST:PORT | unix:PATH | https://HOST:PORT]``. The first two
are asked by gRPC without TLS, ``https://HOST:PORT`` and ``https://unix:PATH`` for /readyz. Without
an address it asks where ``CELLAR_HOST`` and ``CELLAR_PORT`` say that the server of this machine
listens; with ``CELLAR_TLS_CERT`` its HTTP port, which wants no certificate of a client.
"""

import os
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_EVERYWHERE = ("", "0.0.0.0", "::")
_HTTPS = "https://"
_OFF = ("off", "none", "null", "no", "false", "disabled")
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def is_serving(address: str, *, timeout_s: float = 3.0) -> bool:
    """Whether the server at an address says that it is serving."""
    if address.startswith(_HTTPS):
        return _is_ready(address.removeprefix(_HTTPS), timeout_s)
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


def _is_ready(address: str, timeout_s: float) -> bool:
    """As HTTP says. The certificate is not looked at: nothing is told, and it may be changing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    said = b""
    try:
        with _connected(address, timeout_s) as raw, context.wrap_socket(raw) as peer:
            peer.sendall(_REQUEST)
            while b"\n" not in said and (part := peer.recv(4096)):
                said += part
    except (OSError, ValueError):
        return False
    return said.split(b" ")[1:2] == [b"200"]


def _connected(address: str, timeout_s: float) -> socket.socket:
    if address.startswith("unix:"):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(timeout_s)
        peer.connect(address.removeprefix("unix:").replace("///", "/", 1))
        return peer
    host, _, port = address.rstrip("/").rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)


def address_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The address to ask; a server that listens everywhere is asked on loopback.

    Raises:
        ValueError: there is more than one argument, or nothing to ask.
    """
    if len(arguments) > 1:
        raise ValueError(
            "usage: python -m service.healthcheck [HOST:PORT | unix:PATH | https://HOST:PORT]"
        )
    if arguments:
        return arguments[0]
    host = environment.get("CELLAR_HOST", "").strip()
    if environment.get("CELLAR_TLS_CERT", "").strip():
        port = environment.get("CELLAR_METRICS_PORT", "").strip() or "9090"
        if port.lower() in _OFF:
            raise ValueError("with TLS the HTTP port is asked: let CELLAR_METRICS_PORT name one")
        if host.startswith("unix:"):
            host = ""
        return _HTTPS + _address(environment.get("CELLAR_METRICS_HOST", "").strip() or host, port)
    return _address(host, environment.get("CELLAR_PORT", "").strip() or "8001")


def _address(host: str, port: str) -> str:
    if host.startswith("unix:"):
        return host
    host = host.removeprefix("[").removesuffix("]")
    if host in _EVERYWHERE:
        host = "127.0.0.1"
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
