import asyncio
import socket

import pytest

from appliance.engine.link import Link
from appliance.engine.messages import Beat, Delta, Embed, Finished, FromChild, Started, dump
from appliance.engine.protocol import EmbedRequest, EngineUnavailable
from appliance.engine.wire import WireError, encode_frame, receive_frame

REQUEST = EmbedRequest("m", ("a",))


async def news_of(link: Link) -> list[object]:
    return [news async for news in link.news()]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", encode_frame({"kind": "beat"}), encode_frame([{"kind": "delta"}]), b"\x00\x00\x00\x01\xff"],
)
async def test_a_child_that_says_something_unknown_is_not_listened_to_any_more(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    link = await Link.open(ours)
    with theirs:
        theirs.sendall(garbage)
        with pytest.raises(WireError):
            await news_of(link)
    link.close("over")


async def test_outcomes_reach_their_own_call_and_news_the_reader() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.open(ours)
    one = await link.call(lambda number: Embed(number, REQUEST))
    two = await link.call(lambda number: Embed(number, REQUEST))
    with theirs:
        assert [receive_frame(theirs)["call"], receive_frame(theirs)["call"]] == [one.number, two.number]
        messages: list[FromChild] = [Started(two.number, 3), Beat(), Started(one.number, 4), Delta(77, "for nobody", 1)]
        theirs.sendall(encode_frame([dump(message) for message in messages]))
    assert await news_of(link) == [Beat()]
    assert [(await call.next()) for call in (one, two)] != [None, None]
    link.close("it died")
    for call in (one, two):
        with pytest.raises(EngineUnavailable, match="it died"):
            await call.next()
    with pytest.raises(EngineUnavailable):
        await link.call(lambda number: Embed(number, REQUEST))


async def test_only_a_call_that_has_not_ended_is_cancelled() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.open(ours)
    ended = await link.call(lambda number: Embed(number, REQUEST))
    open_call = await link.call(lambda number: Embed(number, REQUEST))
    with theirs:
        for _ in range(2):
            receive_frame(theirs)
        theirs.sendall(encode_frame([dump(Finished(ended.number, "stop", 1, 1)), dump(Beat())]))
        news = link.news()
        assert await anext(news) == Beat()
        for call in (ended, open_call, open_call):
            call.close()
        await asyncio.sleep(0)
        assert receive_frame(theirs) == {"kind": "cancel", "call": open_call.number}
        await news.aclose()  # type: ignore[attr-defined]
        link.close("over")
        await asyncio.sleep(0)
        with pytest.raises(EOFError):
            receive_frame(theirs)
