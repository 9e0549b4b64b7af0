import stat
from pathlib import Path

import pytest

from sync.node.errors import NodeError
from sync.node.state import KEY, TOKEN, hold_state, load_key, load_token, read_token


def test_key_and_token_are_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "node"
    with hold_state(folder):
        key, token = load_key(folder), load_token(folder)
        assert load_key(folder).private_bytes_raw() == key.private_bytes_raw()
        assert load_token(folder) == token == read_token(folder)
    assert len(token) >= 40
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_two_nodes_never_share_a_folder(tmp_path: Path) -> None:
    with hold_state(tmp_path), pytest.raises(NodeError, match="another node is running"), hold_state(tmp_path):
        pytest.fail("held twice")
    with hold_state(tmp_path):
        pass


def test_a_damaged_key_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY).write_bytes(b"short")
    with pytest.raises(NodeError, match="damaged"):
        load_key(tmp_path)
    assert (tmp_path / KEY).read_bytes() == b"short"


def test_without_a_token_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="nukkad node serve"):
        read_token(tmp_path)
    assert not (tmp_path / TOKEN).exists()
