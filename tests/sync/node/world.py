"""What the node's tests share: a clock held in the hand, and a box that signs what it likes."""

import random
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync import record
from sync.node import codes, customers, topups
from sync.node.context import Node
from sync.node.enrol import enrol
from sync.node.ingest import ingest
from sync.node.lease_ids import make_id
from sync.price import default_book
from sync.record import FIRST_LINK, Draft, Meter, Outcome, Record, Unit
from sync.segment import Receipt, Segment, SignedSegment

START_MS = 1_790_000_000_000  # 21 September 2026
RUPEE = 1_000_000
BOOK = default_book()


@dataclass
class Box:
    """Makes records and segments as a box does, without its ledger."""

    device: bytes
    key: Ed25519PrivateKey
    epoch: int
    customer: str
    lease: bytes
    records: list[bytes] = field(default_factory=list)
    links: list[bytes] = field(default_factory=lambda: [FIRST_LINK])

    def use(
        self,
        units: dict[Unit, int],
        meter: Meter = Meter.CHAT,
        wall_ms: int = START_MS,
        price_book: bytes = BOOK.digest,
    ) -> Record:
        """The next record."""
        draft = Draft(1, meter, b"m" * 32, units, Outcome.COMPLETED, self.lease, price_book, bytes(16))
        made = Record(self.device, self.epoch, len(self.records) + 1, b"b" * 16, 1, wall_ms, draft)
        self.records.append(record.encode(made))
        self.links.append(record.link(self.links[-1], self.records[-1]))
        return made

    def use_paise(self, paise: int, wall_ms: int = START_MS) -> None:
        """A record that costs exactly that: a search is ₹1 per 1,000, ten times 1,000 µ₹ to the paisa."""
        self.use({Unit.REQUESTS: paise * 10}, Meter.SEARCH, wall_ms)

    def segment(self, first: int = 1, last: int | None = None) -> SignedSegment:
        last = len(self.records) if last is None else last
        run = tuple(self.records[first - 1 : last])
        return self.sign(
            Segment(self.device, self.epoch, first, self.links[first - 1], self.links[last], run, self.lease)
        )

    def heartbeat(self) -> SignedSegment:
        return self.segment(len(self.records) + 1)

    def sign(self, segment: Segment) -> SignedSegment:
        return SignedSegment.seal(segment.to_bytes(), self.key)

    def copy(self) -> "Box":
        """The same box again, as from a backup or a cloned disk."""
        return replace(self, records=list(self.records), links=list(self.links))


def make_customer(node: Node, id: str = "sharma") -> str:
    with node.database.transaction() as connection:
        return customers.add(connection, id, "Sharma Store", node.clock.wall_ms()).id


def make_box(node: Node, customer: str, seed: int = 1) -> Box:
    """A box enrolled with this customer, which exists."""
    dice = random.Random(seed)
    device, key = dice.randbytes(16), Ed25519PrivateKey.from_private_bytes(dice.randbytes(32))
    return join(node, customer, device, key)


def join(node: Node, customer: str, device: bytes, key: Ed25519PrivateKey) -> Box:
    with node.database.transaction() as connection:
        code = codes.issue(connection, customer, node.clock.wall_ms(), node.random)
    enrolment = enrol(node, code, device, key.public_key().public_bytes_raw())
    lease = make_id(node.key, device, enrolment.epoch, BOOK.digest, node.random)  # as of an answer long ago
    return Box(device, key, enrolment.epoch, enrolment.customer, lease)


def send(node: Node, segment: SignedSegment) -> Receipt:
    """Hands a segment in, checks the node's signature, and returns what it says."""
    signed = ingest(node, segment)
    signed.verify(node.key.public_key().public_bytes_raw())
    return Receipt.from_bytes(signed.payload)


def pay(node: Node, customer: str, paise: int, utr: str) -> None:
    """Pays into the standing top-up."""
    with node.database.transaction() as connection:
        customers.lock(connection, customer)
        reference = topups.standing(connection, customer, node.clock.wall_ms(), node.random).reference
        topups.confirm(connection, reference, utr, paise, now_ms=node.clock.wall_ms(), random=node.random)


def count(node: Node, query: str) -> int:
    with node.database.transaction() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def balances(node: Node) -> tuple[int, int, int]:
    """Debits, credits and drift of all accounts."""
    from sync.node.accounts import trial_balance

    with node.database.snapshot() as connection:
        totals = trial_balance(connection)
    return (
        sum(total.debits for total in totals),
        sum(total.credits for total in totals),
        sum(abs(total.drift) for total in totals),
    )
