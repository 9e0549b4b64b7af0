"""Addresses: how a client on this machine reaches a listener, and which node a box may trust."""

from urllib.parse import urlsplit

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up here, never listened on

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_node_url(url: str) -> None:
    """Raises ValueError for a URL that is neither https nor of this machine: whoever enrols trusts the line."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        named = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        safe = named = False
    if not (safe and named):
        raise ValueError(f"{url!r} is no node's address: it is https://HOST, or http://127.0.0.1:PORT on this machine")


def local_url(host: str, port: int) -> str:
    """Such as `http://127.0.0.1:8800`; an IPv6 address goes into brackets."""
    reachable = EVERYWHERE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
