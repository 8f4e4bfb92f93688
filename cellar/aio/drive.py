"""Runs procedures, and does their effects asynchronously: see ``calls/procedures.py``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, TypeVar

from cellar.errors import CellarError

T = TypeVar("T")
E = TypeVar("E")


async def drive(procedure: Generator[E, Any, T], perform: Callable[[E], Awaitable[object]]) -> T:
    """Runs a procedure to its end; ``perform`` does the effects."""
    resume: Callable[[], E] = partial(next, procedure)
    try:
        while True:
            try:
                effect = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                answer = await perform(effect)
            except CellarError as error:
                resume = partial(procedure.throw, error)
            else:
                resume = partial(procedure.send, answer)
    finally:
        procedure.close()
