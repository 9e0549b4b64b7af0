from pathlib import Path

import pytest

from sync.enrol import enrol
from sync.errors import IdentityError, Refused
from sync.identity import load_or_create
from tests.support.held_clock import HeldClock
from tests.support.memory_node import MemoryNode


async def test_a_box_enrols_once_and_keeps_it(tmp_path: Path) -> None:
    node = MemoryNode(b"", HeldClock())
    identity = load_or_create(tmp_path)
    enrolled = await enrol(tmp_path, identity, node, "GOOD-CODE")
    assert enrolled.enrolment
    assert enrolled.enrolment.customer == "shop"
    assert node.public_key == identity.public_key
    assert load_or_create(tmp_path).enrolment == enrolled.enrolment


async def test_a_refused_code_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        await enrol(tmp_path, load_or_create(tmp_path), MemoryNode(b"", HeldClock()), "BAD-CODE")
    assert load_or_create(tmp_path).enrolment is None


async def test_an_enrolled_box_does_not_ask_the_node_again(tmp_path: Path) -> None:
    """The node would begin a new epoch, and give the one of this box's ledger no more credit."""
    enrolled = await enrol(tmp_path, load_or_create(tmp_path), MemoryNode(b"", HeldClock()), "GOOD-CODE")
    untouched = MemoryNode(b"", HeldClock())
    with pytest.raises(IdentityError, match="already enrolled for customer shop"):
        await enrol(tmp_path, enrolled, untouched, "GOOD-CODE")
    assert untouched.public_key == b""
