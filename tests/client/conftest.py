"""A fake server per test, and clients that do not wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

import cellar
from tests.client.fake import FakeServer
from tests.client.front import Front, front_of

QUICK = cellar.RetryPolicy(attempts=6, first_delay_s=0.02, longest_delay_s=0.1, draw=lambda: 0.5)


T = TypeVar("T")


def repeatedly(step: Callable[[], T]) -> T:
    """Repeats the same step until the server is found again, which takes grpc a second or so."""
    give_up = time.monotonic() + 8
    while True:
        try:
            return step()
        except cellar.ConnectionLostError:
            if time.monotonic() > give_up:
                raise


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server that is running."""
    server = FakeServer()
    yield server
    server.end()


@pytest.fixture
def client(server: FakeServer) -> Iterator[cellar.Client]:
    """A client of it."""
    with cellar.connect(server.address, retry=QUICK, timeout_s=10) as client:
        yield client


@pytest.fixture
def front(server: FakeServer) -> Iterator[Front]:
    """What stands between a client and the server."""
    with front_of(int(server.address.rpartition(":")[2])) as front:
        yield front


@pytest.fixture
def hasty(server: FakeServer) -> Iterator[cellar.Client]:
    """A client that tries once."""
    with cellar.connect(
        server.address, retry=cellar.RetryPolicy(attempts=1), timeout_s=10
    ) as client:
        yield client
