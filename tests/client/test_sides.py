"""What is written by hand on both sides offers the same on both."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import cellar


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(each.name, each.kind) for each in inspect.signature(function).parameters.values()]


def offered(kind: type) -> dict[str, list[tuple[str, Any]]]:
    return {
        name: parameters(member) if callable(member) else []
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", ["Client", "Generation", "Session", "Stream"])
def test_both_sides_offer_the_same(name: str) -> None:
    synchronous = offered(getattr(cellar, name))
    assert synchronous == offered(getattr(cellar.aio, name))
    assert "close" in synchronous


def test_both_sides_connect_alike() -> None:
    assert parameters(cellar.connect) == parameters(cellar.aio.connect)


@pytest.mark.parametrize("name", ["Client", "Generation", "Session", "Stream"])
def test_nothing_asynchronous_is_left(name: str) -> None:
    for member, function in inspect.getmembers(getattr(cellar, name), inspect.isfunction):
        assert not inspect.iscoroutinefunction(function), member
        assert not inspect.isasyncgenfunction(function), member
        assert not member.startswith("__a"), member
