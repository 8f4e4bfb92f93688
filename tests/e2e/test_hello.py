"""The state is the point: the same letter, and another prediction."""

from __future__ import annotations

import cellar


def test_the_second_l_is_followed_by_o(client: cellar.Client) -> None:
    with client.session("hello") as session:
        assert [session.step(symbol).symbol for symbol in "hell"] == list("ello")
        assert session.generate(max_steps=8, temperature=0).text() == "ohellohe"


def test_two_sessions_at_different_phases(client: cellar.Client) -> None:
    with client.session("hello") as early, client.session("hello") as late:
        late.step("hel", argmax=True)
        seen = [(early.step(one).symbol, late.step(other).symbol) for one, other in ("hl", "eo")]
        assert seen == [("e", "o"), ("l", "h")]
        assert (early.step("l").symbol, late.step("hell").symbol) == ("l", "o")
        assert (early.position, late.position) == (3, 9)


def test_the_same_on_a_stream(client: cellar.Client) -> None:
    with client.stream("hello", top_k=1) as stream:
        channels = stream.open(5)
        stream.step(channels, ["h", "he", "hel", "hell", "hello"])
        assert stream.step(channels, "elloh").predictions.symbols == tuple("llohe")


async def test_the_same_with_await(aclient: cellar.aio.Client) -> None:
    async with aclient.session("hello") as session, aclient.stream("hello") as stream:
        assert (await session.step("hel")).symbol == "l"
        assert (await session.step("l")).symbol == "o"
        assert await session.generate(max_steps=3, temperature=0).text() == "ohe"
        channels = await stream.open(2)
        reply = await stream.step(channels, ["hel", "hell"])
        assert reply.predictions.symbols == ("l", "o")
