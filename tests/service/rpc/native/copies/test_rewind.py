"""Sessions that are rewound over a real connection: equal bits, and every refusal."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np
import pytest
import pytest_asyncio

import cellar.aio
from cellar.v1 import session_pb2 as pb
from service.engine.log import chronicle
from tests.recurrent import char_case, series_case, write_repository
from tests.service.rpc.conftest import Wire, serving
from tests.service.rpc.native.copies.test_copies import emptied, forked, opened, rows, stepped
from tests.service.rpc.native.test_sessions import refused, text, values

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODE = grpc.StatusCode
MISSING = CODE.FAILED_PRECONDITION, "HISTORY_MISSING"
LETTERS = "abcdefghij" * 6
PRICES = np.linspace(100, 120, 60, dtype=np.float32)
MODELS = ("letters", "gated", "prices", "rates")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(
        tmp_path_factory.mktemp("models"),
        char_case(),
        char_case("gru", name="gated"),
        series_case(),
        series_case("gru", name="rates"),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    store = tmp_path_factory.mktemp("served") / "store"
    with patch.object(chronicle, "BASE_STEPS", 16):
        async with serving(models, store=f"lmdb:{store}") as wire:
            yield wire


@pytest_asyncio.fixture(loop_scope="module")
async def wire(one_server: Wire) -> AsyncIterator[Wire]:
    """A server without sessions, of all tests here."""
    yield one_server
    await emptied(one_server)


def given(model: str, start: int, stop: int) -> Any:
    if model in ("letters", "gated"):
        return text(LETTERS[start:stop])
    return values(*PRICES[start:stop])


async def fed(wire: Wire, model: str, name: str, stop: int, **others: Any) -> pb.Session:
    """A session that has read so many steps, a few at a time."""
    session = await opened(wire, model, name, **others)
    for start in range(0, stop, 7):
        await stepped(wire, name, given(model, start, min(start + 7, stop)))
    return session


async def rewound(wire: Wire, name: str, position: int, **others: Any) -> pb.Session:
    request = pb.RewindSessionRequest(session_id=name, position=position, **others)
    return (await wire.sessions.RewindSession(request)).session  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", MODELS)
async def test_it_comes_to_the_bits_of_one_that_was_fed_so(wire: Wire, model: str) -> None:
    session = await fed(wire, model, "s", 60, history_steps=2**53)
    assert session.history_position == 0
    for position in (60, 53, 32, 31, 5, 0):
        back = await rewound(wire, "s", position)
        assert (back.position, back.history_position) == (position, 0)
        fork = await forked(wire, "s", f"f{position}", position=max(position - 3, 0))
        await fed(wire, model, f"fed{position}", position)
        await fed(wire, model, f"forked{position}", fork.position)
        pairs = [("s", f"fed{position}"), (fork.id, f"forked{position}")]
        for one, other in pairs:
            if (position if one == "s" else fork.position) == 0:
                continue
            for mine, theirs in zip(rows(wire.server, one), rows(wire.server, other), strict=True):
                assert np.array_equal(mine, theirs)
        for one, other in pairs:
            first = await stepped(wire, one, given(model, 10, 13))
            second = await stepped(wire, other, given(model, 10, 13))
            assert np.array_equal(first, second)
        await rewound(wire, "s", position)


async def test_what_is_refused_changes_nothing(wire: Wire) -> None:
    await fed(wire, "letters", "s", 20)
    bounded = await fed(wire, "letters", "h", 60, history_steps=5)
    before = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id="h"))).session
    assert before.history_position > 0
    assert before.branch == bounded.branch
    missing = rewound(wire, "h", before.history_position - 1)
    found = await refused(missing, *MISSING)
    assert found.metadata["history_position"] == str(before.history_position)
    await refused(rewound(wire, "s", 10), *MISSING)
    await refused(rewound(wire, "s", 21), CODE.INVALID_ARGUMENT, "BAD_INPUT")
    await refused(rewound(wire, "s", 2**64 - 1), CODE.INVALID_ARGUMENT, "BAD_INPUT")
    await refused(rewound(wire, "nobody", 0), CODE.NOT_FOUND, "SESSION_UNKNOWN")
    stale = rewound(wire, "h", 59, branch=before.branch ^ 1)
    await refused(stale, CODE.FAILED_PRECONDITION, "STALE_BRANCH")
    await refused(forked(wire, "s", "t", position=10), *MISSING)
    await refused(forked(wire, "h", "t", position=61), CODE.INVALID_ARGUMENT, "BAD_INPUT")
    after = (await wire.sessions.GetSession(pb.GetSessionRequest(session_id="h"))).session
    assert (after.branch, after.position) == (before.branch, 60)


async def test_the_library_reads_no_more_than_has_come(wire: Wire) -> None:
    address = f"127.0.0.1:{wire.server.port}"
    async with cellar.aio.connect(address) as client:
        session = await client.session("letters", id="s")
        await session.step("abc")
        generation = session.generate(max_steps=5000, seed=1)
        told = ""
        while len(told) < 20:
            told += (await anext(generation)).text
        await generation.close()
        assert session.position == 3 + len(told)
        other = await client.session("letters", id="fed")
        await other.step("abc" + told)
        for mine, theirs in zip(rows(wire.server, "s"), rows(wire.server, "fed"), strict=True):
            assert np.array_equal(mine, theirs)
        # One that has ended by itself, and whose end was not read.
        generation = session.generate(max_steps=300, seed=1)
        piece = await anext(generation)
        await generation.close()
        assert session.position == piece.position
        await session.rewind(position=piece.position - 1)
        assert (await session.step("a")).position == piece.position
