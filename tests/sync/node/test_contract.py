"""The box's own client against the node's own application: both ends of the wire agree."""

import random

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.errors import Conflict, Gap, Refused
from sync.identity import Identity
from sync.node import codes
from sync.node.app import create_app
from sync.node.context import Node
from sync.node.lease_ids import make_id
from sync.segment import Receipt, Segment
from sync.transport import HttpNode
from tests.support.held_clock import HeldClock
from tests.sync.node.world import BOOK, START_MS, Box, make_customer


async def test_the_boxs_client_and_the_node_agree(node: Node) -> None:
    dice = random.Random(4)
    identity = Identity(dice.randbytes(16), Ed25519PrivateKey.from_private_bytes(dice.randbytes(32)), None)
    app = create_app(node.settings, node.database, node.clock, node.random, key=node.key, token=node.token)
    wrong_clock = HeldClock(START_MS - 10**9)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        client = HttpNode("http://localhost", http, identity, wrong_clock)
        make_customer(node)
        with node.database.transaction() as connection:
            code = codes.issue(connection, "sharma", START_MS, node.random)
        with pytest.raises(Refused, match="bad_code"):
            await client.enrol("WRONG-CODE", identity.device, identity.public_key)
        enrolment = await client.enrol(code, identity.device, identity.public_key)
        assert enrolment.node_public_key == node.key.public_key().public_bytes_raw()

        lease = make_id(node.key, identity.device, enrolment.epoch, BOOK.digest, node.random)
        box = Box(identity.device, identity.key, enrolment.epoch, enrolment.customer, lease)
        box.use_paise(3)
        box.use_paise(4)
        with pytest.raises(Gap) as gap:
            await client.send_segment(box.segment(2))
        assert gap.value.head.acked == 0
        signed = await client.send_segment(box.segment())
        signed.verify(enrolment.node_public_key)
        assert Receipt.from_bytes(signed.payload).balance == -70_000

        topup = await client.request_topup(50_000, "request-1")
        assert await client.find_topup(topup.reference) == topup

        other = Segment(box.device, 1, 3, b"x" * 32, b"x" * 32, (), bytes(16))
        with pytest.raises(Conflict):
            await client.send_segment(box.sign(other))
