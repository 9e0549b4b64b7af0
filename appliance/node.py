"""How a box reaches a node; tests reach one in memory instead."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sync.clock import Clock
from sync.identity import Identity
from sync.transport import HttpNode, NodeClient, http_client

Connect = Callable[[str, Identity], AbstractAsyncContextManager[NodeClient]]


def over_http(clock: Clock) -> Connect:
    """Reaches a node by its URL. Raises ValueError for a URL that is neither https nor loopback."""

    @asynccontextmanager
    async def connect(url: str, identity: Identity) -> AsyncIterator[NodeClient]:
        async with http_client() as http:
            yield HttpNode(url, http, identity, clock)

    return connect
