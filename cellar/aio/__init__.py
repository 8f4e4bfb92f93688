"""The asynchronous client: the same as ``cellar``, with ``await``.

::

    async with cellar.aio.connect("localhost:8001") as client:
        async with client.session("shakespeare") as session:
            await session.step("h", top_k=5)
            async for piece in session.generate(" Now is", max_steps=200):
                print(piece.text, end="")
"""

from cellar.aio.client import Client
from cellar.aio.connecting import connect
from cellar.aio.generation import Generation, Generations
from cellar.aio.opening import Opening
from cellar.aio.session import Session
from cellar.aio.stream import Stream

__all__ = ["Client", "Generation", "Generations", "Opening", "Session", "Stream", "connect"]
