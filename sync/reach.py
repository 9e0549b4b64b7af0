"""How a client on this machine reaches a server that listens on an address."""

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up here, never listened on


def local_url(host: str, port: int) -> str:
    """Such as `http://127.0.0.1:8800`; an IPv6 address goes into brackets."""
    reachable = EVERYWHERE.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
