"""Codes work once, for a while, and cannot be guessed."""

import random
from dataclasses import replace

import pytest

from sync.node import codes
from sync.node.context import Node
from sync.node.enrol import enrol
from sync.node.errors import Refusal
from tests.support.held_clock import HeldClock
from tests.sync.node.world import count, make_customer

DEVICE, KEY = b"d" * 16, b"k" * 32


@pytest.fixture
def code(node: Node) -> str:
    make_customer(node)
    return issue(node)


def issue(node: Node, customer: str = "sharma") -> str:
    with node.database.transaction() as connection:
        return codes.issue(connection, customer, node.clock.wall_ms(), node.random)


def refused(node: Node, code: str, device: bytes = DEVICE, key: bytes = KEY) -> str:
    with pytest.raises(Refusal) as caught:
        enrol(node, code, device, key)
    return caught.value.code


def wrong(code: str) -> str:
    return code[:-1] + ("0" if code[-1] != "0" else "1")


def test_a_code_enrols_and_answers_the_same_again(node: Node, clock: HeldClock, code: str) -> None:
    first = enrol(node, code, DEVICE, KEY)
    assert (first.customer, first.epoch) == ("sharma", 1)
    clock.now_ms += codes.LIFE_MS * 3
    assert enrol(node, code, DEVICE, KEY) == first
    assert count(node, "select count(*) from epochs") == 1


def test_a_code_is_for_one_device_and_key(node: Node, code: str) -> None:
    enrol(node, code, DEVICE, KEY)
    assert refused(node, code, device=b"e" * 16) == "code_used"
    assert refused(node, code, key=b"l" * 32) == "code_used"


def test_a_new_code_begins_a_new_epoch(node: Node, code: str) -> None:
    enrol(node, code, DEVICE, KEY)
    assert enrol(node, issue(node), DEVICE, KEY).epoch == 2
    assert enrol(node, issue(node), DEVICE, b"l" * 32).epoch == 3


def test_a_device_stays_with_its_customer(node: Node, code: str) -> None:
    enrol(node, code, DEVICE, KEY)
    make_customer(node, "other")
    other = issue(node, "other")
    assert refused(node, other) == "device_taken"
    assert enrol(node, other, b"e" * 16, KEY).customer == "other"


def test_a_code_expires(node: Node, clock: HeldClock, code: str) -> None:
    clock.now_ms += codes.LIFE_MS + 1
    assert refused(node, code) == "bad_code"


def test_five_wrong_tries_burn_a_code(node: Node, code: str) -> None:
    for _ in range(codes.TRIES_MAX):
        assert refused(node, wrong(code)) == "bad_code"
    assert refused(node, code) == "bad_code"


def test_four_wrong_tries_do_not(node: Node, code: str) -> None:
    for _ in range(codes.TRIES_MAX - 1):
        refused(node, wrong(code))
    assert enrol(node, code, DEVICE, KEY).epoch == 1


@pytest.mark.parametrize("other", ["", "ABCD", "-", "é" * 14, "\0" * 14, "A" * 1000, "AAAA-AAAAA-AAAAU"])
def test_what_is_no_code_is_refused(node: Node, code: str, other: str) -> None:
    assert refused(node, other) == "bad_code"


def test_a_code_may_be_typed_as_people_type(node: Node) -> None:
    make_customer(node)
    dice = random.Random(3)
    while "0" not in (code := issue(replace(node, random=dice.randbytes))) and "1" not in code:
        pass
    assert enrol(node, " " + code.lower().replace("0", "o").replace("1", "l").replace("-", " "), DEVICE, KEY).epoch == 1


def test_a_code_is_kept_only_as_a_hash(node: Node, code: str) -> None:
    with node.database.snapshot() as connection:
        kept = str(connection.execute("select * from codes").fetchall())
    assert code[5:10] not in kept and code[11:] not in kept


def test_codes_long_past_are_forgotten(node: Node, clock: HeldClock, code: str) -> None:
    clock.now_ms += codes.LIFE_MS + 25 * 3600 * 1000
    issue(node)
    assert count(node, "select count(*) from codes") == 1
