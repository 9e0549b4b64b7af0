"""A DSN that cannot be used is refused without being quoted: it holds a password."""

import pytest

from sync.node.errors import NodeError
from sync.node.serve import _check_answer


@pytest.mark.parametrize("dsn", ["postgres//user:s3cret@db/nukkad", "password=s3cret host"])
def test_a_dsn_of_the_wrong_form_is_not_quoted(dsn: str) -> None:
    with pytest.raises(NodeError, match="NUKKAD_NODE_DSN: is not of the form") as refused:
        _check_answer(dsn)
    assert "s3cret" not in str(refused.value)
