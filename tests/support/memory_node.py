"""A node in memory that keeps the protocol: takes each record once, answers gaps and forks, signs receipts."""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync import record
from sync.errors import Conflict, Gap, Refused
from sync.identity import Enrolment
from sync.price import cost, default_book
from sync.record import FIRST_LINK
from sync.segment import Head, Lease, Receipt, Segment, SignedReceipt, SignedSegment, TopUp, verify_chain
from tests.support.held_clock import HeldClock


class MemoryNode:
    """One device, one epoch. `before` and `after` are called around each segment taken and may raise."""

    def __init__(self, public_key: bytes, clock: HeldClock, wallet: int = 500_000_000) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(b"n" * 32)
        self.public_key = public_key
        self.clock = clock
        self.wallet = wallet  # micro-rupees
        self.records: list[bytes] = []
        self.links = [FIRST_LINK]
        self.segments: list[Segment] = []
        self.answers: list[SignedReceipt] = []
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
        self.before()
        signed.verify(self.public_key)
        segment = Segment.from_bytes(signed.payload)
        self.segments.append(segment)
        if segment.first > len(self.records) + 1:
            raise Gap(Head(len(self.records), self.links[-1]))
        new = verify_chain(segment)[len(self.records) + 1 - segment.first :]
        known = self.records[segment.first - 1 : segment.last]
        if self.links[segment.first - 1] != segment.link_before or tuple(known) != segment.records[: len(known)]:
            raise Conflict("fork")
        for one in new:
            self.wallet -= cost(default_book(), one.draft.meter, one.draft.units)
            self.records.append(record.encode(one))
            self.links.append(record.link(self.links[-1], self.records[-1]))
        answer = self.sign(self.receipt(segment))
        self.after()
        return answer

    def receipt(self, segment: Segment) -> Receipt:
        acked, now = len(self.records), self.clock.wall_ms()
        lease = Lease(bytes(16), segment.epoch, acked, max(0, self.wallet), 0, now + 72 * 3600_000, now)
        topup = TopUp("NK1", 0, "upi://pay?pa=shop@bank&tr=NK1", "open")
        book = default_book().to_json()
        return Receipt(segment.device, segment.epoch, acked, self.links[-1], now, self.wallet, lease, book, topup)

    def sign(self, receipt: Receipt) -> SignedReceipt:
        self.answers.append(SignedReceipt.seal(receipt.to_bytes(), self.key))
        return self.answers[-1]

    async def enrol(self, code: str, device: bytes, public_key: bytes) -> Enrolment:
        if code != "GOOD-CODE":
            raise Refused("bad_code")
        self.public_key = public_key
        return Enrolment("http://127.0.0.1:1", self.key.public_key().public_bytes_raw().hex(), "shop", 1)

    async def request_topup(self, amount_paise: int, request_id: str) -> TopUp:
        return TopUp(request_id, amount_paise, f"upi://pay?tr={request_id}", "open")

    async def find_topup(self, reference: str) -> TopUp:
        return TopUp(reference, 0, f"upi://pay?tr={reference}", "open")
