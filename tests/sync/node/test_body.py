"""A body may come slowly, but must come. The event loop's clock goes only where a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from starlette.requests import Request

from sync.node.errors import Refusal
from sync.node.routes.body import BYTES_PER_S_MIN, STALL_S_MAX, read_body
from sync.segment import SEGMENT_BYTES_MAX

LINE = 2500  # bytes a second: 20 kbit/s


@pytest.fixture
async def skip(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[float], None]]:
    """Lets so many seconds pass at once for all that the event loop times."""
    loop = asyncio.get_running_loop()
    real, skipped = loop.time, 0.0

    def pass_by(seconds: float) -> None:
        nonlocal skipped
        skipped += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + skipped)
    yield pass_by
    monkeypatch.undo()


def request(chunks: Iterator[bytes], skip: Callable[[float], None], each_s: float) -> Request:
    """Of a body whose chunks come at that distance."""

    async def receive() -> dict[str, object]:
        chunk = next(chunks, None)
        if chunk is not None:
            skip(each_s)
        for _ in range(3):  # so that a limit that has passed is seen to have passed
            await asyncio.sleep(0)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def cut(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


async def test_a_full_segment_comes_through_on_a_slow_line(skip: Callable[[float], None]) -> None:
    body = b"x" * SEGMENT_BYTES_MAX
    assert await read_body(request(cut(body, LINE), skip, 1), SEGMENT_BYTES_MAX) == body


async def test_a_pause_of_ten_seconds_is_let_pass(skip: Callable[[float], None]) -> None:
    body = b"x" * 10 * LINE
    assert await read_body(request(cut(body, 5 * LINE), skip, 10), SEGMENT_BYTES_MAX) == body


@pytest.mark.parametrize("size", [1, BYTES_PER_S_MIN // 2])
async def test_a_trickle_is_cut_off(skip: Callable[[float], None], size: int) -> None:
    coming = cut(b"x" * SEGMENT_BYTES_MAX, size)
    with pytest.raises(Refusal) as refused:
        await read_body(request(coming, skip, 1), SEGMENT_BYTES_MAX)
    assert (refused.value.status, refused.value.code) == (408, "too_slow")
    left = len(b"".join(coming))
    assert SEGMENT_BYTES_MAX - left <= 2 * STALL_S_MAX * size, "it was cut off at once, not after minutes"
