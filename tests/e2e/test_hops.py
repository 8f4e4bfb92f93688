"""How many files of ``service/`` one warm call goes through: what its reader has to open."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.hops import Route, trace

CEILINGS: dict[str, tuple[int, int | None]] = {
    # call: (files entered, moves between files). Those that are not streams have `rpc/strays.py`,
    # by which gRPC's loop asks for the next call.
    "step": (16, None),
    "frame": (16, None),
    "row": (15, None),
    "generate": (25, 150),  # it keeps the state that it, or its client, may have to go back to
    "forecast": (23, 134),
}


@pytest.fixture(scope="module")
def routes() -> dict[str, Route]:
    """All calls, one after the other on one server."""
    return asyncio.run(trace(tuple(CEILINGS)))


@pytest.mark.parametrize("call", CEILINGS)
def test_a_call_stays_within_few_files(call: str, routes: dict[str, Route]) -> None:
    route = routes[call]
    files, moves = CEILINGS[call]
    entered = set(route.files)
    # A route that is short because the tracer saw little must not pass.
    for floor in ("rpc/", "engine/", "engine/execution/"):
        assert any(file.startswith(floor) for file in entered), route.listing()
    found = f"{call}: {route}; at most {files} files, {moves or 'any number of'} moves"
    assert len(entered) <= files, f"{found}\n{route.listing()}"
    assert moves is None or route.moves <= moves, f"{found}\n{route.listing()}"
