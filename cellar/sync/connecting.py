# Generated from cellar/aio/connecting.py by `make sync-client`; do not edit.
"""How the synchronous client comes to be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import grpc

from cellar.access.access import Access
from cellar.calls.peer import Peer
from cellar.calls.retry import RetryPolicy
from cellar.client_protocol import ClientProtocol
from cellar.connection.channel_options import checked
from cellar.connection.connection import (
    DEFAULT_SERVER,
    KEEPALIVE_S,
    Metadata,
    Options,
    channel_options,
)
from cellar.sync.client import Client
from cellar.sync.transport import Transport


def connect(
    server: str = DEFAULT_SERVER,
    *,
    timeout_s: float = 30.0,
    retry: RetryPolicy | None = None,
    tls: bool | None = None,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    server_name: str | None = None,
    token: str | os.PathLike[str] | None = None,
    allow_plaintext_token: bool = False,
    headers: Mapping[str, str | bytes] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Metadata = (),
    keepalive_s: float | None = KEEPALIVE_S,
    options: Options = (),
    sleep: Callable[[float], None] = time.sleep,
) -> Client:
    """Returns a client of a server. Nothing is sent before the first request.

    Args:
        server: host:port, [IPv6]:port, unix:PATH, or any other gRPC target.
        timeout_s: for requests that bring no timeout of their own. It bounds all of a request:
            tries, pauses, reconnecting. Only while no server has ever answered, a client gives up
            after some seconds.
        retry: how failures are retried.
        tls: True speaks TLS, and trusts the authorities that gRPC brings, or those in the file that
            ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`` names; without it and the next three arguments the
            connection is in the clear.
        ca: a PEM file of the authorities to trust instead.
        cert: a PEM file of the certificate to show, with what stands between it and its root.
        key: the PEM file of its key. A connection that was lost is made with the files as they are
            then.
        server_name: the name that the server's certificate has to be for, where it is not the
            address's.
        token: says who calls; or the ``pathlib.Path`` of a file that has it and is read again when
            it changes. It is sent to another machine only under TLS.
        allow_plaintext_token: sends it without, where something else encrypts.
        headers: sent with every call.
        credentials: gRPC's own, in place of ``tls``, ``ca``, ``cert`` and ``key``.
        metadata: as headers, in pairs, of which two may have one name; values of other than ASCII
            characters are percent-encoded.
        keepalive_s: after so many seconds without a word the server is asked whether it is there,
            while calls run; when it does not answer they fail. None does not ask.
        options: further options of the gRPC channel, as pairs of a name and a value.
        sleep: waits for so many seconds between tries.

    Raises:
        BadInputError: an argument is wrong; the message names it.
    """
    access = Access(
        server,
        credentials=credentials,
        tls=tls,
        ca=ca,
        cert=cert,
        key=key,
        server_name=server_name,
        token=token,
        allow_plaintext_token=allow_plaintext_token,
        metadata=metadata,
        headers=headers,
    )
    peer = Peer(access)
    own_options = (*access.options, *checked(options))
    all_options = channel_options(access.address, keepalive_s, own_options)
    policy = RetryPolicy() if retry is None else retry
    protocol = ClientProtocol(policy, timeout_s, peer.reached)

    def dial() -> grpc.Channel:
        secure = access.credentials()
        if secure is None:
            return grpc.insecure_channel(server, options=all_options)
        return grpc.secure_channel(server, secure, options=all_options)

    def begin() -> Client:
        return Client(Transport(dial, peer, sleep), protocol, server)

    return begin()
