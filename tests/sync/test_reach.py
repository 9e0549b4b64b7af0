"""An address to listen on, as a client on the same machine writes it."""

import pytest

from sync.reach import local_url


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
