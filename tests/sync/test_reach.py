"""An address to listen on, as a client on the same machine writes it."""

import pytest

from sync.reach import check_node_url, local_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fd00::7", "http://[fd00::7]:80"),
        ("box.lan", "http://box.lan:80"),
    ],
)
def test_an_address_becomes_a_url(host: str, url: str) -> None:
    assert local_url(host, 80) == url


@pytest.mark.parametrize(
    "url", ["https://billing.example.in", "http://127.0.0.1:8471", "http://[::1]:8471", "https://n:1/x"]
)
def test_a_box_may_trust_tls_and_its_own_machine(url: str) -> None:
    check_node_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5:8471",
        "billing.example.in",
        "ftp://127.0.0.1",
        "https://",
        "http://[::1",
        "https://a:x",
        "",
        "https://u@a",
    ],
)
def test_it_trusts_nothing_else(url: str) -> None:
    with pytest.raises(ValueError, match="no node's address"):
        check_node_url(url)
