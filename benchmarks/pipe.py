"""The child's end of a conversation in JSON lines: commands on stdin, replies on stdout.

Standard library only: the load for another server runs in that server's own environment.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Reply = dict[str, Any]
Handler = Callable[..., Awaitable[Reply]]


def say(reply: Reply) -> None:
    """Write one line."""
    print(json.dumps(reply), flush=True)


async def answer(handlers: Mapping[str, Handler]) -> None:
    """Carry out commands until stdin ends.

    A command is ``{"do": handler, ...its arguments}``. What a handler raises is answered as
    ``{"error": ...}``: the parent knows what that means for the measurement, the child does not.
    """
    loop = asyncio.get_running_loop()
    # While a command runs nobody reads: no second thread disturbs a round.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            reply = await handlers[command.pop("do")](**command)
        except Exception as error:
            details = getattr(error, "details", None)  # of a failed call; its text has many lines
            text = details() if callable(details) else str(error)
            reply = {"error": f"{type(error).__name__}: {text}"}
        say(reply)


__all__ = ["Handler", "Reply", "answer", "say"]
